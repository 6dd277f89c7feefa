"""Limits on what one client may hold, and what is answered to what is no HTTP."""

import asyncio
import contextlib
import select
import ssl
import time
from pathlib import Path

import pytest

from rekeyd.system import tls_stream
from support.gateway import API_KEY, READ_KEY, Scene, stage
from support.waiting import eventually
from support.wire import answering, ok, request

QUICK = {"header_timeout": 0.2}


def buffered(scene: Scene) -> int:
    """Bytes that wait in the gateway for its only client."""
    (protocol,) = scene.gateway._guests.open
    wire = protocol.wire
    assert wire is not None
    return wire.get_write_buffer_size()


# Time.


@pytest.mark.parametrize("tls", [False, True])
async def test_a_client_that_says_nothing_is_closed_after_header_timeout(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, tls=tls, service=QUICK) as scene:
        client, began = await scene.client(), time.monotonic()
        assert await client.rest() == b""
        assert 0.1 < time.monotonic() - began < 2
        assert scene.records == []


async def test_half_a_head_is_408_after_header_timeout_and_has_its_line(tmp_path: Path) -> None:
    async with stage(tmp_path, service=QUICK) as scene:
        client = await scene.client()
        client.send(b"GET / HTTP/1.1\r\nHost: a\r\n")
        answer = await client.answer()
        assert (answer.status, answer.field("connection")) == (408, "close")
        await client.closed()
        record = await scene.record()
        assert (record["event"], record["reason"], record["status"]) == ("auth.denied", "malformed", 408)


@pytest.mark.parametrize("first", [True, False])
async def test_a_head_that_trickles_in_is_408_after_header_timeout(tmp_path: Path, first: bool) -> None:
    async with stage(tmp_path, answering(ok()), service=QUICK) as scene:
        client = await scene.client()
        if not first:
            client.send(request(key=API_KEY))
            await client.answer()
            await scene.record()
        began = time.monotonic()
        for byte in request(key=API_KEY):
            client.send(bytes([byte]))
            await asyncio.sleep(0.02)
            if client.ended:
                break
        assert time.monotonic() - began < 1
        assert (await client.answer()).status == 408
        assert (await scene.record())["status"] == 408


async def test_a_head_that_trickles_in_within_header_timeout_is_served(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        for byte in request(key=API_KEY):
            client.send(bytes([byte]))
            await asyncio.sleep(0)
        assert (await client.answer()).status == 200


async def test_an_idle_connection_is_closed_after_idle_timeout(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), service={"idle_timeout": 0.2}) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        await client.answer()
        began = time.monotonic()
        assert await client.rest() == b""
        assert 0.1 < time.monotonic() - began < 2


async def test_a_head_that_has_begun_is_not_idle(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), service={"idle_timeout": 0.2}) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        await client.answer()
        data = request(key=API_KEY)
        client.send(data[:20])
        await asyncio.sleep(0.4)
        client.send(data[20:])
        assert (await client.answer()).status == 200


async def test_a_long_answer_outlives_idle_and_header_timeout(tmp_path: Path) -> None:
    async with stage(tmp_path, service={**QUICK, "idle_timeout": 0.2}) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        await asyncio.sleep(0.5)
        link.send(ok())
        assert (await client.answer()).status == 200


# Size.


@pytest.mark.parametrize(
    "fields",
    [
        pytest.param([f"X: {'a' * 40_000}"], id="one field"),
        pytest.param([f"X-{n}: {'a' * 1000}" for n in range(40)], id="many fields"),
    ],
)
async def test_a_head_over_max_header_size_is_431_and_has_its_line(tmp_path: Path, fields: list[str]) -> None:
    async with stage(tmp_path, answering(ok()), service={"max_header_size_kb": 32}) as scene:
        answer = await scene.ask(request("GET", "/collections", *fields, key=API_KEY))
        assert (answer.status, answer.field("connection")) == (431, "close")
        record = await scene.record()
        assert (record["status"], record["reason"]) == (431, "malformed")
        assert scene.upstream.links == []


async def test_a_head_over_max_header_size_is_431_behind_another_request_too(tmp_path: Path) -> None:
    fields = [f"X-{n}: {'a' * 1000}" for n in range(40)]
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY), request("GET", "/collections", *fields, key=API_KEY))
        link, _ = await scene.upstream.request()
        await asyncio.sleep(0.05)
        link.send(ok())
        assert [(await client.answer()).status for _ in range(2)] == [200, 431]
        assert [r["status"] for r in await scene.several(2)] == [200, 431]


