"""A client that is slow, or stops, or leaves, while it sends a body or takes one."""

import asyncio
import time
from pathlib import Path

import pytest

from support.gateway import API_KEY, stage
from support.waiting import eventually
from support.wire import END_OF_HEAD, ok, request

UPLOAD = request("PUT", "/collections/a", "Content-Length: 100", key=API_KEY)
QUICK = {"stall_timeout": 0.3}


async def test_a_client_that_stalls_in_its_body_is_gone_and_so_is_its_request(tmp_path: Path) -> None:
    async with stage(tmp_path, service=QUICK) as scene:
        client = await scene.client()
        client.send(UPLOAD, b"half a body")
        link, _ = await scene.upstream.request()
        began = time.monotonic()
        assert await client.rest() == b""
        assert 0.2 < time.monotonic() - began < 2
        await link.closed()
        record = await scene.record()
        assert (record["event"], record["failure"]) == ("auth.allowed", "the client stalled in its body")


async def test_a_client_that_stalls_before_its_body_is_gone_too(tmp_path: Path) -> None:
    async with stage(tmp_path, service=QUICK) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY))
        link, _ = await scene.upstream.request()
        await link.closed()
        assert (await scene.record())["failure"] == "the client stalled in its body"


async def test_a_client_that_sends_a_byte_now_and_then_is_served(tmp_path: Path) -> None:
    async with stage(tmp_path, service=QUICK) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Content-Length: 6", key=API_KEY))
        link, _ = await scene.upstream.request()
        for _ in range(6):
            await asyncio.sleep(0.15)
            client.send(b"x")
        assert await link.take(6) == b"x" * 6
        link.send(ok())
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_stops_reading_is_cut_off_and_can_tell(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, tls=tls, service=QUICK) as scene:
        client = await scene.client(buffer=4096)
        client.transport.pause_reading()
        client.send(request("GET", "/collections", key=API_KEY, version="1.0"))
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 3_000_000)
        record = await scene.record()
        assert (record["status"], record["failure"]) == (200, "the client stopped reading")
        await eventually(lambda: scene.door.connections == 0)
        await link.closed()
        client.transport.resume_reading()
        await client.closed()
        assert isinstance(client.error, ConnectionResetError)


async def test_a_client_that_reads_slowly_all_the_while_is_served(tmp_path: Path) -> None:
    """The kernel would take megabytes at a time, if it were let: the client would seem to take nothing."""
    size = 3_000_000
    async with stage(tmp_path, service={"stall_timeout": 0.5}) as scene:
        client = await scene.client(buffer=65536)
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(ok(b"x" * size))
        began = time.monotonic()
        while len(client.received) < size:
            client.transport.pause_reading()
            await asyncio.sleep(0.02)
            client.transport.resume_reading()
            before = len(client.received)
            await client.wait_for(lambda: len(client.received) > before or client.ended, "some bytes")  # noqa: B023
            assert not client.ended
        assert time.monotonic() - began > 0.6
        assert (await client.answer()).whole


@pytest.mark.parametrize("tls", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_in_its_body_cancels_the_request_at_once(
    tmp_path: Path, tls: bool, how: str
) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        client = await scene.client()
        client.send(UPLOAD, b"half a body")
        link, _ = await scene.upstream.request()
        await link.take(11)
        getattr(client, how)()
        async with asyncio.timeout(0.5):
            await link.closed()
        assert (await scene.record())["failure"] == "the client left"


async def test_a_client_that_leaves_while_the_upstream_is_connected_to_leaves_no_connection(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        client.reset()
        assert (await scene.record())["failure"] == "the client left"
        await eventually(lambda: all(link.ended for link in scene.upstream.links))


async def test_the_body_of_a_request_is_passed_on_byte_for_byte_however_it_is_cut(tmp_path: Path) -> None:
    body = bytes(range(256)) * 40
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY))
        for at in range(0, len(body), 1000):
            piece = body[at : at + 1000]
            framed = b"%X;a=b\r\n%b\r\n" % (len(piece), piece)
            for byte in range(0, len(framed), 333):
                client.send(framed[byte : byte + 333])
                await asyncio.sleep(0)
        client.send(b"0\r\n\r\n")
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        await link.until(b"\r\n0\r\n\r\n")
        whole = bytes(link.received).split(END_OF_HEAD, 1)[1]
        got = b""
        while whole:
            size, _, whole = whole.partition(b"\r\n")
            got, whole = got + whole[: int(size, 16)], whole[int(size, 16) + 2 :]
        assert got == body
