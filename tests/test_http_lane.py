"""The two lanes answer alike: what one lets pass, refuses or closes, the other does too, byte for byte.

The same bytes, cut in the same places, go to a gateway with the short lane and to one without it. Both must
tell the client the same, write the same lines, and send the upstream the same, which in no case can be read
in two ways.
"""

import asyncio
import contextlib
import re
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from rekeyd.listeners.http import lane, protocol
from rekeyd.listeners.http.lane import Lane
from rekeyd.listeners.http.protocol import GatewayProtocol
from rekeyd.listeners.http.wire import LINGER
from rekeyd.telemetry.decisions import Coalescer
from rekeyd.telemetry.floods import Telling
from support.gateway import API_KEY, READ_KEY, Scene, stage
from support.loops import new_loop
from support.waiting import eventually
from support.wire import END_OF_HEAD, PATIENCE, Link, answering, ok, request

HOST = b"Host: service.test"
KEY = b"api-key: " + API_KEY.encode()
QUICK = {"header_timeout": 0.8, "idle_timeout": 0.25, "stall_timeout": 0.3, "max_header_size_kb": 4}
PATIENT = {"header_timeout": 20, "stall_timeout": 20}
_ONWARD = re.compile(
    rb"(?:[A-Z]+ /[!-~\x80-\xff]*|OPTIONS \*) HTTP/1\.1\r\n"
    rb"(?:[!#$%&'*+\-.^_`|~0-9A-Za-z]+: ?[\t -~\x80-\xff]*\r\n)+\r\n"
)


async def hearing(link: Link) -> None:
    """An upstream that reads each request whole before it answers."""
    while True:
        head = await link.until(END_OF_HEAD, patience=None)
        if length := re.search(rb"\r\nContent-Length: (\d+)\r\n", head):
            await link.take(int(length[1]))
        elif b"\r\nTransfer-Encoding: chunked\r\n" in head:
            await link.until(b"0\r\n\r\n", patience=None)
        link.send(ok())


@dataclass
class Seen:
    """What became of some connections: each one's answers, and what the upstream and the log were told."""

    answers: list[list[Any]]
    upstream: list[bytes]
    lines: list[Any]


class Twins:
    """A gateway with the short lane and one without it."""

    def __init__(self, scenes: list[Scene]) -> None:
        self.scenes = scenes

    async def see(self, cases: list[list[bytes]]) -> tuple[Seen, Seen]:
        one, other = await asyncio.gather(*(self._see(scene, cases) for scene in self.scenes))
        return one, other

    async def _see(self, scene: Scene, cases: list[list[bytes]]) -> Seen:
        marks = [len(link.received) for link in scene.upstream.links]
        answers = await asyncio.gather(*(self._send(scene, pieces) for pieces in cases))
        await eventually(lambda: not scene.gateway._guests.open, what="the end of all connections")
        heard = [
            bytes(link.received[mark:])
            for link, mark in zip(
                scene.upstream.links, [*marks, *[0] * (len(scene.upstream.links) - len(marks))], strict=True
            )
        ]
        lines, scene.records[:] = list(scene.records), []
        upstream = sorted(each for of_link in heard for each in _requests(of_link))
        return Seen(list(answers), upstream, sorted(map(_told, lines)))

    async def _send(self, scene: Scene, pieces: list[bytes]) -> list[Any]:
        client = await scene.client()
        for piece in pieces:
            if client.ended:
                break
            client.send(piece)
            await asyncio.sleep(0.002)
        # Behind a body that nobody wants it is only due after LINGER.
        await client.wait_for(lambda: client.ended, "its end", patience=LINGER + PATIENCE)
        scene.forget(client)
        client.abort()
        return _answers(bytes(client.received))


def _requests(heard: bytes) -> list[bytes]:
    """Each request that the upstream got, without its id. None of them can be read in two ways."""
    found = []
    while heard:
        head, mark, heard = heard.partition(END_OF_HEAD)
        assert mark, head
        assert _ONWARD.fullmatch(head + mark), head
        names = [line.partition(b":")[0].lower() for line in head.split(b"\r\n")[1:]]
        assert names.count(b"host") == 1
        framed = names.count(b"content-length") + names.count(b"transfer-encoding")
        assert framed <= 1
        body = b""
        if length := re.search(rb"\r\nContent-Length: (\d+)(?:\r\n|\Z)", head):
            body, heard = heard[: int(length[1])], heard[int(length[1]) :]
        elif framed:
            body, _, heard = heard.partition(b"0\r\n\r\n")
            body = re.sub(rb"[0-9a-f]+\r\n(.*?)\r\n", rb"\1", body, flags=re.DOTALL)
        found.append(re.sub(rb"X-Request-Id: [0-9a-f]{32}", b"X-Request-Id: ID", head) + mark + body)
    return found


