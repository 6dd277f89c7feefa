"""A key in the URL, in a log line, in a traceback, in /proc/PID/cmdline or in an answer: never.

Clients put keys in odd places, and settings hold them where they don't belong; then all that the daemon told
is searched for each of them (`support.secrets`), as it is at the end of every other test.
"""

import asyncio
import base64
import contextlib
import json
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from rekeyd.cli import main
from rekeyd.system.admin_client import ask
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import Connection, configure, live_site, trusting
from support.pki import replace_file
from support.secrets import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

READER = "a-made-up-key-that-may-only-read"
UPSTREAMS = "a-made-up-key-that-only-the-upstream-knows"
WRONG = "a-wrong-key-that-may-be-right-elsewhere"
SECRETS = (API_KEY, READER, UPSTREAMS, WRONG)

BASIC = base64.b64encode(f"user:{API_KEY}".encode()).decode()

# Whole heads, as clients send them by mistake; K stands for each secret in turn.
ODD_REQUESTS = {
    "as a fragment": "GET /collections#K HTTP/1.1\r\nHost: h\r\n\r\n",
    "in the query": "GET /collections?api-key=K&x=1 HTTP/1.1\r\nHost: h\r\n\r\n",
    "in the query of an open path": "GET /healthz?key=K HTTP/1.1\r\nHost: h\r\n\r\n",
    "in the query of our own path": "GET /.rekeyd/livez?key=K HTTP/1.1\r\nHost: h\r\n\r\n",
    "as a method": "K / HTTP/1.1\r\nHost: h\r\n\r\n",
    "as user information": "GET http://user:K@h/collections HTTP/1.1\r\nHost: h\r\n\r\n",
    "as a host": "GET / HTTP/1.1\r\nHost: K@h\r\n\r\n",
    "as an upgrade": "GET /socket HTTP/1.1\r\nHost: h\r\nUpgrade: K\r\nConnection: upgrade, K\r\n\r\n",
    "as a protocol": "GET / HTTP/1.1\r\nHost: h\r\nSec-WebSocket-Protocol: K\r\n\r\n",
    "as a bearer token": "GET / HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer K\r\n\r\n",
    "as a token of another scheme": "GET /x HTTP/1.1\r\nHost: h\r\nAuthorization: Token K\r\n\r\n",
    "as a password": f"GET /x HTTP/1.1\r\nHost: h\r\nAuthorization: Basic {BASIC}\r\n\r\n",
    "twice": "GET /x HTTP/1.1\r\nHost: h\r\napi-key: K\r\napi-key: K\r\n\r\n",
    "beside a wrong one": "GET /x HTTP/1.1\r\nHost: h\r\napi-key: x\r\nAuthorization: Bearer K\r\n\r\n",
    "with a byte too many": "GET /x HTTP/1.1\r\nHost: h\r\napi-key: K\xe9\r\n\r\n",
    "as a referrer": "GET /x HTTP/1.1\r\nHost: h\r\nReferer: https://h/?api-key=K\r\n\r\n",
    "as a cookie": "GET /x HTTP/1.1\r\nHost: h\r\nCookie: key=K\r\nUser-Agent: K\r\nOrigin: K\r\n\r\n",
    "as a forwarded address": "GET /x HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: K\r\nForwarded: for=K\r\n\r\n",
    "as a header's name": "GET /x HTTP/1.1\r\nHost: h\r\nK: 1\r\n\r\n",
    "as a request id with more": "GET /x HTTP/1.1\r\nHost: h\r\nX-Request-Id: Bearer K\r\n\r\n",
    "in a header without a colon": "GET /x HTTP/1.1\r\nHost: h\r\napi-key K\r\n\r\n",
    "in a header with a space": "GET /x HTTP/1.1\r\nHost: h\r\napi-key : K\r\n\r\n",
    "in a folded header": "GET /x HTTP/1.1\r\nHost: h\r\nx: y\r\n api-key: K\r\n\r\n",
    "in a header with a NUL": "GET /x HTTP/1.1\r\nHost: h\r\napi-key: K\x00\r\n\r\n",
    "in the place of a request line": "api-key: K\r\n\r\n",
    "in the place of a version": "GET / K\r\nHost: h\r\n\r\n",
    "in a version": "GET / HTTP/1.1K\r\nHost: h\r\n\r\n",
    "in the place of a length": "PUT /x HTTP/1.1\r\nHost: h\r\nContent-Length: K\r\n\r\n",
    "in the place of a coding": "PUT /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: K\r\n\r\n",
    "in the place of a chunk's size": (
        f"PUT /x HTTP/1.1\r\nHost: h\r\napi-key: {API_KEY}\r\nTransfer-Encoding: chunked\r\n\r\nK\r\n\r\n"
    ),
    "in a trailer": (
        f"PUT /x HTTP/1.1\r\nHost: h\r\napi-key: {API_KEY}\r\nTransfer-Encoding: chunked\r\n\r\n"
        "0\r\napi-key K\r\n\r\n"
    ),
    "in a head that is too long": f"GET /x HTTP/1.1\r\nHost: h\r\nx: {'y' * 40_000}K\r\n\r\n",
    "in a head that never ends": "GET /x HTTP/1.1\r\nHost: h\r\napi-key: K",
    "in HTTP/2": "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nK",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(
    ledger: Ledger, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[tuple[Daemon, Site]]:
    """At debug level, so that all is told that there is to tell."""
    site = live_site(tmp_path_factory.mktemp("site"))
    write_settings(site)
    for line in site.leaf.key_pem.decode().splitlines()[1:-1]:
        ledger.add(line, "the private key")
    async with Daemon.running(ledger, site.file, secrets=SECRETS) as daemon:
        yield daemon, site


def write_settings(site: Site, **upstream: str) -> None:
    configure(
        site,
        service={"read_only_api_key": READER},
        upstream={"api_key": UPSTREAMS, **upstream},
        logging={"level": "debug"},
    )


async def exchanged(connection: Connection, head: str) -> bytes:
    """All that comes back for a head, sent as it is, from a client that has no more to say."""
    connection.writer.write(head.encode("latin-1"))
    answer = b""
    with contextlib.suppress(ConnectionError, ssl.SSLError, TimeoutError):
        async with asyncio.timeout(0.3):
            while piece := await connection.reader.read(65536):
                answer += piece
    return answer


def assert_untold(answer: bytes) -> None:
    for secret in SECRETS:
        assert secret.encode() not in answer


async def test_a_key_in_an_odd_place_is_not_told_and_opens_nothing(served: tuple[Daemon, Site]) -> None:
    daemon, site = served
    trust = trusting(site.authority)

    async def one(head: str, secret: str, source: str) -> None:
        async with Connection.to(daemon, trust, source=source) as connection:
            assert_untold(await exchanged(connection, head.replace("K", secret)))

    # From many addresses, or a flood of denials from one would be told in a few lines.
    await asyncio.gather(
        *(
            one(head, secret, f"127.0.0.{number}")
            for number, head in enumerate(ODD_REQUESTS.values(), start=2)
            for secret in SECRETS
        )
    )
    async with Connection.to(daemon, trust) as connection:
        assert (await connection.ask()).status == 200
    daemon.assert_nothing_leaked()


async def test_a_key_sent_in_plaintext_to_the_tls_port_is_not_told(served: tuple[Daemon, Site]) -> None:
    daemon, _ = served
    async with Connection.to(daemon, None) as connection:
        await exchanged(connection, f"GET /?{API_KEY} HTTP/1.1\r\nHost: h\r\napi-key: {API_KEY}\r\n\r\n")
    await daemon.event("tls.handshake_failed", reason="http_request")
    daemon.assert_nothing_leaked()


async def test_an_upstream_that_fails_makes_nobody_tell_its_key(served: tuple[Daemon, Site]) -> None:
    daemon, site = served

    async def rude(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        assert UPSTREAMS.encode() in head
        assert API_KEY.encode() not in head
        writer.write(b"HTTP/1.1 " + head)
        writer.close()

    async with await asyncio.start_server(rude, "127.0.0.1", 0) as server:
        since = daemon.mark()
        write_settings(site, http=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
        await daemon.event("reload.applied", since=since)
        async with Connection.to(daemon, site.authority) as client:
            answer = await client.ask("/collections")
        assert answer.status == 502
        assert_untold(answer.body)
        await daemon.event("upstream.failed", since=since)
    since = daemon.mark()
    write_settings(site)
    await daemon.event("reload.applied", since=since)
    daemon.assert_nothing_leaked()


BROKEN = {
    "under a wrong name": f"service: {{api_kee: {API_KEY}}}",
    "without a space": f"service:\n  api_key:{API_KEY}\n",
    "without a space, beside others": f"service:\n  host: h\n  api_key:{API_KEY}\n",
    "without a space, in braces": f"service: {{api_key:{API_KEY}}}",
    "as all there is": API_KEY,
    "as a number": "service: {api_key: 123456789012345678901234567890}",
    "as a list": f"service: {{api_key: [{API_KEY}]}}",
    "with an accent": f"service: {{api_key: {API_KEY}é}}",
    "as a port": f"service: {{http_port: {API_KEY}}}",
    "as an upstream": f"upstream: {{http: {API_KEY}}}",
    "within an upstream": f"upstream: {{http: 'http://user:{API_KEY}@h:1'}}",
    "as a network": f"service: {{trusted_proxies: [{API_KEY}]}}",
    "as a policy": f"access: {{policy: {API_KEY}}}",
    "as a credential": f"service: {{api_key: 'credential:{API_KEY}'}}",
    "as a credential that is none": f"service: {{api_key: 'credential:{API_KEY}/'}}",
    "in YAML that ends early": f"service: {{api_key: [{API_KEY}",
    "in YAML with a tab": f"service:\n\tapi_key: {API_KEY}\n",
    "in YAML with a tag": f"service: {{api_key: !x {API_KEY}}}",
    "in YAML with an alias": f"service: {{api_key: *{API_KEY}}}",
    "twice in YAML": f"service: {{api_key: {API_KEY}, api_key: {API_KEY}}}",
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=list(BROKEN))
async def test_a_key_in_broken_settings_is_told_by_no_command(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    file = tmp_path / "rekeyd.yaml"
    file.write_text(text)
    for command in ("check", "serve"):
        assert await asyncio.to_thread(main, [command, "-c", str(file)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err
    assert_untold((captured.out + captured.err).encode())
    assert "123456789012345678901234567890" not in captured.err


async def test_settings_that_a_reload_refuses_are_not_told(served: tuple[Daemon, Site]) -> None:
    daemon, site = served
    good = site.file.read_bytes()
    socket = site.folder / "admin.sock"
    for text in BROKEN.values():
        replace_file(site.file, text.encode())
        _, outcome = await asyncio.to_thread(ask, socket, "POST", "/reload")
        assert outcome["outcome"] == "refused"
        assert_untold(json.dumps(outcome).encode())
        _, status = await asyncio.to_thread(ask, socket, "GET", "/status")
        assert_untold(json.dumps(status).encode())
    replace_file(site.file, good)
    assert (await asyncio.to_thread(ask, socket, "POST", "/reload"))[1]["outcome"] == "unchanged"
    daemon.assert_nothing_leaked()


async def test_the_command_line_and_the_names_of_threads_hold_none(served: tuple[Daemon, Site]) -> None:
    daemon, _ = served
    daemon.note_command_line()
    names = [task.read_bytes() for task in Path(f"/proc/{daemon.pid}/task").glob("*/comm")]
    assert names
    for name in names:
        assert_untold(name)
    daemon.assert_nothing_leaked()
