"""What an upstream answers, however its bytes are cut on their way."""

import contextlib
import itertools
from collections.abc import Iterable
from typing import NamedTuple

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rekeyd.http1.request import Framing
from rekeyd.http1.response import MAX_HEAD, BadResponseError, ResponseHead, ResponseReader

CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
WEBSOCKET = b"HTTP/1.1 101 Switching\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n"


class Outcome(NamedTuple):
    """All that can be seen of a reader when its bytes and the connection have ended."""

    head: ResponseHead | None
    body: bytes
    complete: bool
    excess: bool
    keep_alive: bool
    error: str | None
    whole: bool


def taken(reader: ResponseReader) -> list[bytes]:
    pieces, reader.pieces = reader.pieces, []
    return pieces


def read(pieces: Iterable[bytes], method: bytes = b"GET", *, upgrades: bool = False) -> Outcome:
    reader = ResponseReader(method, upgrades=upgrades)
    body, error = b"", None
    try:
        for piece in pieces:
            reader.feed(piece)
            body += b"".join(taken(reader))
    except BadResponseError as bad:
        error = str(bad)
    body += b"".join(taken(reader))
    complete = reader.complete
    with contextlib.suppress(BadResponseError):
        reader.end()
    return Outcome(
        reader.head,
        body,
        complete,
        reader.excess,
        reader.keep_alive,
        error,
        reader.complete and error is None,
    )