def _answers(told: bytes) -> list[Any]:
    """Status, fields and body of each, without what differs from one moment to the next."""
    found = []
    while told:
        head, mark, told = told.partition(END_OF_HEAD)
        assert mark, head
        length = int(next(iter(re.findall(rb"\r\nContent-Length: (\d+)", head)), 0))
        if told.startswith(b"HTTP/1.1 "):
            length = 0  # the request was HEAD
        body, told = told[:length], told[length:]
        body = re.sub(rb'"time":[0-9.e-]+', b'"time":T', body)
        found.append((re.sub(rb"Content-Length: \d+", b"Content-Length: N", head), body))
    return found


def _told(line: dict[str, Any]) -> str:
    kept = ("event", "status", "reason", "method", "path", "key_id", "right_needed", "client", "failure")
    return repr([line.get(name) for name in kept])


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> Iterator["Bench"]:
    bench = Bench(tmp_path_factory.mktemp("twins"))
    yield bench
    bench.end()


class Bench:
    """Twins that outlive one example, on a loop of their own."""

    def __init__(self, folder: Path, **service: float) -> None:
        self._service = {**QUICK, **service}
        self._patch = pytest.MonkeyPatch()
        self._patch.setattr(lane, "LINGER", 0.2)
        self._patch.setattr(protocol, "LINGER", 0.2)
        self.runner = asyncio.Runner(loop_factory=new_loop)
        self._stack = contextlib.AsyncExitStack()
        self.twins = self.runner.run(self._begin(folder))

    async def _begin(self, folder: Path) -> Twins:
        scenes = []
        for name, short in (("short", True), ("long", False)):
            (folder / name).mkdir()
            scene = await self._stack.enter_async_context(
                stage(folder / name, hearing, service=self._service)
            )
            scene.gateway.short = short
            # In a flood of denials one line is told for several, of each second: here each has its own.
            scene.decisions._denials = Telling(Coalescer(flood=sys.maxsize), scene.decisions._tell)
            scenes.append(scene)
        return Twins(scenes)

    def see(self, cases: list[list[bytes]]) -> tuple[Seen, Seen]:
        return self.runner.run(self.twins.see(cases))

    def end(self) -> None:
        self.runner.run(self._stack.aclose())
        self.runner.close()
        self._patch.undo()


# What is sent.

