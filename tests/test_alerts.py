"""Alerts: a client whose handshake fails is told why, and is sent nothing else."""

import asyncio
import contextlib
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rekeyd.system.alerts import ACCEPTED, AlertingContext
from support.gateway import API_KEY, stage
from support.pki import Authority
from support.wire import answering, ok, request

HANDSHAKE, ALERT = 22, 21
"""Types of TLS records (RFC 8446, 5.1)."""
FATAL = 2
TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

CA, STRANGERS = Authority(), Authority("somebody else's CA")
Change = Callable[[ssl.SSLContext], None]


@contextlib.asynccontextmanager
async def listening(folder: Path, *, alerting: bool = True) -> AsyncIterator[int]:
    """A server that requires client certificates, as the door accepts; its port."""
    context = (AlertingContext if alerting else ssl.SSLContext)(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*CA.issue().write(folder))
    context.load_verify_locations(cadata=CA.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        async def accept() -> None:
            while True:
                sock, _ = await loop.sock_accept(server)
                ACCEPTED.set(sock)
                with contextlib.suppress(OSError):
                    await loop.connect_accepted_socket(asyncio.Protocol, sock, ssl=context)

        task = asyncio.create_task(accept())
        yield server.getsockname()[1]
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def client(*, own: Path | None = None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=CA.pem.decode())
    if own is not None:
        context.load_cert_chain(own)
    return context


def reason_seen(port: int, context: ssl.SSLContext) -> tuple[str, bytes]:
    """What ends the attempt, in OpenSSL's words, and all bytes that the server sent."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname="localhost")
    came = b""
    with socket.create_connection(("127.0.0.1", port), 5) as sock:
        step: Callable[[], object] = tls.do_handshake
        while True:
            try:
                step()
                step = lambda: tls.read(1)  # noqa: E731 - in TLS 1.3 the refusal comes after the handshake
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLError as error:
                return error.reason or type(error).__name__, came
            sock.sendall(outgoing.read())
            if incoming.pending:
                continue
            piece = received(sock)
            came += piece
            if piece:
                incoming.write(piece)
            else:
                incoming.write_eof()


def received(sock: socket.socket) -> bytes:
    try:
        return sock.recv(65536)
    except ConnectionResetError:
        return b""


def records(data: bytes) -> list[tuple[int, bytes]]:
    """The TLS records in it; a torn one is an error."""
    found = []
    while data:
        length = int.from_bytes(data[3:5], "big")
        assert len(data) >= 5 + length, "a torn record"
        found.append((data[0], data[5 : 5 + length]))
        data = data[5 + length :]
    return found


@pytest.fixture
def strangers_own(tmp_path: Path) -> Path:
    """A good certificate of an authority that the server does not know."""
    leaf = STRANGERS.issue("stranger", client=True)
    own = tmp_path / "stranger.pem"
    own.write_bytes(leaf.chain_pem + leaf.key_pem)
    return own


def only_tls_1_1(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


def no_shared_cipher(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("AES128-SHA")


def hello_of_tls_1_1() -> ssl.MemoryBIO:
    context, hello = client(), ssl.MemoryBIO()
    only_tls_1_1(context)
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost").do_handshake()
    return hello


@pytest.mark.parametrize("version", list(TLS))
@pytest.mark.parametrize("shows", [True, False])
async def test_a_client_certificate_that_is_unknown_or_missing_is_told_by_an_alert(
    tmp_path: Path, strangers_own: Path, version: str, *, shows: bool
) -> None:
    context = client(own=strangers_own if shows else None)
    context.minimum_version = context.maximum_version = TLS[version]
    async with listening(tmp_path) as port:
        reason, came = await asyncio.to_thread(reason_seen, port, context)
    missing = {"1.2": "SSLV3_ALERT_HANDSHAKE_FAILURE", "1.3": "TLSV13_ALERT_CERTIFICATE_REQUIRED"}[version]
    assert reason == ("TLSV1_ALERT_UNKNOWN_CA" if shows else missing)
    if version == "1.2":
        kinds = [kind for kind, _ in records(came)]
        assert kinds == [HANDSHAKE] * (len(kinds) - 1) + [ALERT]


@pytest.mark.parametrize(
    ("change", "reason", "number"),
    [
        (only_tls_1_1, "TLSV1_ALERT_PROTOCOL_VERSION", 70),
        (no_shared_cipher, "SSLV3_ALERT_HANDSHAKE_FAILURE", 40),
    ],
)
async def test_an_offer_that_can_not_be_taken_is_answered_by_one_alert_and_nothing_else(
    tmp_path: Path, change: Change, reason: str, number: int
) -> None:
    context = client()
    change(context)
    async with listening(tmp_path) as port:
        seen, came = await asyncio.to_thread(reason_seen, port, context)
    assert seen == reason
    assert records(came) == [(ALERT, bytes([FATAL, number]))]


async def test_without_it_the_client_would_see_a_bare_end(tmp_path: Path) -> None:
    """Should this fail, asyncio sends alerts by itself: then `alerts` can go."""
    context = client()
    only_tls_1_1(context)
    async with listening(tmp_path, alerting=False) as port:
        assert await asyncio.to_thread(reason_seen, port, context) == ("UNEXPECTED_EOF_WHILE_READING", b"")


async def test_a_handshake_whose_socket_is_not_known_fails_as_any_other() -> None:
    incoming, outgoing = hello_of_tls_1_1(), ssl.MemoryBIO()
    wrapped = AlertingContext(ssl.PROTOCOL_TLS_SERVER).wrap_bio(incoming, outgoing, server_side=True)
    with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
        wrapped.do_handshake()
    assert records(outgoing.read()) == [(ALERT, bytes([FATAL, 70]))], "nobody took it"


async def test_a_client_that_is_gone_before_its_alert_is_nobodys_trouble(tmp_path: Path) -> None:
    context = AlertingContext(ssl.PROTOCOL_TLS_SERVER)
    here, there = socket.socketpair()
    there.close()
    incoming, outgoing = hello_of_tls_1_1(), ssl.MemoryBIO()
    with here:
        token = ACCEPTED.set(here)
        wrapped = context.wrap_bio(incoming, outgoing, server_side=True)
        ACCEPTED.reset(token)
        with pytest.raises(ssl.SSLError, match="UNSUPPORTED_PROTOCOL"):
            wrapped.do_handshake()


@pytest.mark.parametrize("version", list(TLS))
async def test_the_gateways_own_contexts_alert(tmp_path: Path, version: str) -> None:
    (tmp_path / "clients.pem").write_bytes(STRANGERS.pem)
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        client = await scene.client()
        scene.publish(service={"verify_https_client_certificate": True}, tls={"ca_cert": "clients.pem"})
        context = scene.context()
        assert context is not None
        context.minimum_version = context.maximum_version = TLS[version]
        reason, _ = await asyncio.to_thread(reason_seen, scene.port, context)
        assert reason in {"SSLV3_ALERT_HANDSHAKE_FAILURE", "TLSV13_ALERT_CERTIFICATE_REQUIRED"}
        client.send(request(key=API_KEY))
        assert (await client.answer()).status == 200, "who was in before goes on"
        await scene.record()
