"""One exchange between a client and an upstream that both misbehave, seen from both ends of the wire."""

import asyncio
import contextlib
import socket
from pathlib import Path

import pytest

from rekeyd.upstream.pool import Pool
from support.gateway import API_KEY, Scene, stage
from support.waiting import eventually
from support.wire import END_OF_HEAD, Link, Upstream, answering, ok, request

SSE = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
UNTIL_CLOSE = b"HTTP/1.1 200 OK\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WISH = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
SWITCH = (
    b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Accept: s\r\n\r\n"
)
BOTH = pytest.mark.parametrize("tls", [False, True])


async def asking(scene: Scene, data: bytes) -> tuple[Link, Link, bytes]:
    """A client that has asked, the upstream's end, and the head that came there."""
    client = await scene.client()
    client.send(data)
    link, head = await scene.upstream.request()
    return client, link, head


async def pool_of(scene: Scene) -> Pool:
    generation = scene.current.generation
    assert generation is not None
    return await scene.pools.pool_for(generation)


async def kept(scene: Scene, data: bytes) -> tuple[Link, Link]:
    """A client and an upstream connection that have had one good exchange."""
    client, link, _ = await asking(scene, data)
    link.send(ok())
    assert (await client.answer()).status == 200
    await scene.record()
    return client, link


# Streams.


