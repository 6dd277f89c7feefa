"""The plain head: accepted only where it can be read in one way, and known by its beginning."""

import pytest

from rekeyd.http1.plain import may_become_plain, read

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
