"""Grpcio gets through a real rekeyd to grpcio: every kind of call, and all that goes with one."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from grpc import StatusCode

from conftest import StartDaemon
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.grpc_gateway import Recorder
from support.grpc_upstream import KEY, SERVICE, GrpcUpstream, channel, echo, grpc_upstream
from support.live import live_site
from support.pki import Authority

MEBIBYTE = 1024 * 1024


class Served:
    """A daemon in front of a gRPC service, and a client's channel to it."""

    def __init__(self, daemon: Daemon, site: Site, upstream: GrpcUpstream, client: grpc.aio.Channel) -> None:
        self.daemon = daemon
        self.site = site
        self.upstream = upstream
        self.client = client

    def call(self, kind: str, method: str, message: Any, **arguments: Any) -> Any:
        make: Any = getattr(self.client, kind)(f"/{SERVICE}/{method}")
        return make(message, **{"metadata": KEY, "timeout": 15, **arguments})


@pytest.fixture
async def served(start_daemon: StartDaemon, tmp_path: Path) -> AsyncIterator[Served]:
    async with grpc_upstream() as upstream:
        site = live_site(
            tmp_path,
            service={"grpc_port": 0, "max_request_size_mb": 80},
            upstream={"http": "demo", "grpc": upstream.address},
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            yield Served(daemon, site, upstream, client)


async def failure(call: Any) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value


async def test_all_four_kinds_of_calls(served: Served) -> None:
    assert await served.call("unary_unary", "Echo", b"hello") == b"hello"
    assert [m async for m in served.call("unary_stream", "Count", b"300")] == [b"%d" % n for n in range(300)]
    assert await served.call("stream_unary", "Join", iter([b"a"] * 300)) == b"a" * 300
    assert [m async for m in served.call("stream_stream", "Talk", iter([b"a", b"b"]))] == [b"A", b"B"]
    lines = await served.daemon.several(4, "auth.allowed", grpc_status=0)
    assert [line["path"].rpartition("/")[2] for line in lines] == ["Echo", "Count", "Join", "Talk"]


async def test_metadata_passes_both_ways_without_the_key(served: Served) -> None:
    sent = (*KEY, ("x-say-a", "1"), ("x-say-b-bin", b"\x00\xff\x10"), ("x-request-id", "mine-7"))
    call = served.call("unary_unary", "Echo", b"", metadata=sent)
    await call
    first, last = dict(await call.initial_metadata()), dict(await call.trailing_metadata())
    assert (first["x-first"], first["x-say-a"], first["x-say-b-bin"]) == ("head", "1", b"\x00\xff\x10")
    assert (last["x-last"], last["x-bin-bin"]) == ("trailer", b"\x00\xff")
    ((_, seen),) = served.upstream.seen
    assert seen["x-request-id"] == "mine-7"
    assert API_KEY not in str(seen)
    await served.daemon.event("auth.allowed", request_id="mine-7")


async def test_a_message_of_64_mebibytes_passes_both_ways(served: Served) -> None:
    message = bytes(range(256)) * 4 * 1024 * 64
    assert len(message) == 64 * MEBIBYTE
    assert await served.call("unary_unary", "Echo", message, timeout=50) == message


async def test_a_message_that_is_too_large_is_told(served: Served) -> None:
    error = await failure(served.call("unary_unary", "Echo", bytes(81 * MEBIBYTE), timeout=50))
    assert error.code() is StatusCode.RESOURCE_EXHAUSTED
    assert await echo(served.client) == b"hello"


async def test_statuses_and_their_details_pass_in_any_script(served: Served) -> None:
    details = "nicht gefunden: 100% »größer« 検索\n"
    error = await failure(served.call("unary_unary", "Fail", details.encode()))
    assert (error.code(), error.details()) == (StatusCode.FAILED_PRECONDITION, details)
    await served.daemon.event("auth.allowed", grpc_status=9)
    error = await failure(served.call("unary_unary", "Nothing", b""))
    assert error.code() is StatusCode.UNIMPLEMENTED


async def test_deadlines_and_cancellations_reach_the_upstream(served: Served) -> None:
    error = await failure(served.call("unary_unary", "Hold", b"", timeout=0.3))
    assert error.code() is StatusCode.DEADLINE_EXCEEDED
    call = served.call("unary_stream", "Forever", b"x")
    assert await call.read() == b"x"
    call.cancel()
    async with asyncio.timeout(5):
        await served.upstream.cancelled.wait()
    await served.daemon.event("auth.allowed", path=f"/{SERVICE}/Forever", failure="the client cancelled")


@pytest.mark.parametrize(
    ("metadata", "code", "details"),
    [
        ((), StatusCode.UNAUTHENTICATED, "Must provide an API key or an Authorization bearer token"),
        ((("api-key", "wrong"),), StatusCode.UNAUTHENTICATED, "Invalid API key or JWT"),
        ((*KEY, *KEY), StatusCode.INVALID_ARGUMENT, "The same credential header came twice"),
    ],
)
async def test_denials_are_said_in_grpcs_words(
    served: Served, metadata: Any, code: StatusCode, details: str
) -> None:
    for kind, method in (("unary_unary", "Echo"), ("stream_unary", "Join")):
        sent = b"x" * 300_000 if kind == "unary_unary" else iter([b"x" * 100_000] * 3)
        error = await failure(served.call(kind, method, sent, metadata=metadata))
        assert (error.code(), error.details()) == (code, details)
    assert await echo(served.client) == b"hello", "the same connection goes on"
    assert [method for method, _ in served.upstream.seen] == ["Echo"]


async def test_a_hundred_denied_uploads_do_not_use_up_the_connections_window(served: Served) -> None:
    for _ in range(100):
        error = await failure(served.call("unary_unary", "Echo", bytes(64 * 1024), metadata=()))
        assert error.code() is StatusCode.UNAUTHENTICATED
    assert await served.call("unary_unary", "Echo", bytes(MEBIBYTE)) == bytes(MEBIBYTE)


async def test_health_is_open_and_shown_in_the_status(served: Served) -> None:
    check: Any = served.client.unary_unary("/grpc.health.v1.Health/Check")
    assert await check(b"") == b"\x08\x01"
    assert (await served.daemon.event("auth.allowed", reason="open"))["grpc_status"] == 0


async def test_compression_is_preserved(start_daemon: StartDaemon, tmp_path: Path) -> None:
    recorder = Recorder()
    async with recorder.running() as address:
        site = live_site(tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": address})
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            call: Any = client.unary_unary(f"/{SERVICE}/Echo")
            await call(bytes(10_000), metadata=KEY, compression=grpc.Compression.Gzip, timeout=15)
    sent = b"".join(frame.payload for frame in recorder.frames if frame.kind == 0)
    assert recorder.heads[-1][b"grpc-encoding"] == b"gzip"
    assert sent[0] == 1
    assert len(sent) < 1000


async def test_keepalive_pings_are_answered_for_as_long_as_a_call_is_silent(served: Served) -> None:
    options = [
        ("grpc.keepalive_time_ms", 200),
        ("grpc.keepalive_timeout_ms", 500),
        ("grpc.http2.max_pings_without_data", 0),
    ]
    async with channel(served.daemon.port_of("grpc"), served.site.authority.pem, options=options) as client:
        call: Any = client.unary_unary(f"/{SERVICE}/Hold")
        held = asyncio.ensure_future(call(b"still here", metadata=KEY, timeout=15))
        await served.upstream.held.wait()
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            assert not held.done()
            await asyncio.sleep(0.1)
        served.upstream.release.set()
        assert await held == b"still here"


async def test_no_key_is_told_at_level_debug_either(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """hpack says at that level what it reads; leaving the daemon looks through all that it said."""
    wrong = "a-made-up-key-that-is-not-known"
    async with grpc_upstream() as upstream:
        site = live_site(
            tmp_path,
            service={"grpc_port": 0},
            upstream={"http": "demo", "grpc": upstream.address},
            logging={"level": "debug"},
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY, wrong])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            assert await echo(client) == b"hello"
            error = await failure(echo(client, metadata=(("authorization", f"Bearer {wrong}"),)))
            assert error.code() is StatusCode.UNAUTHENTICATED
        await daemon.event("auth.denied")
        assert daemon.told("library.message", logger="hpack.hpack") == []


# Other ways to the upstream.


async def test_the_upstream_may_be_a_unix_socket(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "grpc.sock"
    async with grpc_upstream(at=f"unix:{path}"):
        site = live_site(
            tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": f"unix:{path}"}
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            assert await echo(client) == b"hello"


async def test_the_upstream_may_want_tls_and_must_be_who_it_says(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    authority = Authority()
    leaf = authority.issue("localhost")
    (tmp_path / "upstream-ca.pem").write_bytes(authority.pem)
    credentials = grpc.ssl_server_credentials([(leaf.key_pem, leaf.chain_pem)])
    async with grpc_upstream(credentials=credentials) as upstream:
        for host, good in (("localhost", True), ("127.0.0.1", False)):
            folder = tmp_path / host
            folder.mkdir()
            site = live_site(
                folder,
                service={"grpc_port": 0},
                upstream={
                    "http": "demo",
                    "grpc": f"https://{host}:{upstream.port}",
                    "ca_cert": str(tmp_path / "upstream-ca.pem"),
                },
            )
            daemon = await start_daemon(site.file, secrets=[API_KEY])
            async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
                if good:
                    assert await echo(client) == b"hello"
                else:
                    assert (await failure(echo(client))).code() is StatusCode.UNAVAILABLE
                    await daemon.event("upstream.failed", cause="tls")


async def test_an_upstream_that_is_down_is_unavailable_at_once_and_back_when_it_is(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    path = tmp_path / "grpc.sock"
    site = live_site(tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": f"unix:{path}"})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    options = [("grpc.min_reconnect_backoff_ms", 100), ("grpc.max_reconnect_backoff_ms", 100)]
    async with channel(daemon.port_of("grpc"), site.authority.pem, options=options) as client:
        began = time.monotonic()
        error = await failure(echo(client))
        assert error.code() is StatusCode.UNAVAILABLE
        assert time.monotonic() - began < 10, "and not the deadline of 15 s"
        await daemon.event("upstream.failed", cause="connect")
        async with grpc_upstream(at=f"unix:{path}"):
            call: Any = client.unary_unary(f"/{SERVICE}/Echo")
            assert await call(b"again", metadata=KEY, timeout=15, wait_for_ready=True) == b"again"


async def test_an_upstream_that_says_goodbye_loses_no_call(start_daemon: StartDaemon, tmp_path: Path) -> None:
    aging = [("grpc.max_connection_age_ms", 300), ("grpc.max_connection_age_grace_ms", 5000)]
    async with grpc_upstream(options=aging) as upstream:
        site = live_site(
            tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": upstream.address}
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        async with channel(daemon.port_of("grpc"), site.authority.pem) as client:
            until = time.monotonic() + 2
            while time.monotonic() < until:
                answers = await asyncio.gather(*(echo(client, b"%d" % n) for n in range(20)))
                assert answers == [b"%d" % n for n in range(20)]
