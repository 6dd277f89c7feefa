"""Handshakes on accepted connections: each ends once and in time, and who fails is told why."""

import asyncio
import contextlib
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from rekeyd.system.handshaking import Handshakes
from support.gateway import API_KEY, stage
from support.pki import Authority
from support.wire import answering, connect, ok, request

HANDSHAKE, ALERT = 22, 21
"""Types of TLS records (RFC 8446, 5.1)."""
FATAL = 2
TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}

CA, STRANGERS = Authority(), Authority("somebody else's CA")
Change = Callable[[ssl.SSLContext], None]


Told = list[tuple[Exception | None, asyncio.Protocol | None]]


@contextlib.asynccontextmanager
async def listening(folder: Path, *, within: float = 5) -> AsyncIterator[tuple[int, Handshakes, Told]]:
    """A server that requires client certificates: its port, its handshakes, and what was told of them."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*CA.issue().write(folder))
    context.load_verify_locations(cadata=CA.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    loop, shaking, told = asyncio.get_running_loop(), Handshakes(within), Told()
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setblocking(False)

        async def accept() -> None:
            while True:
                sock, address = await loop.sock_accept(server)
                shaking.begin(
                    sock,
                    address,
                    context,
                    Greeting,
                    lambda error, guest: told.append((error, guest)),
                    framed=True,
                    group=address[0],
                )

        task = asyncio.create_task(accept())
        yield server.getsockname()[1], shaking, told
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await asyncio.wait_for(shaking.over(), 5)


class Greeting(asyncio.Protocol):
    """Says one word and closes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(b"hello")
        transport.close()


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
    async with listening(tmp_path) as (port, _, _told):
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
    async with listening(tmp_path) as (port, _, _told):
        seen, came = await asyncio.to_thread(reason_seen, port, context)
    assert seen == reason
    assert records(came) == [(ALERT, bytes([FATAL, number]))]


# In time, and told once.


def hello_from(port: int, own: Path) -> bytes:
    """All that a client with that certificate is told."""
    context = client(own=own)
    with (
        socket.create_connection(("127.0.0.1", port), 5) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        heard = b""
        while piece := tls.recv(100):
            heard += piece
        return heard


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A good certificate of the authority that the server believes."""
    leaf = CA.issue("client", client=True)
    path = tmp_path / "client.pem"
    path.write_bytes(leaf.chain_pem + leaf.key_pem)
    return path


async def test_each_that_ends_well_is_told_once_with_what_was_made(tmp_path: Path, own: Path) -> None:
    async with listening(tmp_path) as (port, shaking, told):
        heard = await asyncio.gather(*(asyncio.to_thread(hello_from, port, own) for _ in range(5)))
        assert heard == [b"hello"] * 5
        await asyncio.wait_for(shaking.over(), 5)
        assert len(shaking) == 0
        assert [error for error, _ in told] == [None] * 5
        assert all(isinstance(guest, Greeting) for _, guest in told)


async def test_who_is_silent_is_ended_in_the_order_of_coming(tmp_path: Path, own: Path) -> None:
    async with listening(tmp_path, within=0.2) as (port, shaking, told):
        silent = [await connect("127.0.0.1", port) for _ in range(3)]
        assert await asyncio.to_thread(hello_from, port, own) == b"hello"
        for link in silent:
            assert await link.rest() == b""
        await asyncio.wait_for(shaking.over(), 5)
        assert [type(error) for error, _ in told] == [type(None), *[TimeoutError] * 3]
        late = await connect("127.0.0.1", port)
        assert await late.rest() == b"", "the clock was set again"
        for link in (*silent, late):
            link.close()


async def test_what_is_said_beyond_a_handshake_waits_with_the_kernel(tmp_path: Path) -> None:
    """A client that floods its handshake fills no memory: reading stops until what came was looked at."""
    async with listening(tmp_path) as (port, shaking, told):
        link = await connect("127.0.0.1", port)
        link.send(hello_of_tls_1_1().read(), b"x" * 10_000_000)
        await link.closed()
        await asyncio.wait_for(shaking.over(), 5)
        assert len(told) == 1
        link.close()


async def test_a_client_that_speaks_and_leaves_at_once_is_heard(tmp_path: Path, own: Path) -> None:
    """Its last words of the handshake and its end come together."""
    async with listening(tmp_path) as (port, shaking, told):
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        tls = client(own=own).wrap_bio(incoming, outgoing, server_hostname="localhost")
        link = await connect("127.0.0.1", port)
        with contextlib.suppress(ssl.SSLWantReadError):
            tls.do_handshake()
        link.send(outgoing.read())
        while True:
            await link.wait_for(lambda: len(link.received) > 0, "the server's part")
            incoming.write(bytes(link.received))
            link.received.clear()
            try:
                tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                pass
        link.send(outgoing.read())
        link.half_close()
        await asyncio.wait_for(shaking.over(), 5)
        assert [error for error, _ in told] == [None]
        link.close()


# Behind the real door.


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
