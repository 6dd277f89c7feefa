"""The plain head: accepted only where it can be read in one way, and known by its beginning."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rekeyd.http1.plain import may_become_plain, read, size
from rekeyd.http1.request import Request, examine

HEAD = b"POST /collections/a?x=%20 HTTP/1.1\r\nHost: service.test\r\nX-A:\t b \r\nContent-Length: 5\r\n\r\n"


def head(*lines: bytes, first: bytes = b"GET / HTTP/1.1", end: bytes = b"\r\n") -> bytes:
    return end.join([first, *lines, b"", b""])


def test_a_plain_head_is_read() -> None:
    request = read(HEAD, 1000)
    assert request is not None
    assert (request.method, request.target, request.path) == (
        b"POST",
        b"/collections/a?x=%20",
        b"/collections/a",
    )
    assert request.fields == (
        (b"Host", b"service.test"),
        (b"X-A", b"b"),
        (b"Content-Length", b"5"),
    )
    assert request.framing.length == 5
    assert request.persists


@pytest.mark.parametrize(
    "unusual",
    [
        head(),
        head(b"Host: a", end=b"\n"),
        head(b"Host: a", first=b"GET / HTTP/1.0"),
        head(b"Host: a", first=b"GET / HTTP/1.1 "),
        head(b"Host: a", first=b"GET  / HTTP/1.1"),
        head(b"Host: a", first=b"GET http://a/ HTTP/1.1"),
        head(b"Host: a", first=b"GET /\xc3\xa9 HTTP/1.1"),
        head(b"Host: a", first=b"OPTIONS / HTTP/1.1"),
        head(b"Host: a", first=b"get / HTTP/1.1"),
        head(b"Host : a"),
        head(b"Host: a", b"host: a"),
        head(b"Host: a", b"Cookie: a", b"Cookie: b"),
        head(b"Host: a", b" folded"),
        head(b"Host: a", b"X: \x00"),
        head(b"Host: a", b"X: a\rb"),
        head(b"Host: a", b": b"),
        head(b"Host: a", b"X"),
        head(b"Host: a", b"Transfer-Encoding: chunked"),
        head(b"Host: a", b"Content-Length: +5"),
        head(b"Host: a", b"Content-Length: 5", b"content-length: 5"),
        head(b"Host: a", b"Upgrade: websocket"),
        head(b"Host: a", b"Expect: 100-continue"),
        head(b"Host: a", b"X: " + b"a" * 1000),
        head(b"Host: a", *(b"X-%d: a" % n for n in range(101))),
        b"\r\n" + HEAD,
        HEAD + b"x",
        HEAD[:-2],
    ],
)
def test_what_is_unusual_is_left_to_others(unusual: bytes) -> None:
    assert read(unusual, 1000) is None


NAMES = st.sampled_from(
    [b"Host", b"X-A", b"x-b", b"Connection", b"Content-Length", b"Upgrade", b"Expect", b"Authorization", b"~"]
)
VALUES = st.sampled_from(
    [b"", b"a", b"a b", b"a:b", b"close", b"keep-alive, X-A", b"5", b"\xff", b"[::1]:80"]
)
BLANKS = st.sampled_from([b"", b" ", b"\t", b" \t "])
TARGETS = st.sampled_from([b"/", b"/a?b:c", b"/%00", b"//a/..", b"/#"])


@given(TARGETS, st.lists(st.tuples(NAMES, BLANKS, VALUES, BLANKS), max_size=5), st.integers(0, 80))
@example(b"/", [(b"Host", b"", b"a", b"")], 10)
@example(b"/", [(b"Host", b"", b"a", b"")], 9)
def test_what_is_read_is_what_the_full_examination_makes_of_it(
    target: bytes, lines: list[tuple[bytes, bytes, bytes, bytes]], most: int
) -> None:
    written = [name + b":" + before + value + after for name, before, value, after in lines]
    found = read(head(*written, first=b"GET %b HTTP/1.1" % target), most)
    fields = tuple((name, value) for name, _, value, _ in lines)
    if found is not None:
        assert found == examine(b"GET", target, (1, 1), fields)
    once = len({name.lower() for name, _ in fields}) == len(fields)
    unusual = {b"Upgrade", b"Expect"} & {name for name, _ in fields}
    sound = isinstance(examine(b"GET", target, (1, 1), fields), Request)
    assert (found is not None) == (once and not unusual and sound and size(target, fields) <= most)


def test_every_beginning_of_a_plain_head_may_become_one() -> None:
    for end in range(len(HEAD)):
        assert may_become_plain(HEAD[:end]), HEAD[:end]


@pytest.mark.parametrize(
    "begun",
    [
        b"hello",
        b"GX",
        b"GET h",
        b"GET /a b",
        b"GET / HTTP/2",
        b"GET / HTTP/1.1\n",
        b"\r\n",
        b"\x16\x03\x01",
        b"GET / HTTP/1.1\r\n ",
        b"GET / HTTP/1.1\r\nX A",
        b"GET / HTTP/1.1\r\nX: \x00",
        b"GET / HTTP/1.1\r\n:",
    ],
)
def test_what_can_not_become_plain_is_known_at_once(begun: bytes) -> None:
    assert not may_become_plain(begun)
