"""What serves, put together as the daemon does it. What it does at a signal is seen in `test_server`."""

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from rekeyd.front import Front
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.system.sockets import Sockets, bind, sockets_of
from rekeyd.telemetry.lines import to_json
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.report import Listener
from rekeyd.telemetry.sink import Sink
from rekeyd.trust.generation import Generation
from rekeyd.upstream.pool import Pool
from support.generations import API_KEY, Site
from support.grpc_upstream import grpc_upstream
from support.live import Connection


class Place:
    """A front with its first generation published, and not open yet."""

    def __init__(self, folder: Path, sockets: Sockets, **sections: Mapping[str, Any]) -> None:
        self.site = Site(folder)
        self.site.configure(**sections)
        self.current = Current()
        self.number = 0
        self.publish()
        assert self.current.generation is not None
        self.sink = Sink(os.open(os.devnull, os.O_WRONLY))
        self.logs = Logs(render=to_json, level="info", generation=lambda: self.number, sink=self.sink)
        self.front = Front(
            self.current.generation.settings, current=self.current, logs=self.logs, sockets=sockets
        )

    def publish(self) -> None:
        self.number += 1
        self.current.publish(serving_of(self.site.disk.load().generation(self.number)))

    async def close(self) -> None:
        self.front.close()
        await self.front.drain(0)
        await self.front.end()
        self.sink.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(tmp_path, Sockets())
    yield place
    await place.close()


async def test_it_serves_on_a_socket_that_was_handed_over(tmp_path: Path) -> None:
    with bind("127.0.0.1", 0) as held:
        place = Place(tmp_path, sockets_of([("http", os.dup(held.fileno()))]))
        await place.front.open()
        host, port = held.getsockname()
        assert place.front.listeners == [Listener("http", host, port, tls=True)]
        async with Connection.to(port, place.site.authority) as client:
            assert (await client.ask(key=API_KEY)).status == 200
        await place.close()
        assert held.fileno() > 0, "the one who handed it over still has it"


async def test_what_is_closed_while_it_opens_takes_no_connections(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools, closed = place.front._pools, asyncio.Event()
    pool_for = pools.pool_for

    async def slow(generation: Generation) -> Pool:
        await closed.wait()
        return await pool_for(generation)

    monkeypatch.setattr(pools, "pool_for", slow)
    opening = asyncio.create_task(place.front.open())
    await asyncio.sleep(0)
    place.front.close()
    closed.set()
    await opening
    assert place.front.own_doors == {}


async def test_its_report_tells_connections_by_generation_and_what_is_reachable(place: Place) -> None:
    await place.front.open()
    async with Connection.to(place.front.listeners[0].port, place.site.authority) as client:
        await client.ask(key=API_KEY)
        place.site.rotate()
        place.publish()
        report = await place.front.report()
    assert report.connections == {1: 1}
    assert report.checks == {"upstream": True, "certificate": True}
    assert (report.cluster, report.grpc_health) == (None, None)


async def test_it_proves_itself_through_its_own_doors(place: Place) -> None:
    await place.front.open()
    serving = place.current.serving
    assert serving is not None
    assert await place.front.verify(serving) is None
    place.site.rotate()
    other = serving_of(place.site.disk.load().generation(2))
    shown = serving.generation.certificates[0].leaf.sha256
    assert await place.front.verify(other) == f"it showed the certificate {shown}"


async def test_where_one_listener_can_not_be_had_none_is_open(tmp_path: Path) -> None:
    async with grpc_upstream() as upstream:
        with bind("127.0.0.1", 0) as taken:
            place = Place(
                tmp_path,
                Sockets(),
                service={"grpc_port": taken.getsockname()[1]},
                upstream={"grpc": upstream.address},
            )
            with pytest.raises(OSError, match="Address already in use"):
                await place.front.open()
        (listener,) = place.front._sockets.given.values()
        assert listener.fileno() == -1, "that of HTTP is closed again"
        await place.close()


async def test_a_connection_that_comes_while_it_drains_is_answered_and_the_next_is_not(place: Place) -> None:
    await place.front.open()
    port = place.front.listeners[0].port
    async with Connection.to(port, place.site.authority) as client:
        place.front.close()
        assert (await client.ask(key=API_KEY)).status == 200
    with pytest.raises(ConnectionRefusedError):
        async with Connection.to(port, place.site.authority):
            pytest.fail("a closed door let somebody in")
