"""Two workers under all kinds of load at once, while certificates change and workers are killed.

Whoever is on a worker that is killed loses that connection and nothing more. Every other request, upload,
WebSocket and call is answered, and memory stays what it was.
"""

import asyncio
import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
from aiohttp import WSMsgType, web

from conftest import StartDaemon
from rekeyd.system.admin_client import ask
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.grpc_upstream import channel, echo, grpc_upstream
from support.live import Connection, live_site, measured, upstream
from support.streams import WebSocket
from support.waiting import eventually

SHORT, LONG = 8, 600  # seconds
BODY = bytes(300_000)
LOST_WITH_A_WORKER = (OSError, EOFError, TimeoutError, grpc.aio.AioRpcError)
JUST_AFTER = 3.0
"""Seconds after a kill in which a connection may turn out to be lost."""


async def service(request: web.Request) -> web.StreamResponse:
    if request.headers.get("Upgrade", "").lower() == "websocket":
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        async for message in socket:
            if message.type is WSMsgType.TEXT:
                await socket.send_str(message.data)
        return socket
    return web.json_response({"size": len(await request.read())})


class Load:
    """All kinds of clients at once. What fails and should not is in `failures`."""

    def __init__(self, daemon: Daemon, site: Site, calls: grpc.aio.Channel) -> None:
        self._daemon, self._site, self._calls = daemon, site, calls
        self.done: Counter[str] = Counter()
        self.lost = 0
        self.failures: list[str] = []
        self.killed_at = 0.0
        self._over = asyncio.Event()

    async def run(self) -> None:
        kinds = [self._asks, self._asks, self._connects, self._uploads, self._talks, self._calls_out]
        await asyncio.gather(*(self._again(kind) for kind in kinds))

    def stop(self) -> None:
        self._over.set()

    async def _again(self, work: Callable[[], Awaitable[None]]) -> None:
        while not self._over.is_set():
            try:
                await work()
            except LOST_WITH_A_WORKER as error:
                self._note(error)
            except AssertionError as error:
                self.failures.append(f"{work.__name__}: {error}")

    def _note(self, error: BaseException) -> None:
        if time.monotonic() > self.killed_at + JUST_AFTER or isinstance(error, ConnectionRefusedError):
            self.failures.append(f"{type(error).__name__}: {error}")
        else:
            self.lost += 1

    async def _asks(self) -> None:
        """On one connection."""
        async with Connection.to(self._daemon, self._site.authority) as client:
            while not self._over.is_set():
                assert (await client.ask(key=API_KEY)).status == 200
                self.done["requests"] += 1
                await asyncio.sleep(0.005)

    async def _connects(self) -> None:
        async with Connection.to(self._daemon, self._site.authority) as client:
            assert (await client.ask(key=API_KEY)).status == 200
        async with Connection.to(self._daemon, self._site.authority) as client:
            assert (await client.ask(key="a-wrong-key")).status == 401
        self.done["connections"] += 2

    async def _uploads(self) -> None:
        async with Connection.to(self._daemon, self._site.authority) as client:
            answer = await client.ask("/upload", method="PUT", key=API_KEY, body=BODY)
            assert answer.json() == {"size": len(BODY)}
        self.done["uploads"] += 1

    async def _talks(self) -> None:
        async with WebSocket.to(self._daemon, self._site.authority) as socket:
            for _ in range(20):
                assert await socket.echo("hello")
                await asyncio.sleep(0.01)
        self.done["websockets"] += 1

    async def _calls_out(self) -> None:
        assert await echo(self._calls, b"x" * 1000) == b"x" * 1000
        self.done["calls"] += 1
        await asyncio.sleep(0.005)


async def workers_of(daemon: Daemon) -> list[int]:
    _, status = await asyncio.to_thread(ask, Path(daemon.started["admin"]), "GET", "/status")
    return [worker["pid"] for worker in status["workers"]]


def memory_of(pid: int) -> int:
    """Bytes that are resident."""
    fields = Path(f"/proc/{pid}/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGESIZE")


async def disturb(daemon: Daemon, site: Site, load: Load, until: float) -> None:
    """A rotation each second or so, and now and then a worker less."""
    chance = random.Random(7)  # noqa: S311 - so that a run can be repeated
    kills = 0
    while time.monotonic() < until:
        since = daemon.mark()
        site.rotate()
        daemon.signal(signal.SIGHUP)
        await daemon.event("reload.applied", since=since, timeout=30)
        if chance.random() < 0.1 or not kills:
            kills += 1
            load.killed_at = time.monotonic()
            os.kill(chance.choice(await workers_of(daemon)), signal.SIGKILL)
            load.killed_at = time.monotonic()
            await daemon.several(2 + kills, "worker.started", timeout=60)
            load.killed_at = time.monotonic()  # a request may have waited for as long
        await asyncio.sleep(1)
    measured("workers killed", kills)


@pytest.mark.parametrize(
    "seconds", [SHORT, pytest.param(LONG, marks=[pytest.mark.soak, pytest.mark.timeout(LONG + 200)])]
)
async def test_two_workers_under_everything_at_once(
    start_daemon: StartDaemon, tmp_path: Path, seconds: int
) -> None:
    async with upstream(service) as http, grpc_upstream() as calls:
        site = live_site(
            tmp_path,
            service={"workers": 2, "grpc_port": 0},
            upstream={"http": http, "grpc": calls.address},
            tls={"watch": False},
            access={"failures_per_minute": 1_000_000},
            logging={"decisions": "denied"},
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            load = Load(daemon, site, client)
            running = asyncio.create_task(load.run())
            end = time.monotonic() + seconds
            try:
                await disturb(daemon, site, load, end - seconds * 2 / 3)
                warm = memory_of(daemon.pid)
                await disturb(daemon, site, load, end)
            finally:
                load.stop()
                with contextlib.suppress(asyncio.CancelledError):
                    await running
        assert load.failures == []
        assert all(load.done[kind] for kind in ("requests", "connections", "uploads", "websockets", "calls"))
        await _stays_flat(daemon, warm, long=seconds == LONG)
        measured("done", dict(load.done))
        measured("lost with a worker", load.lost)
    assert daemon.told("reload.refused") == []


async def _stays_flat(daemon: Daemon, warm: int, *, long: bool) -> None:
    """The supervisor lives all the time. Workers are younger, each as old as the last kill."""
    now = memory_of(daemon.pid)
    workers: Any = await workers_of(daemon)
    measured("MiB", {"warm": warm >> 20, "now": now >> 20, "workers": [memory_of(p) >> 20 for p in workers]})
    if long:
        assert now < warm * 1.15
    await eventually(lambda: all(Path(f"/proc/{pid}").exists() for pid in workers), what="both workers")
