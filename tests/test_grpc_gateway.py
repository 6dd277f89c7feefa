"""The path of a call over real sockets: judged, passed on, recorded; and nothing unjudged gets through."""

import asyncio
import gc
import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Limits, Reach, Right
from rekeyd.access.verdict import Denied, Reason, Unverified
from rekeyd.http2 import frames
from rekeyd.http2.frames import END_STREAM, Code, frame
from rekeyd.http2.heads import Call
from rekeyd.http2.streams import Stream
from rekeyd.listeners.grpc.connection import GrpcConnection
from support.generations import API_KEY
from support.grpc_gateway import READ_KEY, GrpcScene, Recorder, grpc_stage, with_key
from support.grpc_table import POINTS_WHERE_THE_TABLE_IS_SILENT, RING, rows
from support.http2 import ANSWER, GREETING, HEAD, data, head, message, with_fields
from support.pki import Authority, Leaf, replace_file
from support.waiting import eventually

UPSERT = (b":path", b"/qdrant.Points/Upsert")
SEARCH = (b":path", b"/qdrant.Points/Search")
SCROLL = (b":path", b"/qdrant.Points/Scroll")
HEALTH = (b":path", b"/grpc.health.v1.Health/Check")


@pytest.mark.parametrize("tls", [False, True])
async def test_a_call_with_a_key_gets_through_without_it_and_is_recorded(tmp_path: Path, tls: bool) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address, secure=tls) as scene:
        client = await scene.client()
        client.send(head(1, with_key((b"x-request-id", b"mine-1"))), data(1, message(b"x"), ends=True))
        await client.until(lambda: client.answers == {1: 0})
        record = await scene.record()
    assert {**record, "duration": 0} == {
        "level": "info",
        "event": "auth.allowed",
        "decision": "allowed",
        "reason": "key",
        "key_id": "api_key",
        "right_needed": "manage",
        "method": "POST",
        "path": "/test.Service/Echo",
        "status": 200,
        "grpc_status": 0,
        "client": "127.0.0.1",
        "request_id": "mine-1",
        "duration": 0,
        **({"tls": "TLSv1.3"} if tls else {}),
        "generation": 1,
    }
    (sent,) = recorder.heads
    assert sent[b"x-request-id"] == b"mine-1"
    assert (sent[b"x-forwarded-for"], sent[b"x-forwarded-proto"]) == (
        b"127.0.0.1",
        b"https" if tls else b"http",
    )
    assert API_KEY.encode() not in b" ".join([*sent, *sent.values()])


CASES: list[tuple[str, tuple[tuple[bytes, bytes], ...], int, str | None]] = [
    ("no key", with_fields(), 16, "no_credential"),
    ("an unknown key", with_key(key="wrong"), 16, "unknown_key"),
    ("an empty key", with_key(key=""), 16, "unknown_key"),
    ("a key that is no ASCII", with_fields((b"api-key", b"\xff\xfe")), 16, "unknown_key"),
    ("the key twice", (*with_key(), (b"api-key", API_KEY.encode())), 3, "repeated_credential"),
    ("a bearer token", with_fields((b"authorization", b"bEaReR " + API_KEY.encode())), 0, None),
    ("another scheme", with_fields((b"authorization", b"Basic " + API_KEY.encode())), 16, "no_credential"),
    (
        "a wrong key beside a good token",
        with_fields((b"api-key", b"wrong"), (b"authorization", b"Bearer " + API_KEY.encode())),
        16,
        "unknown_key",
    ),
    ("a small key for a read", with_key(SEARCH, key=READ_KEY), 0, None),
    ("a small key for a write", with_key(UPSERT, key=READ_KEY), 7, "right_too_small"),
    ("a small key for what is unknown", with_key(key=READ_KEY), 7, "right_too_small"),
    ("a large key for a write", with_key(UPSERT), 0, None),
    ("health without a key", with_fields(HEALTH), 0, None),
    ("health with a wrong key", with_key(HEALTH, key="wrong"), 0, None),
    ("a longer path", with_fields((b":path", HEALTH[1] + b"/")), 16, "no_credential"),
    ("a query", with_fields((b":path", HEALTH[1] + b"?x")), 16, "no_credential"),
    (
        "a small key for a read with more behind",
        with_key((b":path", SEARCH[1] + b"/x"), key=READ_KEY),
        3,
        "path_not_normal",
    ),
    (
        "a small key for two slashes",
        with_key((b":path", b"/" + SEARCH[1]), key=READ_KEY),
        3,
        "path_not_normal",
    ),
    ("a small key for dots", with_key((b":path", b"/x/.." + SEARCH[1]), key=READ_KEY), 3, "path_not_normal"),
]