def bytewise(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


def answered(data: bytes, method: bytes = b"GET", *, upgrades: bool = False) -> Outcome:
    """What becomes of `data`, which is the same whole and byte by byte."""
    whole = read([data], method, upgrades=upgrades)
    assert read(bytewise(data), method, upgrades=upgrades) == whole
    return whole


def refused(data: bytes, method: bytes = b"GET", *, upgrades: bool = False) -> str:
    outcome = answered(data, method, upgrades=upgrades)
    assert outcome.error, outcome
    assert not outcome.whole
    return outcome.error


# --- bodies


def test_a_body_of_known_length_is_read_to_its_end() -> None:
    outcome = answered(b"HTTP/1.1 200 Fine\r\nContent-Length: 5\r\nX:  a \t\r\n\r\nhello")
    assert outcome == Outcome(
        ResponseHead(
            200, b"Fine", ((b"Content-Length", b"5"), (b"X", b"a")), Framing(length=5), until_close=False
        ),
        b"hello",
        complete=True,
        excess=False,
        keep_alive=True,
        error=None,
        whole=True,
    )


def test_a_body_that_breaks_off_is_not_whole() -> None:
    for data in (
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell",
        CHUNKED + b"5\r\nhell",
        CHUNKED + b"5\r\nhello\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\n",
        CHUNKED + b"5\r\nhello\r\n0\r\nT: x\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n",
        b"HTTP/1.1 200 OK\r\n\r",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.",
        b"\r\n",
        b"",
    ):
        outcome = answered(data)
        assert not outcome.whole
        assert not outcome.complete


def test_an_empty_body_is_whole_with_its_head() -> None:
    outcome = answered(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
    assert outcome.complete
    assert outcome.keep_alive
    assert outcome.head == ResponseHead(
        200, b"OK", ((b"Content-Length", b"0"),), Framing(length=0), until_close=False
    )


def test_chunks_are_joined_and_their_trailers_dropped() -> None:
    outcome = answered(
        CHUNKED + b'5\r\nhello\r\n1;ext="x"\r\n!\r\n000\r\nX-Trailer: y\r\nSet-Cookie: z\r\n\r\n'
    )
    assert outcome.body == b"hello!"
    assert outcome.complete
    assert outcome.keep_alive
    assert not outcome.excess
    assert outcome.head is not None
    assert outcome.head.fields == ((b"Transfer-Encoding", b"chunked"),)
    assert outcome.head.framing == Framing(chunked=True)


@pytest.mark.parametrize("version", [b"1.0", b"1.1"])
def test_without_a_length_the_body_ends_with_the_connection(version: bytes) -> None:
    outcome = answered(b"HTTP/" + version + b" 200 OK\r\nConnection: keep-alive\r\n\r\nbody\r\n\r\nmore")
    assert outcome.body == b"body\r\n\r\nmore"
    assert not outcome.complete
    assert outcome.whole
    assert not outcome.keep_alive
    assert outcome.head is not None
    assert outcome.head.until_close
    assert answered(b"HTTP/1.1 200 OK\r\n\r\n").whole


@pytest.mark.parametrize("status", [b"204 No Content", b"304 Not Modified"])
@pytest.mark.parametrize("fields", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_204_and_304_have_no_body_whatever_they_announce(status: bytes, fields: bytes) -> None:
    head = b"HTTP/1.1 " + status + b"\r\n" + fields + b"\r\n"
    outcome = answered(head)
    assert outcome.complete
    assert outcome.body == b""
    assert outcome.keep_alive
    assert not outcome.excess
    assert outcome.head is not None
    assert not outcome.head.until_close
    assert outcome.head.framing == Framing() or not status.startswith(b"204")
    assert answered(head + b"5\r\nhello\r\n").excess
    assert answered(head + b"hello").body == b""


@pytest.mark.parametrize("fields", [b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"])
def test_the_answer_to_head_has_no_body(fields: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\n" + fields + b"\r\n"
    outcome = answered(head, b"HEAD")
    assert outcome.complete
    assert outcome.whole
    assert not outcome.excess
    assert outcome.keep_alive == bool(fields)
    for rest in (b"hello", b"\r\n", b"0\r\n\r\n", head):
        more = answered(head + rest, b"HEAD")
        assert (more.complete, more.body, more.excess) == (True, b"", True)


@pytest.mark.parametrize(
    ("head", "keeps"),
    [
        (b"HTTP/1.1 200 OK\r\n", True),
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\n", False),
        (b"HTTP/1.1 200 OK\r\nConnection: Close, x\r\n", False),
        (b"HTTP/1.0 200 OK\r\n", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\n", True),
    ],
)
def test_a_connection_is_kept_as_the_upstream_says(head: bytes, keeps: bool) -> None:
    for method in (b"GET", b"HEAD"):
        body = b"" if method == b"HEAD" else b"hello"
        assert answered(head + b"Content-Length: 5\r\n\r\n" + body, method).keep_alive == keeps


# --- what follows a whole answer


@pytest.mark.parametrize(
    "whole",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\r\n",
        CHUNKED + b"2\r\n\r\n\r\n0\r\n\r\n",
        CHUNKED + b"0\r\nA:\r\n\r\n",
    ],
)
@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
@pytest.mark.parametrize(
    "rest",
    [
        b"\r\n",
        b"\n",
        b"\r",
        b"\r\n\r\n",
        b"\x00",
        b"x",
        b"\r\nx",
        b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
        b"0\r\n\r\n",
    ],
)
def test_bytes_behind_a_whole_answer_are_excess_and_change_nothing_in_it(
    whole: bytes, close: bytes, rest: bytes
) -> None:
    whole = whole.replace(b"OK\r\n", b"OK\r\n" + close, 1)
    alone, followed = answered(whole), answered(whole + rest)
    assert alone.complete
    assert not alone.excess
    assert followed == alone._replace(excess=True)
    assert read([whole, rest]) == followed


# --- interim answers and upgrades


def test_interim_answers_are_passed_over() -> None:
    interim = (
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x>\r\nContent-Length: 9\r\n\r\n"
    )
    outcome = answered(interim + b"HTTP/1.1 201 Made\r\nContent-Length: 1\r\n\r\nx")
    assert outcome.head == ResponseHead(
        201, b"Made", ((b"Content-Length", b"1"),), Framing(length=1), until_close=False
    )
    assert outcome.body == b"x"
    assert outcome.complete


def test_interim_answers_without_end_are_refused() -> None:
    flood = b"HTTP/1.1 100 Continue\r\n\r\n" * (MAX_HEAD // 20)
    assert "too long" in refused(flood)


def test_a_switch_that_was_asked_for_gives_raw_bytes() -> None:
    raw = b"\x81\x05hello\r\n\r\nHTTP/1.1 200 OK\r\n\r\n\x00"
    outcome = answered(WEBSOCKET + raw, upgrades=True)
    assert outcome.head is not None
    assert outcome.head.status == 101
    assert outcome.head.until_close
    assert outcome.body == raw
    assert not outcome.complete
    assert not outcome.keep_alive
    assert outcome.whole
    assert answered(WEBSOCKET, upgrades=True).head == outcome.head


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: websocket, h2c\r\n\r\n",
        b"HTTP/1.1 101 X\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\n\r\n",
        b"HTTP/1.1 101 X\r\n\r\n",
    ],
)
def test_a_switch_to_something_else_is_a_bad_answer(head: bytes) -> None:
    for tail in (b"", b"raw"):
        assert refused(head + tail, upgrades=True) == "switched protocols unasked"
        assert answered(head + tail, upgrades=True).head is None


def test_a_switch_that_nobody_asked_for_is_a_bad_answer() -> None:
    for method in (b"GET", b"HEAD", b"POST"):
        assert refused(WEBSOCKET + b"raw", method) == "switched protocols unasked"


def test_an_upgrade_may_be_declined() -> None:
    outcome = answered(
        b"HTTP/1.1 426 No\r\nConnection: upgrade\r\nUpgrade: websocket\r\nContent-Length: 2\r\n\r\nno",
        upgrades=True,
    )
    assert outcome.body == b"no"
    assert outcome.complete


# --- bad answers


@pytest.mark.parametrize(
    "data",
    [
        b"hello\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01",
        b"\x00",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"HTTP/0.9 200 OK\r\n\r\n",
        b"HTTP/1.2 200 OK\r\n\r\n",
        b"HTTP/1.1 099 X\r\n\r\n",
        b"HTTP/1.1 000 X\r\n\r\n",
        b"HTTP/1.1 600 X\r\n\r\n",
        b"HTTP/1.1 999 X\r\n\r\n",
        b"HTTP/1.1 2000 X\r\n\r\n",
        b"HTTP/1.1 20 X\r\n\r\n",
        b"HTTP/1.1 -20 X\r\n\r\n",
        b"HTTP/1.1  200 X\r\n\r\n",
        b"HTTP/1.1 200\tOK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 200 O\x00K\r\n\r\n",
        b"HTTP/1.1 200 O\x1bK\r\n\r\n",
        b"HTTP/1.1 200 O\rK\r\n\r\n",
        b"HTTP/1.1 200 OK\nX: y\n\n",
        b"HTTP/1.1 200 OK\r\nX: y\n\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n X: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\r\n z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX y: z\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\x00\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX: y\rz\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nX\xff: y\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5, 5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: +5\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: \r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5x\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: " + b"0" * 5_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, gzip\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: identity\r\n\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding:\r\n\r\nx",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ],
)
def test_what_is_no_answer_is_refused(data: bytes) -> None:
    for method in (b"GET", b"HEAD"):
        refused(data, method)
        assert answered(data, method).head is None


@pytest.mark.parametrize(
    "body",
    [
        b"x\r\n",
        b"-1\r\n",
        b"+1\r\na\r\n",
        b"0x1\r\na\r\n",
        b" 1\r\na\r\n",
        b"1 \r\na\r\n",
        b"1\na\n",
        b"1\r\nab\r\n",
        b"1\r\na\n0\r\n\r\n",
        b"\r\n",
        b"fffffffffffffffff\r\n",
        b"1;a\nb\r\na\r\n",
        b"0\r\nT : x\r\n\r\n",
        b"0\r\nT\r\n\r\n",
        b"0\r\n T: x\r\n\r\n",
        b"0\r\nT: \x00\r\n\r\n",
        b"0\n\n",
    ],
)
def test_a_malformed_chunk_breaks_the_answer_off(body: bytes) -> None:
    for good in (b"", b"5\r\nhello\r\n"):
        refused(CHUNKED + good + body)
        assert answered(CHUNKED + good + body).body.startswith(good[3:8])


def test_a_reader_that_refused_does_not_recover() -> None:
    for bad in (
        b"HTTP/1.1 099 X\r\n\r\n",
        b"nonsense",
        CHUNKED + b"x\r\n",
        b"HTTP/1.1 200 OK\r\nX : y\r\n\r\n",
    ):
        reader = ResponseReader(b"GET")
        for data in (bad, b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"):
            with pytest.raises(BadResponseError):
                reader.feed(data)
        with pytest.raises(BadResponseError):
            reader.end()
        assert not reader.complete


# --- bounds


def test_a_head_may_be_as_long_as_the_bound_and_no_longer() -> None:
    frame = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nX: %b\r\n\r\n"
    longest = frame % (b"a" * (MAX_HEAD - len(frame) + 2))
    assert len(longest) == MAX_HEAD
    longer = longest.replace(b"X: a", b"X: aa")
    for cut in (1_000, 30_000, MAX_HEAD - 1, MAX_HEAD, MAX_HEAD + 1, 10**6):
        for head, fits in ((longest, True), (longer, False)):
            data = head + b"x"
            outcome = read(data[i : i + cut] for i in range(0, len(data), cut))
            assert outcome.complete == fits
            assert (outcome.error is None) == fits


def test_many_small_fields_are_bounded_too() -> None:
    assert "too long" in refused(b"HTTP/1.1 200 OK\r\n" + b"a:\r\n" * (MAX_HEAD // 3))
    assert "too long" in refused(b"HTTP/1.1 200 OK\r\n" + b"a" * (MAX_HEAD + 1))
    assert "too long" in refused(b"\r\n" * MAX_HEAD)


@pytest.mark.parametrize("cut", [1, 700, 65_536, 10**7])
def test_trailers_and_chunk_extensions_are_bounded(cut: int) -> None:
    for endless in (
        b"0\r\n" + b"T: x\r\n" * MAX_HEAD,
        b"1;" + b"x" * (4 * MAX_HEAD),
        b"0\r\nT: " + b"x" * (4 * MAX_HEAD),
    ):
        data = CHUNKED + b"5\r\nhello\r\n" + endless
        outcome = read(data[i : i + cut] for i in range(0, len(data), cut))
        assert outcome.error is not None
        assert "too long" in outcome.error
        assert outcome.body == b"hello"


@pytest.mark.parametrize("cut", [1_000, 65_536, 262_144, 10**7])
def test_a_body_has_no_bound(cut: int) -> None:
    body = bytes(range(256)) * 4_000
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(part), part) for part in (body[:700], body[700:500_000], body[500_000:])
    )
    for data in (
        b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body,
        CHUNKED + chunks + b"0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + body,
    ):
        outcome = read(data[i : i + cut] for i in range(0, len(data), cut))
        assert outcome.body == body
        assert outcome.whole
        assert not outcome.excess


def test_many_tiny_chunks_are_a_body_and_not_a_flood() -> None:
    outcome = read([CHUNKED + b"1\r\nx\r\n" * 50_000 + b"0\r\n\r\n"])
    assert outcome.body == b"x" * 50_000
    assert outcome.complete


# --- anything


def cut_at(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in itertools.pairwise(edges)]


lines = st.sampled_from(
    [
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.0 200 OK\r\n",
        b"HTTP/1.1 204 \r\n",
        b"HTTP/1.1 304 X\r\n",
        b"HTTP/1.1 100 Continue\r\n",
        b"HTTP/1.1 101 X\r\n",
        b"HTTP/1.1 599\r\n",
        b"Content-Length: 5\r\n",
        b"Content-Length: 0\r\n",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: close\r\n",
        b"Connection: upgrade\r\n",
        b"Upgrade: websocket\r\n",
        b"X: y\r\n",
        b"\r\n",
        b"hello",
        b"5\r\nhello\r\n",
        b"1;x=y\r\nz\r\n",
        b"0\r\n",
        b"0\r\n\r\n",
        b"\n",
        b"\r",
    ]
)
streams = st.lists(st.one_of(lines, lines, lines, st.binary(max_size=6)), max_size=14).map(b"".join)
conversations = st.one_of(
    streams, streams.map(lambda tail: b"HTTP/1.1 200 OK\r\n" + tail), streams.map(lambda t: CHUNKED + t)
)


@settings(max_examples=500)
@given(
    conversations,
    st.lists(st.integers(0, 10_000), max_size=6),
    st.sampled_from([b"GET", b"HEAD"]),
    st.booleans(),
)
@example(CHUNKED + b"0\r\n\r\n\r\n", [57], b"GET", False)
@example(WEBSOCKET + b"\r\n", [3], b"GET", True)
@example(b"HTTP/1.1 100 Continue\r\n\r\n\r\nHTTP/1.1 200 OK\r\n\r\n", [27], b"GET", False)
def test_how_bytes_are_cut_makes_no_difference(
    data: bytes, places: list[int], method: bytes, upgrades: bool
) -> None:
    outcome = answered(data, method, upgrades=upgrades)
    assert read(cut_at(data, places), method, upgrades=upgrades) == outcome
    assert outcome.error is None or not outcome.whole


@settings(max_examples=300)
@given(st.binary(max_size=300), st.sampled_from([b"GET", b"HEAD"]), st.booleans())
def test_garbage_is_a_bad_answer_and_nothing_else(data: bytes, method: bytes, upgrades: bool) -> None:
    for start in (b"", b"HTTP/1.1 200 ", b"HTTP/1.1 200 OK\r\n", CHUNKED):
        outcome = answered(start + data, method, upgrades=upgrades)
        assert not (outcome.head is None and outcome.whole)


@given(
    st.lists(st.binary(min_size=1, max_size=40), max_size=5),
    st.binary(max_size=20),
    st.lists(st.integers(0, 500)),
)
def test_what_is_written_in_chunks_is_read_in_full(
    parts: list[bytes], excess: bytes, places: list[int]
) -> None:
    data = CHUNKED + b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n" + excess
    outcome = read(cut_at(data, places))
    assert outcome.body == b"".join(parts)
    assert outcome.complete
    assert outcome.excess == bool(excess)


@given(st.binary(max_size=60), st.binary(max_size=20), st.lists(st.integers(0, 200)))
def test_what_is_written_with_a_length_is_read_in_full(body: bytes, excess: bytes, places: list[int]) -> None:
    data = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body + excess
    outcome = read(cut_at(data, places))
    assert outcome.body == body
    assert outcome.complete
    assert outcome.excess == bool(excess)