METHODS = st.sampled_from(
    [b"GET"] * 6
    + [b"POST", b"PUT", b"DELETE", b"HEAD", b"OPTIONS", b"PATCH", b"get", b"TRACE", b"CONNECT", b"GRPC"]
    + [b"G\tET", b"", b"PROPFIND", b"GET\x00"]
)
TARGETS = st.sampled_from(
    [b"/collections"] * 6
    + [
        b"/",
        b"/healthz",
        b"/collections?x=1",
        b"/collections/a/points",
        b"http://other.test/collections",
        b"*",
    ]
    + [
        b"https://u:p@x/collections",
        b"ftp://x/",
        b"/a b",
        b"//x/y",
        b"/%2e%2e/x",
        b"/a/../b",
        b"/a;b",
        b"collections",
    ]
    + [b"/a\x00", "/é".encode(), b"/#f", b"/a?b#c", b"", b"/" + b"a" * 5000, b"/.rekeyd/livez", b"/.rekeyd/x"]
    + [b"/%zz", b"/a%", b"/[", b"/\\", b"//evil:99999/"]
)
VERSIONS = st.sampled_from(
    [b"HTTP/1.1"] * 8 + [b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"", b"HTTP/1.1 ", b"HTTP/01.1"]
)
ENDS = st.sampled_from([b"\r\n"] * 12 + [b"\n", b"\r", b"\r\r\n", b" \r\n"])
FIELDS = st.sampled_from(
    [
        *[HOST] * 3,
        b"HOST: service.test",
        b"Host:service.test",
        b"Host: ",
        b"Host: a b",
        b"Host: other.test:99999",
        b"host: other.test",
        b"Host: service.test/x",
        b"Host : service.test",
        *[KEY] * 3,
        b"API-KEY: " + READ_KEY.encode(),
        b"api-key: wrong",
        b"api_key: " + API_KEY.encode(),
        b"Authorization: Bearer " + API_KEY.encode(),
        b"Content-Length: 5",
        b"content-length: 5",
        b"Content-Length: 0",
        b"Content-Length: +5",
        b"Content-Length: 5 5",
        b"Content-Length: 5, 5",
        b"Content-Length: -1",
        b"Content-Length: 0x5",
        b"Content-Length:",
        b"Content-Length: 05",
        b"Content-Length: 99999999999",
        b"Content-Length : 5",
        b"Content_Length: 5",
        b"Transfer-Encoding: chunked",
        b"Transfer-Encoding: Chunked",
        b"Transfer-Encoding: gzip, chunked",
        b"Transfer-Encoding: identity",
        b"Transfer-Encoding:\tchunked",
        b"Transfer-Encoding : chunked",
        b"transfer-encoding: x",
        b" folded: value",
        b"\tfolded",
        b"X-A: one\r\n two",
        b"X-A: one\n two",
        b"X-A: a\x00b",
        b"X-A: a\rb",
        b"X-A: a\x7fb",
        b"X-A: \xe9\xff",
        b": empty",
        b"X A: b",
        b"X-A",
        b"X-A:",
        b"X-A:   ",
        b"X\x80A: b",
        b"X-A: " + b"b" * 4200,
        b"Connection: close",
        b"Connection: keep-alive",
        b"Connection: api-key",
        b"Connection: Upgrade",
        b"Upgrade: websocket",
        b"Upgrade: h2c",
        b"Expect: 100-continue",
        b"Expect: x",
        b"TE: trailers",
        b"Trailer: x",
        b"Content-Type: text/plain",
        b"Content-Type: a/b",
        b"User-Agent: x",
        b"X-Forwarded-For: 1.2.3.4",
        b"X-HTTP-Method-Override: DELETE",
        b"X-Request-Id: mine",
        b"X-Request-Id: no\t!",
        b"Cookie: a=b",
        b"Cookie: c=d",
        b"Origin: http://a",
        b"Access-Control-Request-Method: GET",
        b"Max-Forwards: 1",
    ]
)
BODIES = st.sampled_from(
    [b""] * 6
    + [b"hello", b"hell", b"5\r\nhello\r\n0\r\n\r\n", b"5;x=y\r\nhello\r\n0\r\n\r\n", b"0\r\n\r\n", b"g\r\n"]
    + [b"5\nhello\n0\n\n", b"\r\n", b"GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n"]
)


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    fields = draw(st.lists(FIELDS, max_size=4))
    if draw(st.booleans()) or draw(st.booleans()):
        fields = [HOST, KEY, *(f for f in fields if f not in {HOST, KEY})]
    line = b" ".join(part for part in (draw(METHODS), draw(TARGETS), draw(VERSIONS)))
    end = draw(ENDS)
    odd = draw(st.integers(0, len(fields) + 8))
    lines = [each + (end if place == odd else b"\r\n") for place, each in enumerate([line, *fields])]
    return b"".join(lines) + (end if odd == len(fields) + 1 else b"\r\n") + draw(BODIES)


@st.composite
def cases(draw: st.DrawFn) -> list[bytes]:
    """What is sent on one connection, cut somewhere."""
    data = b"".join(draw(st.lists(requests(), min_size=1, max_size=2)))
    cuts = sorted(draw(st.lists(st.integers(0, len(data)), max_size=3)))
    places = [0, *cuts, len(data)]
    return [data[a:b] for a, b in pairwise(places) if a < b]


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],  # an example takes half a second: too long to make it smaller
)
@given(st.lists(cases(), min_size=12, max_size=12))
@example(
    [
        [request(key=API_KEY)],
        [request(key="wrong")],
        [request("PUT", "/collections/a", key=API_KEY, body=b"{}")],
        [request("GET", "/collections", "Connection: close", key=API_KEY) + b"hello"],
    ]
)
def test_the_same_bytes_come_to_the_same_in_both_lanes(twins: Bench, sent: list[list[bytes]]) -> None:
    # On a busy machine a timeout may come first in one lane and not in the other: what is seen thrice is a
    # difference.
    found = next((None for _ in range(3) if difference(sent, *twins.see(sent)) is None), "seen thrice")
    assert found is None, difference(sent, *twins.see(sent))


