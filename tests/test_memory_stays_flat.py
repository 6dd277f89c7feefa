"""What rekeyd holds does not grow, neither with rotations nor with the size of what passes through.

The short forms look at descriptors and threads, and at the peak of memory while bodies pass; the long ones
(`make soak`) at memory after a thousand rotations, and at bodies of a GiB.
"""

import asyncio
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from aiohttp import web

from conftest import StartDaemon
from support.daemon import Daemon
from support.generations import API_KEY
from support.live import Connection, Rotator, live_site, measured, trusting, upstream

MIB = 1 << 20
PIECE = bytes(256 * 1024)
MOST_FOR_BODIES = 24 * MIB
"""Far above what a few connections may buffer, and far below any of the bodies."""

soak = pytest.mark.soak


@dataclass(frozen=True)
class Held:
    """What a process holds, `memory` in bytes that are resident."""

    memory: int
    descriptors: int
    threads: int

    @classmethod
    def by(cls, daemon: Daemon) -> "Held":
        return cls(
            _bytes(daemon, "VmRSS"),
            len(list(Path(f"/proc/{daemon.pid}/fd").iterdir())),
            len(list(Path(f"/proc/{daemon.pid}/task").iterdir())),
        )


def _bytes(daemon: Daemon, field: str) -> int:
    for line in Path(f"/proc/{daemon.pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def forget_the_peak(daemon: Daemon) -> int:
    """Begin to measure the peak anew (proc(5), clear_refs); the memory that is held now."""
    Path(f"/proc/{daemon.pid}/clear_refs").write_text("5")
    return _bytes(daemon, "VmRSS")


def growth(daemon: Daemon, before: int) -> int:
    """The highest that memory was above `before`."""
    return _bytes(daemon, "VmHWM") - before


@pytest.mark.parametrize(
    ("rotations", "watch"),
    [
        (60, False),
        pytest.param(1000, False, marks=[soak, pytest.mark.timeout(900)]),
        pytest.param(1000, True, marks=[soak, pytest.mark.timeout(900)]),
    ],
    ids=["short", "by signals", "by the watch"],
)
async def test_rotations_leave_nothing_behind(
    start_daemon: StartDaemon, tmp_path: Path, rotations: int, watch: bool
) -> None:
    site = live_site(tmp_path)
    rotator = Rotator(site, tls={"watch": watch})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    trust = trusting(site.authority)
    early: Held | None = None
    for number in range(rotations):
        since = daemon.mark()
        leaf = rotator.rotate()
        if not watch:
            daemon.signal(signal.SIGHUP)
        await daemon.event("reload.applied", since=since)
        async with Connection.to(daemon, trust) as client:
            assert client.serial == leaf.serial
            assert (await client.ask()).status == 200
        if number + 1 == rotations // 10:
            early = Held.by(daemon)
    late = Held.by(daemon)
    assert early is not None
    measured("held_early_and_late", (early, late))
    assert late.descriptors <= early.descriptors + 2, "a connection may just be closing"
    assert late.threads <= early.threads + 2, "the pool of threads fills up to its size"
    if rotations >= 1000:
        assert late.memory <= early.memory * 1.1


class Streamer:
    """Swallows what is sent to it and counts it; gives as much as is asked for."""

    def __init__(self) -> None:
        self.given = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if request.method == "PUT":
            received = 0
            async for piece in request.content.iter_any():
                received += len(piece)
            return web.json_response({"received": received})
        response = web.StreamResponse()
        if "length" in request.query:
            response.content_length = int(request.query["length"])
        await response.prepare(request)
        for _ in range(0, int(request.query["size"]), len(PIECE)):
            await response.write(PIECE)
            self.given += len(PIECE)
        return response


@pytest.mark.parametrize("megabytes", [64, pytest.param(1024, marks=[soak, pytest.mark.timeout(600)])])
async def test_bodies_pass_through_without_being_kept(
    start_daemon: StartDaemon, tmp_path: Path, megabytes: int
) -> None:
    size = megabytes * MIB
    streamer = Streamer()
    async with upstream(streamer.answer) as address:
        site = live_site(tmp_path, service={"max_request_size_mb": megabytes}, upstream={"http": address})
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with Connection.to(daemon, site.authority) as client:
            assert (await client.ask(method="PUT", body=PIECE)).json() == {"received": len(PIECE)}
            grown = {}
            for framing in ("chunked", "length"):
                before = forget_the_peak(daemon)
                assert await uploaded(client, size, framing) == size
                grown[f"up, {framing}"] = growth(daemon, before)
                before = forget_the_peak(daemon)
                assert await downloaded(client, size, framing) == size
                grown[f"down, {framing}"] = growth(daemon, before)
    measured("growth", grown)
    assert max(grown.values()) < MOST_FOR_BODIES


async def uploaded(client: Connection, size: int, framing: str) -> int:
    """Send so many bytes; how many the upstream says that it got."""
    header = {"Transfer-Encoding": "chunked"} if framing == "chunked" else {"Content-Length": str(size)}
    await client.send("/up", method="PUT", headers=header)
    piece = b"%x\r\n%b\r\n" % (len(PIECE), PIECE) if framing == "chunked" else PIECE
    for _ in range(0, size, len(PIECE)):
        client.writer.write(piece)
        await client.writer.drain()
    if framing == "chunked":
        client.writer.write(b"0\r\n\r\n")
    answer = await client.answer()
    assert answer.status == 200
    return int(answer.json()["received"])


async def downloaded(client: Connection, size: int, framing: str) -> int:
    """Ask for so many bytes; how many came."""
    await client.send(f"/down?size={size}" + (f"&length={size}" if framing == "length" else ""))
    status, fields = await client.head()
    assert status == 200
    assert ("content-length" in fields) is (framing == "length")
    pieces = client.chunks() if framing == "chunked" else _pieces(client, size)
    return sum([len(piece) async for piece in pieces])


async def _pieces(client: Connection, size: int) -> AsyncIterator[bytes]:
    while size:
        piece = await client.reader.read(min(size, len(PIECE)))
        assert piece
        size -= len(piece)
        yield piece


async def test_a_client_that_does_not_read_holds_the_upstream_back(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    size, streamer = 512 * MIB, Streamer()
    async with upstream(streamer.answer) as address:
        site = live_site(tmp_path, upstream={"http": address})
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with Connection.to(daemon, site.authority) as client:
            assert (await client.ask("/down?size=0")).status == 200
            before = forget_the_peak(daemon)
            await client.send(f"/down?size={size}")
            assert (await client.head())[0] == 200
            given = -1
            while given != streamer.given:
                given = streamer.given
                await asyncio.sleep(0.5)
            measured("given_and_growth", (given, growth(daemon, before)))
            assert given < size / 4, "the rest is in the buffers of the kernel and of both clients"
            assert growth(daemon, before) < MOST_FOR_BODIES
        await daemon.event("auth.allowed", failure="the client left")