async def test_a_head_of_almost_max_header_size_is_served(tmp_path: Path) -> None:
    fields = [f"X-{n}: {'a' * 1000}" for n in range(31)]
    async with stage(tmp_path, answering(ok()), service={"max_header_size_kb": 32}) as scene:
        assert (await scene.ask(request("GET", "/collections", *fields, key=API_KEY))).status == 200


async def test_a_long_target_is_431(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        assert (await scene.ask(request("GET", f"/{'a' * 40_000}", key=API_KEY))).status == 431
        assert (await scene.record())["status"] == 431


async def test_more_fields_than_anybody_needs_are_refused(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        fields = [f"X-{n}: a" for n in range(200)]
        assert (await scene.ask(request("GET", "/collections", *fields, key=API_KEY))).status == 400
        assert (await scene.record())["reason"] == "malformed"


async def test_denied_requests_of_a_client_that_does_not_read_do_not_pile_up(tmp_path: Path) -> None:
    async with stage(tmp_path, service={"stall_timeout": 0.5}) as scene:
        client = await scene.client(buffer=4096)
        client.transport.pause_reading()
        most = 0
        client.send(request() * 20_000)
        await eventually(lambda: scene.gateway._guests.open)
        while scene.gateway._guests.open:
            most = max(most, buffered(scene))
            await asyncio.sleep(0)
        await eventually(lambda: scene.door.connections == 0, what="the client to be cut off")
        assert 0 < most < 256 * 1024
        scene.records.clear()


@pytest.mark.parametrize("wish", [[], ["Connection: close"]])
async def test_a_client_that_does_not_read_its_last_answer_does_not_hold_its_place(
    tmp_path: Path, wish: list[str]
) -> None:
    """Less than HIGH_WATER waits, so that no writer is held up."""
    async with stage(tmp_path, service={"idle_timeout": 0.3, "stall_timeout": 0.3}) as scene:
        client = await scene.client(buffer=4096)
        client.transport.pause_reading()
        client.send(request("GET", "/collections", *wish, key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        while buffered(scene) == 0:
            link.send(b"4000\r\n", b"x" * 0x4000, b"\r\n")
            await asyncio.sleep(0)
        link.send(b"0\r\n\r\n")
        await eventually(lambda: scene.door.connections == 0, timeout=3, what="the client to be cut off")


# What comes behind one another.


async def test_pipelined_requests_are_answered_in_their_order(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(*(request("GET", f"/collections/{n}", key=API_KEY) for n in range(3)), request())
        link = await scene.upstream.link()
        for number in range(3):
            assert f"/collections/{number} ".encode() in await link.until(b"\r\n\r\n")
            link.send(ok(b"%d" % number))
        assert [(await client.answer()).body for _ in range(3)] == [b"0", b"1", b"2"]
        assert (await client.answer()).status == 401
        await scene.several(4)


async def test_many_pipelined_requests_are_all_answered(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        client.send(request(key=READ_KEY) * 300)
        assert [(await client.answer()).status for _ in range(300)] == [200] * 300
        await scene.several(300)


async def test_garbage_behind_a_request_does_not_spoil_its_answer(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", key=API_KEY, body=b"{}"))
        link, _ = await scene.upstream.request()
        assert await link.take(2) == b"{}"
        client.send(b"garbage\r\n\r\n")
        await asyncio.sleep(0.05)
        link.send(ok())
        assert [(await client.answer()).status for _ in range(2)] == [200, 400]
        await client.closed()
        assert [r["status"] for r in await scene.several(2)] == [200, 400]


@pytest.mark.parametrize(
    ("version", "wish", "persists", "says"),
    [
        ("1.1", [], True, None),
        ("1.1", ["Connection: close"], False, "close"),
        ("1.0", [], False, "close"),
        ("1.0", ["Connection: keep-alive"], True, "keep-alive"),
    ],
)
async def test_a_connection_is_kept_as_its_client_wants(
    tmp_path: Path, version: str, wish: list[str], persists: bool, says: str | None
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        for key in (API_KEY, "wrong"):
            client = await scene.client()
            client.send(request("GET", "/collections", *wish, key=key, version=version))
            answer = await client.answer()
            assert answer.head.startswith(b"HTTP/1.1 ")
            assert answer.field("connection") == says
            if persists:
                client.send(request(key=API_KEY))
                assert (await client.answer()).status == 200
            else:
                assert await client.rest() == b""


# Bodies that are no HTTP.


@pytest.mark.parametrize(
    "rest",
    [
        pytest.param(b"zz\r\n", id="no size"),
        pytest.param(b"5\r\nhello!!\r\n", id="longer than its size"),
        pytest.param(b"5\nhello\r\n", id="bare LF"),
        pytest.param(b"-1\r\n", id="a negative size"),
        pytest.param(b"fffffffffffffffff\r\n", id="a size beyond all numbers"),
        pytest.param(b"0\r\n" + b"X: y\r\n" * 1000, id="trailers without end"),
        pytest.param(b"0\r\nX: " + b"y" * 100_000, id="a trailer without end"),
        pytest.param(b"0\r\nbad trailer\r\n\r\n", id="a trailer that is none"),
    ],
)
async def test_a_body_that_is_no_http_is_400_at_once_and_the_upstream_sees_no_end(
    tmp_path: Path, rest: bytes
) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY))
        client.send(b"3\r\nabc\r\n")
        link, _ = await scene.upstream.request()
        await link.until(b"3\r\nabc\r\n")
        client.send(rest)
        answer = await client.answer()
        assert (answer.status, answer.field("connection")) == (400, "close")
        await link.closed()
        assert not link.received.endswith(b"0\r\n\r\n")
        record = await scene.record()
        assert (record["event"], record["status"], record["key_id"]) == ("auth.allowed", 400, "api_key")


async def test_a_pipelined_body_that_is_no_http_is_400_when_its_turn_comes(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        client.send(request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY), b"zz\r\n")
        await asyncio.sleep(0.05)
        link.send(ok())
        assert [(await client.answer()).status for _ in range(2)] == [200, 400]
        assert [r["status"] for r in await scene.several(2)] == [200, 400]


async def test_trailers_of_a_request_are_dropped(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY))
        client.send(b"3;ext=1\r\nabc\r\n0\r\napi-key: evil\r\n\r\n")
        link, _ = await scene.upstream.request()
        assert await link.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"
        link.send(ok())
        assert (await client.answer()).status == 200


# Closing.


@pytest.mark.parametrize("pieces", [6, 40])
async def test_a_slow_client_gets_its_last_answer_whole_although_tls_is_shut_down(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pieces: int
) -> None:
    """asyncio gives a TLS connection that is being closed a moment, and drops what it hasn't sent by then.

    A few pieces more than the kernel takes wait where only the transport under TLS knows of them.
    """
    monkeypatch.setattr(tls_stream, "CLOSE_TIMEOUT", 0.2)
    async with stage(tmp_path, tls=True) as scene:
        client = await scene.client(buffer=4096)
        client.transport.pause_reading()
        client.send(request("GET", "/collections", "Connection: close", key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        socket = scene.gateway._guests.open.copy().pop().wire.get_extra_info("socket")  # type: ignore[union-attr]
        sent = 0
        while select.select([], [socket], [], 0)[1]:
            link.send(b"4000\r\n", b"x" * 0x4000, b"\r\n")
            sent += 1
            await asyncio.sleep(0.001)
        link.send(b"4000\r\n%b\r\n" % (b"x" * 0x4000) * pieces, b"0\r\n\r\n")
        await asyncio.sleep(0.6)
        client.transport.resume_reading()
        answer = await client.answer()
        assert (len(answer.body), answer.whole) == ((sent + pieces) * 0x4000, True)
        assert "failure" not in await scene.record()


async def test_a_client_that_ignores_close_notify_is_let_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_stream, "CLOSE_TIMEOUT", 0.2)
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        context = scene.context()
        assert context is not None
        reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        writer.write(outgoing.read())
        incoming.write(await reader.read(65536))
        tls.do_handshake()
        tls.write(request("GET", "/collections", "Connection: close", key=API_KEY))
        writer.write(outgoing.read())
        await eventually(lambda: scene.records)
        await eventually(lambda: scene.door.connections == 0, timeout=2)
        writer.close()
        await scene.record()
