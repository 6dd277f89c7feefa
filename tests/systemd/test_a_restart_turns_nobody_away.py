"""With its sockets at systemd a service may be restarted, or be without a network, and no client notices."""

import asyncio
import os
import socket
from collections.abc import Iterator
from itertools import count

import pytest
from aiohttp import web

from support.live import upstream
from support.machine import ON_THE_OLDER, Machine
from support.service import Service

SOCKETS = ("rekeyd.socket", "rekeyd-grpc.socket", "rekeyd-peer.socket")
OF_THE_UNITS = {"http": 6333, "grpc": 6334, "p2p": 6335}
OTHERS = {"http": 7333, "grpc": 7334, "p2p": 7335}
CLIENTS = 4
RESTARTS = 3


class Crowd:
    """Clients that come all the time, one connection and one question each, until they are told to stop."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._stop = asyncio.Event()
        self.answered = 0
        self._more = asyncio.Condition()

    async def come(self) -> None:
        while not self._stop.is_set():
            async with self._service.connection() as client:
                assert (await client.ask()).status == 200
            async with self._more:
                self.answered += 1
                self._more.notify_all()

    async def has_more(self) -> None:
        """Wait until each could have come once more."""
        before = self.answered
        async with self._more:
            await self._more.wait_for(lambda: self.answered >= before + CLIENTS)

    def leave(self) -> None:
        self._stop.set()


async def test_every_connection_is_made_and_answered_while_the_service_is_restarted(
    service: Service, machine: Machine
) -> None:
    await machine.ran("systemctl", "start", "rekeyd.socket")
    await service.systemctl("start")
    crowd, pids = Crowd(service), {service.pid}

    async with asyncio.TaskGroup() as clients:
        for _ in range(CLIENTS):
            clients.create_task(crowd.come())
        for _ in range(RESTARTS):
            await crowd.has_more()
            await service.systemctl("restart")
            pids.add(service.pid)
        await crowd.has_more()
        crowd.leave()

    assert len(pids) == RESTARTS + 1
    assert len(service.events("daemon.stopped")) == RESTARTS
    assert not service.events("daemon.cut")


@ON_THE_OLDER
async def test_who_comes_first_starts_the_service(service: Service, machine: Machine) -> None:
    await machine.ran("systemctl", "start", "rekeyd.socket")
    assert service.now("ActiveState") == "inactive"

    async with service.connection() as client:
        assert (await client.ask()).status == 200

    assert service.now("ActiveState") == "active"


@ON_THE_OLDER
async def test_each_socket_unit_is_taken_for_the_listener_that_it_is_for(
    service: Service, machine: Machine
) -> None:
    site = service.site
    site.authority.write(site.folder / "ca.crt").chmod(0o644)
    site.rotate(peer=True)
    p2p = {"enable_tls": True, "upstream": "127.0.0.1:9", "allowed_peers": ["dns:*.test"]}
    site.configure(
        service={"host": "127.0.0.1", "http_port": OTHERS["http"], "grpc_port": OTHERS["grpc"]},
        tls={"ca_cert": f"{site.folder.name}/ca.crt"},
        upstream={"grpc": "http://127.0.0.1:9"},
        cluster={"p2p": {**p2p, "port": OTHERS["p2p"]}},
    )
    await machine.ran("systemctl", "start", *SOCKETS)
    await service.systemctl("start")

    started = await service.event("daemon.started")
    assert {each["name"]: each["port"] for each in started["listeners"]} == OF_THE_UNITS
    assert not service.events("socket.unused")


@pytest.fixture
def service_of_files(machine: Machine) -> Iterator[socket.socket]:
    """Where a service listens that has no port, but a path that everybody may write to."""
    path = machine.path("/run/upstream.sock")
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(os.fspath(path))
        path.chmod(0o777)
        listening.listen()
        yield listening
    path.unlink()


async def test_with_sockets_alone_it_serves_and_reloads_without_any_network(
    service: Service, service_of_files: socket.socket
) -> None:
    numbers = count()

    async def answer(_: web.Request) -> web.Response:
        return web.json_response(next(numbers))

    service.site.configure(upstream={"http": "unix:/run/upstream.sock"})
    await service.drop_in("sockets-only.conf")
    async with upstream(answer, service_of_files):
        await service.systemctl("start")
        async with service.connection() as client:
            assert (await client.ask()).json() == 0

        leaf = service.site.rotate()
        await service.systemctl("reload")
        async with service.connection() as client:
            assert client.serial == leaf.serial
            assert (await client.ask()).json() == 1

    assert await service.event("probe.unproven"), "it can't come in through its own listener to look at it"
    assert await service.event("watchdog.blind")
    assert service.now("ActiveState") == "active"