@pytest.mark.parametrize(("fields", "status", "reason"), [c[1:] for c in CASES], ids=[c[0] for c in CASES])
async def test_who_gets_in(tmp_path: Path, fields: Any, status: int, reason: str | None) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client()
        client.send(head(1, fields), data(1, message(b"\x0a\x05books"), ends=True))
        await client.until(lambda: client.answers == {1: status})
        record = await scene.record()
        assert record["grpc_status"] == status
        if reason is not None:
            assert (record["event"], record["reason"]) == ("auth.denied", reason)
            assert recorder.heads == []
            assert [f.kind for f in recorder.frames if f.stream] == []
        else:
            assert len(recorder.heads) == 1


async def test_only_what_was_judged_reaches_the_upstream(tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client()
        for number in range(1, 41, 2):
            fields = with_key() if number % 4 == 1 else HEAD
            client.send(head(number, fields), frame(frames.PRIORITY, 0, number, bytes(5)))
            client.send(frames.window_update(number, 1), data(number, message(b"%d" % number), ends=True))
            if number % 4 == 3:
                client.send(frames.rst_stream(number, 8))
        await client.until(lambda: len(client.answers) == 20)
        await scene.several(20)
        assert {n for n, status in client.answers.items() if status == 0} == set(range(1, 41, 4))
        assert len(recorder.heads) == 10
        texts = [f.payload[5:] for f in recorder.frames if f.kind == frames.DATA]
        assert texts == [b"%d" % n for n in range(1, 41, 4)]


@pytest.mark.parametrize(
    ("sent", "code", "why"),
    [
        (frame(5, 4, 1, b"\0\0\0\x02"), Code.PROTOCOL_ERROR, "a client that pushes"),
        (frame(6, 0, 0, bytes(8)) * 1001, Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing"),
        (
            head(1, whole=False) + frame(9, 0, 1) * 20,
            Code.ENHANCE_YOUR_CALM,
            "a field block that is too long",
        ),
    ],
)
async def test_who_breaks_the_connection_is_told_and_others_go_on(
    tmp_path: Path, sent: bytes, code: Code, why: str
) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        other, client = await scene.client(), await scene.client()
        other.send(head(1, with_key()))
        client.send(sent)
        await client.end()
        assert client.goaway_codes == [code]
        other.send(data(1, message(b"x"), ends=True))
        await other.until(lambda: other.answers == {1: 0})
        await scene.record()
    assert [(line["event"], line["reason"]) for line in scene.broken] == [
        ("connection.broken", f"{code.name}: {why}")
    ]


async def test_what_is_no_http2_is_closed_without_a_word(tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client(greets=False)
        client.send(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        await client.end()
        assert (client.seen, recorder.connections) == ([], [])
    assert [line["reason"] for line in scene.broken] == ["PROTOCOL_ERROR: it does not speak HTTP/2"]


async def test_a_malformed_call_has_its_line(tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client()
        client.send(head(1, with_key((b"connection", b"x"))), head(3, with_key((b":method", b"GET"))))
        records = await scene.several(2)
    assert [(r["event"], r["reason"], r.get("status")) for r in records] == [
        ("auth.denied", "malformed", None),
        ("auth.denied", "malformed", 405),
    ]
    assert recorder.heads == []


# The upstream.


async def test_no_upstream_is_an_end_without_settings(tmp_path: Path) -> None:
    async with grpc_stage(tmp_path, "127.0.0.1:1") as scene:
        client = await scene.client(greets=False)
        client.send(GREETING)
        await client.end()
        assert client.seen == []
        assert scene.failures == ["connect"]


async def test_an_upstream_that_never_greets_is_given_up(tmp_path: Path) -> None:
    recorder = Recorder(greets=False)
    async with (
        recorder.running() as address,
        grpc_stage(tmp_path, address, upstream={"connect_timeout": 0.2}) as scene,
    ):
        client = await scene.client(greets=False)
        client.send(GREETING)
        await client.end()
        assert client.seen == []
        assert scene.failures == ["timeout"]


async def test_an_upstream_that_breaks_off_is_unavailable(tmp_path: Path) -> None:
    recorder = Recorder(answers=False)
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client()
        client.send(head(1, with_key()), data(1, message(b"x"), ends=True))
        await client.until(lambda: recorder.heads)
        recorder.connections[0].transport.abort()
        await client.end()
        assert client.answers == {1: 14}
        assert client.goaway_codes == [0]
        record = await scene.record()
        assert (record["grpc_status"], record["failure"]) == (14, "the upstream broke off")
        assert scene.failures == ["connection"]


async def test_an_upstream_that_is_silent_is_too_slow(tmp_path: Path) -> None:
    recorder = Recorder(answers=False)
    async with (
        recorder.running() as address,
        grpc_stage(tmp_path, address, upstream={"read_timeout": 0.2}) as scene,
    ):
        client = await scene.client()
        client.send(head(1, with_key()), data(1, message(b"x"), ends=True), head(3, with_key()))
        await client.until(lambda: client.answers == {1: 4})
        record = await scene.record()
        assert (record["grpc_status"], record["failure"]) == (4, "the upstream took too long")
        client.send(data(3, ends=True))
        await client.until(lambda: client.answers == {1: 4, 3: 4})


async def test_a_new_upstream_gets_the_next_connection(tmp_path: Path) -> None:
    old, new = Recorder(answers=False), Recorder()
    async with old.running() as first, new.running() as second, grpc_stage(tmp_path, first) as scene:
        client = await scene.client()
        client.send(head(1, with_key()), data(1, message(b"x"), ends=True))
        await client.until(lambda: old.heads)
        scene.publish(upstream={"grpc": second})
        client.send(head(3, with_key()), data(3, message(b"x"), ends=True))
        await client.until(lambda: client.of_kind(frames.RST_STREAM))
        assert client.of_kind(frames.RST_STREAM)[0].payload == Code.REFUSED_STREAM.to_bytes(4, "big")
        again = await scene.client()
        again.send(head(1, with_key()), data(1, message(b"x"), ends=True))
        await again.until(lambda: again.answers == {1: 0})
        assert len(new.heads) == 1


async def test_the_upstreams_own_key_takes_the_place_of_the_clients(tmp_path: Path) -> None:
    recorder = Recorder()
    upstream = {"api_key": "the-upstreams-own", "identity_headers": True}
    async with recorder.running() as address, grpc_stage(tmp_path, address, upstream=upstream) as scene:
        client = await scene.client()
        client.send(head(1, with_key(SEARCH, (b"x-rekeyd-right", b"manage"), key=READ_KEY), ends=True))
        await client.until(lambda: client.answers == {1: 0})
    (sent,) = recorder.heads
    assert sent[b"api-key"] == b"the-upstreams-own"
    assert (sent[b"x-rekeyd-key-id"], sent[b"x-rekeyd-right"]) == (b"read_only_api_key", b"read")


async def test_a_trusted_proxy_tells_who_the_client_is(tmp_path: Path) -> None:
    recorder = Recorder()
    told = (b"x-forwarded-for", b"192.0.2.7")
    async with (
        recorder.running() as address,
        grpc_stage(tmp_path, address, service={"trusted_proxies": ["127.0.0.1"]}) as scene,
    ):
        client = await scene.client()
        client.send(head(1, with_key(told), ends=True))
        assert (await scene.record())["client"] == "192.0.2.7"
    assert recorder.heads[0][b"x-forwarded-for"] == b"192.0.2.7, 127.0.0.1"


# Keys that go, drains, clocks.


async def test_a_key_that_is_removed_ends_its_streams_within_five_seconds_and_says_why(
    tmp_path: Path,
) -> None:
    recorder = Recorder(answers=False)
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client, other = await scene.client(), await scene.client()
        client.send(head(1, with_key(SEARCH, key=READ_KEY)))
        other.send(head(1, with_key()))
        await client.until(lambda: len(recorder.heads) == 2)
        scene.publish(service={"read_only_api_key": None})
        async with asyncio.timeout(5):
            await client.end()
        assert client.answers == {1: 14}
        assert client.heads[1][0][b"grpc-message"] == b"key read_only_api_key was removed"
        assert client.goaway_codes == [0]
        assert not other.closed
        record = await scene.record()
        assert record["failure"] == "key read_only_api_key was removed"


async def test_a_drain_serves_what_runs_and_ends_what_does_not(tmp_path: Path) -> None:
    recorder = Recorder(answers=False)
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client, idle = await scene.client(), await scene.client()
        client.send(head(1, with_key(), ends=True))
        await client.until(lambda: recorder.heads)
        drained = asyncio.create_task(scene.gateway.drain(10))
        await client.until(lambda: client.of_kind(frames.PING) and idle.of_kind(frames.PING))
        for each in (client, idle):
            each.send(frame(frames.PING, frames.ACK, 0, each.of_kind(frames.PING)[0].payload))
        await idle.end()
        assert not drained.done()
        recorder.connections[0].send(head(1, [(b":status", b"200"), (b"grpc-status", b"0")], ends=True))
        assert await drained == 0
        assert client.answers == {1: 0}
        assert len(client.of_kind(frames.GOAWAY)) == 2


async def test_a_drain_cuts_what_does_not_end_and_says_so(tmp_path: Path) -> None:
    recorder = Recorder(answers=False)
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client()
        client.send(head(1, with_key(), ends=True))
        await client.until(lambda: recorder.heads)
        assert await scene.gateway.drain(0.1) == 1
        assert (await scene.record())["failure"] == "cut off at the end of the drain"


@pytest.mark.parametrize(
    ("settings_of", "sent", "why"),
    [
        ({"header_timeout": 0.2}, b"", "a head that is too slow"),
        ({"header_timeout": 0.2}, frames.PREFACE[:5], "a head that is too slow"),
        ({"header_timeout": 0.2}, GREETING + head(1, whole=False), "a head that is too slow"),
        ({"stall_timeout": 0.2}, GREETING + data(1, bytes(100))[:50], "a frame that is too slow"),
    ],
)
async def test_who_is_too_slow_is_left(
    tmp_path: Path, settings_of: dict[str, float], sent: bytes, why: str
) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address, service=settings_of) as scene:
        client = await scene.client(greets=False)
        client.send(sent)
        await client.end()
        assert [line["reason"] for line in scene.broken] == [why]


async def test_a_connection_that_is_idle_is_ended_in_peace(tmp_path: Path) -> None:
    recorder = Recorder()
    async with (
        recorder.running() as address,
        grpc_stage(tmp_path, address, service={"idle_timeout": 0.2}) as scene,
    ):
        client = await scene.client()
        await client.until(lambda: client.of_kind(frames.PING))
        client.send(frame(frames.PING, frames.ACK, 0, client.of_kind(frames.PING)[0].payload))
        await client.end()
        assert client.goaway_codes == [0, 0]
        assert scene.broken == []


async def test_who_has_no_key_may_not_stay_in_silence(tmp_path: Path) -> None:
    recorder = Recorder(answers=False)
    upstream = {"read_timeout": 0.3}
    async with recorder.running() as address, grpc_stage(tmp_path, address, upstream=upstream) as scene:
        client = await scene.client()
        client.send(
            head(1, with_fields(HEALTH)), head(3, with_fields(HEALTH), ends=True), head(5, with_key())
        )
        await client.until(lambda: len(recorder.heads) == 3)
        recorder.connections[0].send(head(3, ANSWER))  # whose message the client does not make room for
        await client.until(lambda: set(client.answers) == {1, 3})
        assert client.answers == {1: 4, 3: 4}
        assert not client.closed
        records = await scene.several(2)
        assert {record["failure"] for record in records} == {
            "a call without a key that was silent for too long"
        }
        client.send(data(5, ends=True))
        await client.until(lambda: 5 in client.answers)


# Verdicts that take their time.


async def test_a_token_that_is_verified_slowly_holds_up_its_own_call_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        gatekeeper = scene.gateway._judge._gatekeeper
        release, plain = asyncio.Event(), gatekeeper.judge

        def judge(ask: Any, generation: Any) -> Any:
            if ask.presented.secret == b"slow":
                return Unverified(b"digest", lambda: Denied(Reason.EXPIRED, "The token has expired"))
            return plain(ask, generation)

        async def verified(unverified: Unverified, *_: Any) -> Credential | Denied:
            await release.wait()
            return unverified.verify()

        monkeypatch.setattr(gatekeeper, "judge", judge)
        monkeypatch.setattr(gatekeeper, "verified", verified)
        client = await scene.client()
        client.send(head(1, with_key(key="slow")), data(1, message(b"x"), ends=True))
        client.send(head(3, with_key()), data(3, message(b"y"), ends=True))
        await client.until(lambda: client.answers == {3: 0})
        release.set()
        await client.until(lambda: client.answers == {3: 0, 1: 7})
        assert len(recorder.heads) == 1


async def test_who_guesses_too_often_has_to_wait(tmp_path: Path) -> None:
    recorder = Recorder()
    async with (
        recorder.running() as address,
        grpc_stage(tmp_path, address, access={"failures_per_minute": 3}) as scene,
    ):
        client = await scene.client()
        for number in range(1, 13, 2):
            client.send(head(number, with_key(key=f"wrong-{number}"), ends=True))
        await client.until(lambda: len(client.answers) == 6)
        assert [client.answers[n] for n in range(1, 13, 2)] == [16, 16, 16, 8, 8, 8]
        assert int(client.heads[11][0][b"grpc-retry-pushback-ms"]) > 0
        client.send(head(13, with_key(), ends=True))
        await client.until(lambda: client.answers.get(13) == 0)


# Clients that do not read, or are not who they should be.


async def test_a_client_that_does_not_read_holds_up_its_upstream_and_is_left(tmp_path: Path) -> None:
    recorder = Recorder(answers=False)
    service = {"stall_timeout": 0.5}
    async with recorder.running() as address, grpc_stage(tmp_path, address, service=service) as scene:
        client = await scene.client()
        client.send(
            frames.window_update(0, 2**30), head(1, with_key(), ends=True), frames.window_update(1, 2**30)
        )
        await client.until(lambda: recorder.heads)
        client.transport.pause_reading()
        (at,) = recorder.connections
        at.send(head(1, ANSWER))
        piece, sent = data(1, bytes(16_000)), 0
        while sent < 64_000_000 and not at.closed:
            if at.transport.get_write_buffer_size() < 1_000_000:
                at.send(piece)
                sent += len(piece)
            else:
                await asyncio.sleep(0.02)
        assert at.closed, "it was cut off"
        assert sent < 64_000_000, "and had not been let run on"
        assert [line["reason"] for line in scene.broken] == ["the client stopped reading"]
        client.transport.resume_reading()
        await client.end()
        await scene.record()


async def test_a_client_that_sends_faster_than_the_upstream_reads_is_held_up(tmp_path: Path) -> None:
    recorder = Recorder(answers=False, settings=b"\0\x04\x7f\xff\xff\xff")
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client()
        client.send(head(1, with_key()))
        await client.until(lambda: recorder.heads)
        (at,) = recorder.connections
        at.transport.pause_reading()
        client.send(*[data(1, b"\0\x01\0\0\0" + bytes(60_000))] + [data(1, bytes(60_000))] * 250)
        held = client.transport.get_write_buffer_size
        for _ in range(20):
            await asyncio.sleep(0.02)
        assert held() > 1_000_000
        at.transport.resume_reading()
        await client.until(lambda: held() == 0)
        assert not client.closed


def showing(scene: GrpcScene, folder: Path, leaf: Leaf) -> ssl.SSLContext:
    """A client's TLS with a certificate of its own."""
    assert scene.authority is not None
    context = ssl.create_default_context(cadata=scene.authority.pem.decode())
    context.set_alpn_protocols(["h2"])
    own = folder / "own.pem"
    own.write_bytes(leaf.key_pem + leaf.chain_pem)
    context.load_cert_chain(own)
    return context


async def test_a_client_without_a_place_here_is_turned_away(tmp_path: Path) -> None:
    recorder, authority = Recorder(), Authority()
    good, other = (authority.issue(name, client=True) for name in ("good.test", "other.test"))
    (tmp_path / "clients.pem").write_bytes(authority.pem)
    rules: dict[str, dict[str, object]] = {
        "service": {"verify_https_client_certificate": True},
        "tls": {"ca_cert": "clients.pem", "allowed_clients": ["dns:good.test"]},
    }
    async with recorder.running() as address, grpc_stage(tmp_path, address, secure=True, **rules) as scene:
        client = await scene.client(greets=False, context=showing(scene, tmp_path, good))
        client.send(GREETING, head(1, with_key(), ends=True))
        await client.until(lambda: client.answers == {1: 0})
        assert (await scene.record())["client_certificate"] == "dns:good.test"
        stranger = await scene.client(greets=False, context=showing(scene, tmp_path, other))
        stranger.send(GREETING, head(1, with_key(), ends=True))
        await stranger.end()
        assert stranger.seen == []
    (line,) = scene.broken
    assert (line["event"], line["listener"]) == ("tls.handshake_failed", "grpc")


async def test_an_authority_that_is_removed_ends_the_calls_of_its_clients_alone(tmp_path: Path) -> None:
    recorder, leaving, staying = Recorder(answers=False), Authority("leaving"), Authority("staying")
    (tmp_path / "clients.pem").write_bytes(leaving.pem + staying.pem)
    rules: dict[str, dict[str, object]] = {
        "service": {"verify_https_client_certificate": True},
        "tls": {"ca_cert": "clients.pem"},
    }
    async with recorder.running() as address, grpc_stage(tmp_path, address, secure=True, **rules) as scene:
        lost, kept = [
            await scene.client(context=showing(scene, tmp_path, authority.issue("client.test", client=True)))
            for authority in (leaving, staying)
        ]
        for client in (lost, kept):
            client.send(head(1, with_key()))
        await kept.until(lambda: len(recorder.heads) == 2)
        replace_file(tmp_path / "clients.pem", staying.pem)
        scene.publish()
        async with asyncio.timeout(5):
            await lost.end()
        assert lost.answers == {1: 14}
        reason = "the authority of its client certificate is not believed any more"
        assert (await scene.record())["failure"] == reason
        kept.send(data(1, ends=True))
        await kept.until(lambda: any(seen.flags & END_STREAM for seen in recorder.frames))
        assert not kept.closed


async def test_a_decision_that_fails_lets_nobody_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = Recorder()
    told: list[str] = []
    monkeypatch.setattr("rekeyd.listeners.grpc.gateway.log.error", lambda event, **_: told.append(event))
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:

        async def fails(*_: object) -> None:
            raise LookupError

        def costly(*_: object) -> Unverified:
            return Unverified(b"", lambda: Denied(Reason.EXPIRED, ""))

        monkeypatch.setattr(scene.gateway._judge._gatekeeper, "judge", costly)
        monkeypatch.setattr(scene.gateway._judge._gatekeeper, "verified", fails)
        client = await scene.client()
        client.send(head(1, with_key(), ends=True))
        await client.until(lambda: client.answers == {1: 13})
        assert recorder.heads == []
        assert (await scene.record())["event"] == "auth.denied"
    assert told == ["grpc.failed"]


def limit_to_books(scene: GrpcScene) -> None:
    """From now on there is one key, `limited`."""
    serving = scene.current.serving
    assert serving is not None
    limits = Limits(collections=(("books", Reach.READ),))
    limited = replace(Credential.of_secret("limited", Right.READ, "limited"), limits=limits)
    generation = replace(serving.generation, number=2, ring=KeyRing([limited]))
    scene.current.publish(replace(serving, generation=generation))


async def test_who_is_limited_to_a_collection_is_let_in_by_the_message(tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        limit_to_books(scene)
        client = await scene.client()
        for number, name in ((1, b"\x0a\x05books"), (3, b"\x0a\x04maps"), (5, b"")):
            client.send(head(number, with_key(SCROLL, key="limited")), data(number, message(name), ends=True))
        await client.until(lambda: client.answers == {1: 0, 3: 7, 5: 7})
        records = await scene.several(3)
        assert {r["reason"] for r in records} == {"key", "collection_not_allowed", "right_too_small"}
        assert len(recorder.heads) == 1
        client.send(head(7, with_key(SCROLL, key="limited")))
        client.send(data(7, b"\0\x01\0\0\0\x0a\x05books"))
        await client.until(lambda: len(recorder.heads) == 2)
        client.send(data(7, b"\x0a\x04maps"))
        await client.until(lambda: client.answers.get(7) == 7)
        record = await scene.record()
        assert (record["event"], record["reason"]) == ("auth.denied", "malformed")


async def test_a_call_that_ends_before_it_names_its_collection_was_not_allowed(tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        limit_to_books(scene)
        client = await scene.client()
        client.send(head(1, with_key(SCROLL, key="limited")), frames.rst_stream(1, Code.CANCEL))
        records = await scene.several(1)
        client.send(head(3, with_key(SCROLL, key="limited")), data(3, b"\0\0\0\0\x07\x0a"))
        client.send(frame(frames.PING, 0, 1, bytes(8)))
        records += await scene.several(1)
        assert [(r["event"], r["reason"], r["key_id"]) for r in records] == [
            ("auth.denied", "body_not_judged", "limited")
        ] * 2
        assert recorder.heads == []


async def test_every_method_of_qdrants_table_for_every_kind_of_credential(tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        serving = scene.current.serving
        assert serving is not None
        generation = replace(serving.generation, number=2, ring=RING)
        scene.current.publish(replace(serving, generation=generation))
        client = await scene.client()
        expected: dict[int, int] = {}
        for row in rows():
            for kind in (None, "wrong", "read", "collection_r", "collection_prw", "collection_rw", "manage"):
                number = 2 * len(expected) + 1
                expected[number] = status_in_the_table(row, kind)
                fields = with_key(key=kind) if kind else HEAD
                fields = tuple((n, b"/" + row["grpc"].encode() if n == b":path" else v) for n, v in fields)
                client.send(head(number, fields), data(number, message(b"\x0a\x05books"), ends=True))
                await client.until(lambda number=number: number in client.answers)  # type: ignore[misc]
        assert client.answers == expected
        assert len(recorder.heads) == sum(status == 0 for status in expected.values())


def status_in_the_table(row: dict[str, str], kind: str | None) -> int:
    if row["open"] == "yes":
        return 0
    if kind in {None, "wrong"}:
        return 16
    said = row[str(kind)]
    if said == "-":
        said = "yes" if row["grpc"].rpartition("/")[2] in POINTS_WHERE_THE_TABLE_IS_SILENT else "no"
    return 0 if said == "yes" else 7


async def test_connections_that_are_over_are_forgotten(tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        for _ in range(50):
            client = await scene.client()
            client.send(head(1, with_key(), ends=True))
            await client.until(lambda client=client: client.answers == {1: 0})  # type: ignore[misc]
            client.transport.abort()
        await eventually(lambda: scene.door.connections == 0)
        await scene.several(50)
        gc.collect()
        assert [each for each in gc.get_objects() if isinstance(each, GrpcConnection)] == []
        assert [each for each in gc.get_objects() if isinstance(each, Stream)] == []
        assert (scene.gateway._open, scene.gateway._tasks, len(scene.ledger)) == (set(), set(), 0)


async def test_calls_that_run_keep_nothing_of_their_large_heads(tmp_path: Path) -> None:
    recorder = Recorder(answers=False)
    async with recorder.running() as address, grpc_stage(tmp_path, address) as scene:
        client = await scene.client()
        for number in range(1, 21, 2):
            client.send(head(number, with_fields(HEALTH, (b"x-large", b"%05d" % number * 1000))))
        await client.until(lambda: len(recorder.heads) == 10)
        gc.collect()
        assert [each for each in gc.get_objects() if isinstance(each, Call) and each.first(b"x-large")] == []
    assert len(scene.records) == 10
