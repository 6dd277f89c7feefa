"""Certificates change and connections are drained under load of gRPC, unary and streaming: no call fails."""

import asyncio
import contextlib
import signal
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from conftest import StartDaemon
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.grpc_upstream import KEY, SERVICE, GrpcUpstream, channel, echo, grpc_upstream
from support.live import live_site, measured, serial_text

UNARY, STREAMING = 4, 2


class Load:
    """Calls without a pause. Whatever fails is in `failures`."""

    def __init__(self, client: grpc.aio.Channel) -> None:
        self._client = client
        self.calls = 0
        self.failures: list[str] = []
        self._over = False

    async def run(self) -> None:
        work = [self._unary() for _ in range(UNARY)] + [self._streaming() for _ in range(STREAMING)]
        await asyncio.gather(*work)

    def stop(self) -> None:
        self._over = True

    async def _unary(self) -> None:
        while not self._over:
            with self._noting():
                assert await echo(self._client, b"x" * 1000) == b"x" * 1000

    async def _streaming(self) -> None:
        while not self._over:
            with self._noting():
                call: Any = self._client.unary_stream(f"/{SERVICE}/Count")
                answers = [m async for m in call(b"50", metadata=KEY, timeout=15)]
                assert len(answers) == 50

    @contextlib.contextmanager
    def _noting(self) -> Any:
        self.calls += 1
        try:
            yield
        except (grpc.aio.AioRpcError, AssertionError) as error:
            self.failures.append(str(error))


@contextlib.asynccontextmanager
async def loaded(
    start_daemon: StartDaemon, folder: Path, **sections: Any
) -> AsyncIterator[tuple[Daemon, Site, Load, GrpcUpstream]]:
    async with grpc_upstream() as upstream:
        site = live_site(
            folder,
            service={"grpc_port": 0},
            upstream={"http": "demo", "grpc": upstream.address},
            tls={"watch": False},
            logging={"decisions": "denied"},
            **sections,
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            load = Load(client)
            running = asyncio.create_task(load.run())
            try:
                yield daemon, site, load, upstream
            finally:
                load.stop()
                await running
        assert load.failures == []
        measured("calls", load.calls)


async def rotate(daemon: Daemon, site: Site) -> None:
    since = daemon.mark()
    leaf = site.rotate()
    daemon.signal(signal.SIGHUP)
    applied = await daemon.event("reload.applied", since=since)
    assert applied["parts"]["server_certificate"]["new"]["serial"] == serial_text(leaf)
    shown = await shown_serial(daemon.port_of("grpc"), site)
    assert shown == leaf.serial


async def shown_serial(port: int, site: Site) -> int:
    """The serial that a new connection for gRPC is shown."""
    context = ssl.create_default_context(cadata=site.authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname="localhost")
    tls = writer.get_extra_info("ssl_object")
    assert tls.selected_alpn_protocol() == "h2"
    serial = int(tls.getpeercert()["serialNumber"], 16)
    writer.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await writer.wait_closed()
    return serial


@pytest.mark.parametrize(
    "rotations", [10, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(600)])]
)
async def test_rotations_under_load(start_daemon: StartDaemon, tmp_path: Path, rotations: int) -> None:
    async with loaded(start_daemon, tmp_path) as (daemon, site, load, _):
        for _ in range(rotations):
            before = load.calls
            await rotate(daemon, site)
            while load.calls < before + 20:  # noqa: ASYNC110 - calls have no event
                await asyncio.sleep(0.01)


@pytest.mark.parametrize("drains", [3, pytest.param(10, marks=[pytest.mark.soak, pytest.mark.timeout(600)])])
async def test_drains_after_rotations_under_load(
    start_daemon: StartDaemon, tmp_path: Path, drains: int
) -> None:
    rules = {"after_rotation": "drain", "drain": 1}
    async with loaded(start_daemon, tmp_path, connections=rules) as (daemon, site, load, upstream):
        for _ in range(drains):
            before = load.calls
            await rotate(daemon, site)
            await asyncio.sleep(1.2)  # the time in which old connections are drained
            assert load.calls > before
        assert upstream.seen
    assert daemon.told("connection.cut") == []


async def test_what_runs_is_answered_before_the_daemon_ends(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    async with grpc_upstream() as upstream:
        site = live_site(
            tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": upstream.address}
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            hold: Any = client.unary_unary(f"/{SERVICE}/Hold")
            held = [asyncio.ensure_future(hold(b"%d" % n, metadata=KEY, timeout=15)) for n in range(10)]
            await upstream.held.wait()
            while len(upstream.seen) < 10:  # noqa: ASYNC110 - calls have no event
                await asyncio.sleep(0.01)
            daemon.signal(signal.SIGTERM)
            await daemon.event("daemon.stopping")
            await asyncio.sleep(0.3)  # in which both GOAWAYs are said
            assert daemon.process.poll() is None
            upstream.release.set()
            assert await asyncio.gather(*held) == [b"%d" % n for n in range(10)]
            assert await daemon.exited() == 0
    assert daemon.told("daemon.cut") == []