@BOTH
async def test_a_line_of_a_stream_is_seen_before_the_next_is_sent(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        link.send(SSE)
        assert b"text/event-stream" in await client.until(END_OF_HEAD)
        for line in (b"data: 1\n\n", b"data: 2\n\n"):
            link.send(b"9\r\n", line, b"\r\n")
            assert line in await client.until(line + b"\r\n")


@BOTH
async def test_a_piece_of_an_upload_is_seen_before_the_next_is_sent(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        data = request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY)
        client, link, head = await asking(scene, data)
        assert b"Transfer-Encoding: chunked\r\n" in head
        for piece in (b"3\r\none\r\n", b"3\r\ntwo\r\n"):
            client.send(piece)
            assert await link.until(piece) == piece
        client.send(b"0\r\n\r\n")
        await link.until(b"0\r\n\r\n")
        link.send(ok())
        assert (await client.answer()).status == 200


async def test_an_answer_and_an_upload_can_run_side_by_side(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        data = request("POST", "/collections/a/points/search", "Transfer-Encoding: chunked", key=API_KEY)
        client, link, _ = await asking(scene, data)
        link.send(CHUNKED)
        assert b"Connection: close" in await client.until(END_OF_HEAD)
        for piece in (b"1\r\na\r\n", b"1\r\nb\r\n"):
            client.send(piece)
            link.send(await link.until(piece))
            assert await client.until(piece) == piece
        client.send(b"0\r\n\r\n")
        await link.until(b"0\r\n\r\n")
        link.send(b"0\r\n\r\n")
        assert await client.rest() == b"0\r\n\r\n"
        assert "failure" not in await scene.record()


async def test_an_upload_of_known_length_keeps_it(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        body = b"x" * 300_000
        client, link, head = await asking(scene, request("PUT", "/collections/a", key=API_KEY, body=body))
        assert b"Content-Length: 300000\r\n" in head
        assert b"chunked" not in head
        assert await link.take(len(body)) == body
        link.send(ok())
        assert (await client.answer()).status == 200


async def test_an_upload_without_bytes_keeps_its_length_too(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        data = request("PUT", "/collections/a", "Content-Length: 0", key=API_KEY)
        client, link, head = await asking(scene, data)
        assert b"Content-Length: 0\r\n" in head
        link.send(ok())
        assert (await client.answer()).status == 200


# 100-continue.


async def test_a_client_that_waits_for_100_gets_it_from_us_once_the_upstream_is_had(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        data = request("PUT", "/collections/a", "Expect: 100-continue", "Content-Length: 2", key=API_KEY)
        client, link, head = await asking(scene, data)
        assert await client.until(END_OF_HEAD) == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert b"expect" not in head.lower()
        client.send(b"{}")
        assert await link.take(2) == b"{}"
        link.send(ok())
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("status", [401, 413, 502])
async def test_a_client_that_waits_for_100_is_not_asked_for_a_body_that_nobody_wants(
    tmp_path: Path, status: int
) -> None:
    size = 1024**3 if status == 413 else 2
    expecting = ["Expect: 100-continue", f"Content-Length: {size}"]
    async with stage(tmp_path) as scene:
        if status == 502:
            await scene.upstream.stop()
        key = None if status == 401 else API_KEY
        answer = await scene.ask(request("PUT", "/collections/a", *expecting, key=key))
        assert (answer.status, answer.field("connection")) == (status, "close")
        assert (await scene.record())["status"] == status


async def test_an_http_1_0_client_never_gets_a_100(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        expecting = ["Expect: 100-continue", "Content-Length: 2"]
        data = request("PUT", "/collections/a", *expecting, key=API_KEY, version="1.0")
        client, link, _ = await asking(scene, data + b"{}")
        assert await link.take(2) == b"{}"
        link.send(ok())
        assert (await client.answer()).status == 200


# Answers without a body, or without a length.


@pytest.mark.parametrize("sent", [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n", b""])
async def test_the_answer_to_head_has_no_body_and_the_connection_is_kept(tmp_path: Path, sent: bytes) -> None:
    async with stage(tmp_path, answering(b"HTTP/1.1 200 OK\r\n" + sent + b"\r\n")) as scene:
        client = await scene.client()
        for _ in range(2):
            client.send(request("HEAD", key=API_KEY))
            head = await client.until(END_OF_HEAD)
            assert sent in head
            assert b"close" not in head
        assert len(client.received) == 2 * len(head)
        await scene.several(2)


@pytest.mark.parametrize(
    "sent",
    [
        b"HTTP/1.1 204 No Content\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nETag: x\r\n\r\n",
        b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
    ],
)
async def test_204_and_304_have_no_body_and_the_connection_is_kept(tmp_path: Path, sent: bytes) -> None:
    async with stage(tmp_path, answering(sent)) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY) * 2)
        assert await client.take(2 * len(sent)) == sent * 2
        assert len(scene.upstream.links) == 1
        await scene.several(2)


async def test_a_204_with_a_length_is_sent_without_one(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\n")) as scene:
        assert (await scene.ask(request(key=API_KEY))).head == b"HTTP/1.1 204 No Content\r\n\r\n"


@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_body_that_ends_with_the_connection_is_passed_on_whole(tmp_path: Path, version: str) -> None:
    async with stage(tmp_path) as scene:
        data = request("GET", "/collections", "Connection: keep-alive", key=API_KEY, version=version)
        client, link, _ = await asking(scene, data)
        link.send(UNTIL_CLOSE, b"abc")
        link.close()
        answer = await client.answer()
        assert (answer.body, answer.whole) == (b"abc", True)
        if version == "1.1":
            assert (answer.field("transfer-encoding"), answer.field("connection")) == ("chunked", None)
        else:
            assert (answer.field("transfer-encoding"), answer.field("connection")) == (None, "close")
        assert "failure" not in await scene.record()


async def test_chunks_become_a_body_that_ends_with_the_connection_for_http_1_0(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY, version="1.0"))
        link.send(CHUNKED, b"3;x=y\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n")
        assert (await client.answer()).body == b"abc"


async def test_trailers_are_dropped_and_chunks_written_anew(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        link.send(CHUNKED, b"3;x=y\r\nabc\r\n0\r\nX-Trailer: 1\r\n\r\n")
        await client.until(END_OF_HEAD)
        assert await client.until(b"0\r\n\r\n") == b"3\r\nabc\r\n0\r\n\r\n"


async def test_interim_answers_are_swallowed(tmp_path: Path) -> None:
    interim = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"
    async with stage(tmp_path, answering(interim, ok())) as scene:
        answer = await scene.ask(request(key=API_KEY))
        assert (answer.status, answer.names) == (200, ["content-length"])


async def test_interim_answers_without_end_are_a_broken_upstream(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(b"HTTP/1.1 103 Early Hints\r\nX: y\r\n\r\n" * 5000)) as scene:
        assert (await scene.ask(request(key=API_KEY))).status == 502


# Answers that come early.


async def test_an_early_answer_is_passed_on_although_the_upload_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        data = request("PUT", "/collections/a", "Content-Length: 1000000", key=API_KEY)
        client, link, _ = await asking(scene, data)
        client.send(b"x" * 1000)
        await link.take(1000)
        link.send(b"HTTP/1.1 409 Conflict\r\nContent-Length: 2\r\n\r\nno")
        answer = await client.answer()
        assert (answer.status, answer.body, answer.field("connection")) == (409, b"no", "close")
        await link.closed()
        assert (await scene.record())["status"] == 409


async def test_an_early_answer_of_an_upstream_that_closes_is_passed_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        data = request("PUT", "/collections/a", "Content-Length: 10000000", key=API_KEY)
        client, link, _ = await asking(scene, data)
        link.send(b"HTTP/1.1 413 Content Too Large\r\nConnection: close\r\nContent-Length: 2\r\n\r\nno")
        link.close()
        client.send(b"x" * 10_000_000)
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"no")
        await scene.record()


async def test_a_client_that_spoils_its_body_after_an_early_answer_is_the_one_to_blame(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, service={"max_request_size_mb": 1}) as scene:
        data = request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY)
        client, link, _ = await asking(scene, data)
        link.send(CHUNKED, b"1\r\na\r\n")
        await client.until(b"1\r\na\r\n")
        client.send(*([b"10000\r\n", b"x" * 0x10000, b"\r\n"] * 17))
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        record = await scene.record()
        assert (record["status"], record["failure"]) == (
            200,
            "the client spoilt its body while it was answered",
        )
        assert scene.events("upstream.failed") == []


async def test_an_early_answer_that_breaks_off_gives_its_connection_back(tmp_path: Path) -> None:
    """Cutting the client off cancels the very task that has yet to tidy up."""
    async with stage(tmp_path) as scene:
        data = request("PUT", "/collections/a", "Content-Length: 1000000", key=API_KEY)
        client, link, _ = await asking(scene, data)
        link.send(CHUNKED, b"1\r\na\r\n")
        await client.until(b"1\r\na\r\n")
        link.reset()
        await client.closed()
        await scene.record()
        assert not (await pool_of(scene))._lent


# Answers that break off, or are none.


@BOTH
@pytest.mark.parametrize("how", ["close", "reset"])
@pytest.mark.parametrize(
    "begun", [CHUNKED + b"3\r\nabc\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc"]
)
async def test_a_truncated_answer_never_looks_whole(
    tmp_path: Path, tls: bool, how: str, begun: bytes
) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        link.send(begun)
        await client.until(b"abc")
        getattr(link, how)()
        rest = await client.rest()
        assert rest in {b"", b"\r\n"}
        assert isinstance(client.error, ConnectionResetError)
        record = await scene.record()
        assert (record["status"], record["event"]) == (200, "auth.allowed")
        assert str(record["failure"]).startswith("the upstream ")
        assert len(scene.events("upstream.failed")) == 1


@BOTH
@pytest.mark.parametrize("version", ["1.1", "1.0"])
async def test_a_body_that_ends_with_the_connection_and_is_cut_never_looks_whole(
    tmp_path: Path, tls: bool, version: str
) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY, version=version))
        link.send(UNTIL_CLOSE, b"abc")
        await client.until(b"abc")
        link.reset()
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        assert isinstance(client.error, ConnectionResetError)
        assert "failure" in await scene.record()


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(b"HTTP/1.1 099 Odd\r\n\r\n", id="status 099"),
        pytest.param(b"HTTP/1.1 600 Odd\r\nContent-Length: 0\r\n\r\n", id="status 600"),
        pytest.param(b"HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n", id="status 20"),
        pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n", id="a blank before the colon"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two lengths"
        ),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length and chunked",
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\r\n folded\r\nContent-Length: 0\r\n\r\n", id="folding"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: a\x00\r\nContent-Length: 0\r\n\r\n", id="NUL"),
        pytest.param(b"HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n", id="HTTP/2.0"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="another protocol"),
        pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000, id="a head without end"),
        pytest.param(SWITCH, id="101 unasked"),
        pytest.param(b"HTTP/1.1 101 Switching Protocols\r\n\r\n", id="101 to nothing"),
    ],
)
async def test_an_answer_that_is_none_is_502(tmp_path: Path, answer: bytes) -> None:
    async with stage(tmp_path, answering(answer)) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        assert (await client.answer()).status == 502
        assert (await scene.record())["status"] == 502
        assert scene.events("upstream.failed")[0]["cause"] == "protocol"
        await eventually(lambda: scene.upstream.links[0].ended)