def difference(sent: list[list[bytes]], short: Seen, long: Seen) -> object:
    """What did not come to the same, if anything."""
    spoilt = False
    for case, one, other in zip(sent, short.answers, long.answers, strict=True):
        if one != other:
            if not is_spoilt(one, other):
                return case, one, other
            spoilt = True
    if spoilt:
        missing = Counter(long.upstream) - Counter(short.upstream)
        return missing or None
    if short.upstream != long.upstream:
        return short.upstream, long.upstream
    return None if short.lines == long.lines else (short.lines, long.lines)


def is_spoilt(short: list[Any], long: list[Any]) -> bool:
    """Where aiohttp's lane says less, and that is known.

    It drops sound requests that come in one piece with one that is no HTTP, and answers that alone; those of
    an earlier piece it has answered. So it does behind a request that was to be the last, where nobody has to
    look any more (RFC 9112, 9.6). Half a head that came in one piece with a request is to it an idle
    connection, which is closed without the 408 that half a head gets otherwise.
    """
    if not (short and long):
        return False
    *answered, refusal = long
    refused = b" 400 " in refusal[0] and short[: len(answered)] == answered
    dropped = refused and (short[-1] == refusal or b"\r\nConnection: close" in short[-1][0])
    late = short[:-1] == long and b" 408 " in short[-1][0]
    return dropped or late


def test_a_request_may_be_cut_at_every_byte(tmp_path: Path) -> None:
    whole = request("POST", "/collections/a/points/search", "X-A: b", key=API_KEY, body=b"hello")
    sent = [[whole[:cut], whole[cut:]] for cut in range(1, len(whole))]
    patient = Bench(tmp_path, **PATIENT)
    short, long = patient.see([*sent, [bytes([byte]) for byte in whole]])
    patient.end()
    assert short == long
    assert len(short.upstream) == len(whole)


# Which lane a connection is in.


def lanes(scene: Scene) -> list[type]:
    return [type(guest) for guest in scene.gateway._guests.open]


async def test_a_connection_stays_in_the_short_lane_while_its_requests_are_plain(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        for key, status in ((API_KEY, 200), ("wrong", 401), (READ_KEY, 200)):
            client.send(request(key=key))
            assert (await client.answer()).status == status
        assert lanes(scene) == [Lane]
        client.send(request("GET", "/.rekeyd/livez"))
        assert (await client.answer()).status == 200
        assert lanes(scene) == [GatewayProtocol]
        client.send(request(key=API_KEY))
        assert (await client.answer()).status == 200
        await scene.several(5)


async def test_what_is_pipelined_behind_a_plain_request_goes_along_to_the_other_lane(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY), request("GET", "/.rekeyd/livez"), request(key=READ_KEY))
        answers = [await client.answer() for _ in range(3)]
        assert [(answer.status, answer.body[:4]) for answer in answers] == [
            (200, b"fine"),
            (200, b'{"st'),
            (200, b"fine"),
        ]
        records = await scene.several(3)
        assert [record.get("key_id") for record in records] == ["api_key", None, "read_only_api_key"]


async def test_a_key_that_goes_ends_the_request_in_the_short_lane(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=READ_KEY))
        link, _ = await scene.upstream.request()
        assert scene.ledger.in_use() == {"read_only_api_key": 1}
        link.send(ok())
        await client.answer()
        assert scene.ledger.in_use() == {}
        await scene.record()


async def test_the_decision_is_made_anew_for_a_head_that_is_the_same(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        client.send(request(key=READ_KEY))
        assert (await client.answer()).status == 200
        scene.publish(service={"read_only_api_key": None})
        client.send(request(key=READ_KEY))
        assert (await client.answer()).status == 401
        assert lanes(scene) == [Lane]
        await scene.several(2)


async def test_each_request_has_an_id_of_its_own(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        for _ in range(3):
            client.send(request(key=API_KEY))
            await client.answer()
        records = await scene.several(3)
        assert len({record["request_id"] for record in records}) == 3
        for record, head in zip(records, scene.upstream.heads, strict=True):
            assert f"X-Request-Id: {record['request_id']}\r\n".encode() in head