async def test_a_body_that_turns_out_to_be_no_http_is_cut_off(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        link.send(CHUNKED, b"3\r\nabc\r\n")
        await client.until(b"abc\r\n")
        link.send(b"zz\r\n")
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        assert isinstance(client.error, ConnectionResetError)
        await scene.record()


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_an_upstream_that_hangs_up_without_an_answer_is_502(tmp_path: Path, how: str) -> None:
    async with stage(tmp_path) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        getattr(link, how)()
        answer = await client.answer()
        assert (answer.status, answer.field("connection")) == (502, None)
        assert len(scene.upstream.links) == 1
        await scene.record()


# Time.


async def test_an_upstream_that_is_silent_is_504(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section={"read_timeout": 0.2}) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        answer = await client.answer()
        assert answer.status == 504
        assert answer.body.startswith(b'{"status":{"error":"The upstream took too long"}')
        await link.closed()
        record = await scene.record()
        assert (record["status"], record["failure"]) == (504, "the upstream was silent for 0.2 s")


async def test_an_upstream_that_takes_no_connection_is_504(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        full = stack.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        section = {"http": f"http://127.0.0.1:{full.getsockname()[1]}", "connect_timeout": 0.2}
        async with stage(tmp_path, upstream_section=section) as scene:
            assert (await scene.ask(request("POST", "/collections/a", key=API_KEY))).status == 504
            record = await scene.record()
            assert (record["status"], record["failure"]) == (
                504,
                "the upstream took no connection within 0.2 s",
            )


async def test_an_upstream_that_falls_silent_in_its_answer_is_cut_off(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section={"read_timeout": 0.2}) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        link.send(SSE, b"1\r\na\r\n")
        assert not (await client.rest()).endswith(b"0\r\n\r\n")
        assert isinstance(client.error, ConnectionResetError)
        record = await scene.record()
        assert (record["status"], record["failure"]) == (200, "the upstream was silent for 0.2 s")


async def test_a_stream_may_last_as_long_as_it_says_something(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section={"read_timeout": 0.3}) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        link.send(SSE)
        for _ in range(8):
            await asyncio.sleep(0.1)
            link.send(b"1\r\na\r\n")
        link.send(b"0\r\n\r\n")
        assert (await client.answer()).body == b"a" * 8


async def test_a_slow_client_does_not_count_against_the_upstream(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section={"read_timeout": 0.2}) as scene:
        data = request("PUT", "/collections/a", "Content-Length: 2", key=API_KEY)
        client, link, _ = await asking(scene, data)
        await asyncio.sleep(0.5)
        client.send(b"{}")
        await link.take(2)
        link.send(ok())
        assert (await client.answer()).status == 200


async def test_an_upstream_that_does_not_take_the_body_is_504(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section={"read_timeout": 0.3}) as scene:
        data = request("PUT", "/collections/a", "Content-Length: 30000000", key=API_KEY)
        client, link, _ = await asking(scene, data)
        link.transport.pause_reading()
        client.send(b"x" * 30_000_000)
        assert (await client.answer()).status == 504
        await scene.record()


# Kept-alive connections.


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE"])
async def test_an_idempotent_request_is_sent_once_more_where_the_connection_was_stale(
    tmp_path: Path, method: str
) -> None:
    async with stage(tmp_path) as scene:
        client, link = await kept(scene, request(key=API_KEY))
        client.send(request(method, "/collections/again", key=API_KEY))
        first = await link.until(END_OF_HEAD)
        link.reset()
        other, second = await scene.upstream.request()
        assert first == second
        other.send(ok(b""))
        assert (await client.answer(method)).status == 200
        assert (len(scene.upstream.links), "failure" in await scene.record()) == (2, False)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(request("POST", "/collections/a", key=API_KEY), id="POST"),
        pytest.param(request("PATCH", "/collections/a", key=API_KEY), id="PATCH"),
        pytest.param(request("PUT", "/collections/a", key=API_KEY, body=b"{}"), id="PUT with a body"),
        pytest.param(request("GET", "/collections/a", key=API_KEY, body=b"{}"), id="GET with a body"),
    ],
)
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_any_other_request_is_never_sent_twice(tmp_path: Path, data: bytes, how: str) -> None:
    async with stage(tmp_path) as scene:
        client, link = await kept(scene, request(key=API_KEY))
        client.send(data)
        await link.until(END_OF_HEAD)
        getattr(link, how)()
        assert (await client.answer()).status == 502
        assert len(scene.upstream.links) == 1
        await scene.record()


async def test_no_request_is_sent_a_third_time(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client, link = await kept(scene, request(key=API_KEY))
        client.send(request(key=API_KEY))
        await link.until(END_OF_HEAD)
        link.close()
        other, _ = await scene.upstream.request()
        other.close()
        assert (await client.answer()).status == 502
        assert len(scene.upstream.links) == 2
        await scene.record()


@pytest.mark.parametrize("begun", [b"HTTP/1.1 2", b"HTTP/1.1 100 Continue\r\n\r\n", UNTIL_CLOSE])
async def test_no_request_is_sent_again_once_an_answer_began(tmp_path: Path, begun: bytes) -> None:
    async with stage(tmp_path) as scene:
        client, link = await kept(scene, request(key=API_KEY))
        client.send(request(key=API_KEY))
        await link.until(END_OF_HEAD)
        link.send(begun)
        await asyncio.sleep(0.05)
        link.reset()
        await scene.record()
        assert len(scene.upstream.links) == 1


async def test_a_request_on_a_new_connection_is_never_sent_again(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client, link, _ = await asking(scene, request(key=API_KEY))
        link.reset()
        assert (await client.answer()).status == 502
        assert len(scene.upstream.links) == 1
        await scene.record()


@pytest.mark.parametrize("tail", [b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", b"x"])
async def test_bytes_behind_an_answer_are_nobodys_answer(tmp_path: Path, tail: bytes) -> None:
    async with stage(tmp_path) as scene:
        for late in (False, True):
            client, link, _ = await asking(scene, request(key=API_KEY))
            if late:
                link.send(ok())
                await client.until(b"fine")
                link.send(tail)
            else:
                link.send(ok(), tail)
                await client.until(b"fine")
            client.send(request(key=API_KEY))
            other, _ = await scene.upstream.request()
            other.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 4\r\n\r\ngood")
            assert (await client.answer()).body == b"good"
            await link.closed()
            await scene.several(2)


async def test_an_upstream_that_closes_after_each_answer_is_connected_to_anew(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        for _ in range(3):
            client.send(request("POST", "/collections/a", key=API_KEY))
            link, _ = await scene.upstream.request()
            link.send(ok(b"x", "Connection: close"))
            link.close()
            assert (await client.answer()).status == 200
        await scene.several(3)


async def test_who_leaves_a_large_answer_that_is_had_leaves_a_connection_of_use(tmp_path: Path) -> None:
    """Reading from the upstream was paused for the client that left; it must not stay so for the next one."""
    async with stage(tmp_path) as scene:
        client = await scene.client(buffer=4096)
        client.transport.pause_reading()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(CHUNKED)
        ((protocol,), (connection,)) = scene.gateway._guests.open, (await pool_of(scene))._lent
        while not protocol.full:
            link.send(b"4000\r\n", b"x" * 0x4000, b"\r\n")
            await asyncio.sleep(0.005)
        link.send(b"%x\r\n" % 70_000, b"x" * 70_000, b"\r\n0\r\n\r\n")
        await eventually(lambda: connection.has_whole_answer and not connection._reading)
        client.reset()
        await scene.record()
        other = await scene.client()
        other.send(request(key=API_KEY))
        assert (await link.until(END_OF_HEAD)).startswith(b"GET ")
        link.send(ok())
        assert (await other.answer()).status == 200


# Backpressure.


BOUND = 3 * 1024 * 1024
"""Bytes, all buffers on the way together: aiohttp's, ours, TLS' (uvloop's take half a MiB at either end), and
the kernel's six (made small here)."""
SMALL = 16 * 1024


async def poured(link: Link) -> int:
    """How many bytes a sender gets rid of before nothing moves any more."""
    link.transport.set_write_buffer_limits(high=0)
    sent, piece = 0, b"x" * 65536
    with contextlib.suppress(TimeoutError):
        while sent < 10 * BOUND:
            async with asyncio.timeout(0.3):
                await link.send_all(piece)
                sent += len(piece)
    return sent


async def narrow(scene: Scene, data: bytes) -> tuple[Link, Link]:
    """A client and an upstream with small buffers in the kernel; the client has asked."""
    scene.door._listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL)
    client = await scene.client(buffer=SMALL)
    client.send(data)
    link, _ = await scene.upstream.request()
    for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
        link.socket.setsockopt(socket.SOL_SOCKET, option, SMALL)
    return client, link


@BOTH
async def test_an_upstream_stops_when_the_client_does_not_read(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        client, link = await narrow(scene, request(key=API_KEY))
        client.transport.pause_reading()
        link.send(UNTIL_CLOSE)
        sent = await poured(link)
        assert sent < BOUND
        client.transport.resume_reading()
        link.close()
        answer = await client.answer()
        assert answer.whole
        assert len(answer.body) >= sent


@BOTH
async def test_a_client_stops_when_the_upstream_does_not_read(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, tls=tls, service={"max_request_size_mb": 1000}) as scene:
        upload = request("PUT", "/collections/a", "Content-Length: 90000000", key=API_KEY)
        client, link = await narrow(scene, upload)
        link.transport.pause_reading()
        assert await poured(client) < BOUND


# Tunnels.


@BOTH
async def test_a_websocket_passes_bytes_both_ways_as_they_come(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        client, link, head = await asking(scene, request("GET", "/collections", *WISH, key=API_KEY))
        assert b"Connection: Upgrade\r\nUpgrade: websocket\r\n" in head
        assert b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==" in head
        link.send(SWITCH)
        answer = await client.answer()
        assert (answer.status, answer.field("connection"), answer.field("upgrade")) == (
            101,
            "Upgrade",
            "websocket",
        )
        assert answer.field("sec-websocket-accept") == "s"
        for number in range(3):
            client.send(b"\x81\x05ping%d" % number)
            assert await link.until(b"ping%d" % number) == b"\x81\x05ping%d" % number
            link.send(b"\x81\x05pong%d" % number)
            assert await client.until(b"pong%d" % number) == b"\x81\x05pong%d" % number
        client.close()
        await link.closed()
        record = await scene.record()
        assert (record["event"], record["status"], "failure" in record) == ("auth.allowed", 101, False)


@BOTH
async def test_bytes_that_come_with_the_upgrade_are_not_lost_on_either_side(
    tmp_path: Path, tls: bool
) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        data = request("GET", "/collections", *WISH, key=API_KEY) + b"early bird"
        client, link, _ = await asking(scene, data)
        link.send(SWITCH, b"early worm")
        assert await link.until(b"bird") == b"early bird"
        await client.until(END_OF_HEAD)
        assert await client.until(b"worm") == b"early worm"


@BOTH
async def test_many_bytes_pass_a_tunnel_both_ways_at_once(tmp_path: Path, tls: bool) -> None:
    size = 5_000_000
    async with stage(tmp_path, tls=tls) as scene:
        client, link, _ = await asking(scene, request("GET", "/collections", *WISH, key=API_KEY))
        link.send(SWITCH)
        await client.until(END_OF_HEAD)
        client.send(b"c" * size)
        link.send(b"s" * size)
        there, back = await asyncio.gather(link.take(size), client.take(size))
        assert (there, back) == (b"c" * size, b"s" * size)


@pytest.mark.parametrize("end", ["client", "link"])
@pytest.mark.parametrize("how", ["close", "half_close", "reset"])
async def test_a_tunnel_ends_when_either_end_closes_and_what_was_sent_before_arrives(
    tmp_path: Path, end: str, how: str
) -> None:
    async with stage(tmp_path) as scene:
        client, link, _ = await asking(scene, request("GET", "/collections", *WISH, key=API_KEY))
        link.send(SWITCH)
        await client.until(END_OF_HEAD)
        near, far = (client, link) if end == "client" else (link, client)
        near.send(b"last words")
        if how == "reset":
            await far.until(b"last words")
            near.reset()
            await far.closed()
        else:
            getattr(near, how)()
            assert await far.rest() == b"last words"
        record = await scene.record()
        assert (record["status"], "failure" in record) == (101, False)


async def test_a_silent_tunnel_lasts_longer_than_any_timeout(tmp_path: Path) -> None:
    service = {"header_timeout": 0.1, "idle_timeout": 0.1, "stall_timeout": 0.1}
    async with stage(tmp_path, service=service, upstream_section={"read_timeout": 0.1}) as scene:
        client, link, _ = await asking(scene, request("GET", "/collections", *WISH, key=API_KEY))
        link.send(SWITCH)
        await client.until(END_OF_HEAD)
        await asyncio.sleep(0.4)
        client.send(b"still here")
        assert await link.until(b"here") == b"still here"


@BOTH
@pytest.mark.parametrize("reader", ["client", "upstream"])
async def test_a_tunnel_has_backpressure_both_ways(tmp_path: Path, tls: bool, reader: str) -> None:
    async with stage(tmp_path, tls=tls) as scene:
        client, link = await narrow(scene, request("GET", "/collections", *WISH, key=API_KEY))
        link.send(SWITCH)
        await client.until(END_OF_HEAD)
        slow, fast = (client, link) if reader == "client" else (link, client)
        slow.transport.pause_reading()
        assert await poured(fast) < BOUND


async def test_after_a_declined_upgrade_the_connection_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(
            request("GET", "/collections/a", *WISH, key=API_KEY),
            request("GET", "/collections/b", key=API_KEY),
        )
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 426 Upgrade Required\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno")
        assert b"GET /collections/b " in await link.until(END_OF_HEAD)
        link.send(ok())
        assert [(await client.answer()).status for _ in range(2)] == [426, 200]
        client.send(request("GET", "/collections/c", key=API_KEY))
        assert b"GET /collections/c " in await link.until(END_OF_HEAD)
        link.send(ok())
        assert (await client.answer()).status == 200
        await scene.several(3)


async def test_after_a_denied_upgrade_the_connection_goes_on(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        client.send(request("GET", "/collections/a", *WISH), request("GET", "/collections/b", key=API_KEY))
        assert [(await client.answer()).status for _ in range(2)] == [401, 200]
        await scene.several(2)


async def test_only_get_can_be_upgraded(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request("POST", "/collections/a", *WISH, key=API_KEY, body=b"{}"), request(key=API_KEY))
        link, head = await scene.upstream.request()
        assert b"upgrade" not in head.lower()
        assert await link.take(2) == b"{}"
        link.send(ok())
        await link.until(END_OF_HEAD)
        link.send(ok())
        assert [(await client.answer()).status for _ in range(2)] == [200, 200]
        await scene.several(2)


# Other places.


async def test_an_upload_that_the_upstream_refuses_midway_is_told(tmp_path: Path) -> None:
    upstream = Upstream()
    await upstream.start(path=str(tmp_path / "up.sock"))
    async with stage(tmp_path, upstream=upstream) as scene:
        data = request("PUT", "/collections/a", "Content-Length: 10000000", key=API_KEY)
        client, link, _ = await asking(scene, data)
        client.send(b"x" * 10_000_000)
        await link.take(100_000)
        link.transport.abort()
        assert (await client.answer()).status == 502
        await scene.record()
