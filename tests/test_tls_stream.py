"""TLS whose directions end one at a time, over sockets."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from rekeyd.system import tls_stream
from rekeyd.system.socket_transport import SocketTransport
from rekeyd.system.tls_session import Session
from rekeyd.system.tls_stream import HandshakeFailedError, TlsConnection, TlsTransport
from support.mutual import Contexts, context_of, mutual
from support.pki import Authority
from support.waiting import eventually
from support.wire import Link


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return mutual(tmp_path_factory.mktemp("tls"))


def at(sock: Any) -> tuple[str, int]:
    host, port = sock.getsockname()
    return host, port


# Over sockets.


async def accepted(
    sock: socket.socket, context: ssl.SSLContext, inside: asyncio.Protocol, *, framed: bool = False
) -> Exception | None:
    """How a handshake with who came in on `sock` ended; it may take 0.3 seconds."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[Exception | None] = loop.create_future()
    connection = TlsConnection(
        Session(context, server_side=True), lambda: inside, ended.set_result, framed=framed
    )
    sock.setblocking(False)
    SocketTransport(sock, connection, sock.getpeername())
    loop.call_later(0.3, connection.give_up, TimeoutError())
    return await ended


@contextlib.asynccontextmanager
async def connected(contexts: Contexts, *, framed: bool = False) -> AsyncIterator[tuple[Link, Link]]:
    """Two ends of a connection, the client first."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        client, server = Link(), Link()
        dialing = asyncio.create_task(
            tls_stream.connect(lambda: client, *at(listening), contexts[1], within=5)
        )
        sock, _ = await loop.sock_accept(listening)
        assert await accepted(sock, contexts[0], server, framed=framed) is None
        assert await dialing == (client.transport, client)
    try:
        yield client, server
    finally:
        for link in (client, server):
            link.abort()
        for link in (client, server):
            await link.closed()


async def test_a_half_closed_connection_carries_the_rest(contexts: Contexts) -> None:
    async with connected(contexts) as (client, server):
        assert isinstance(client.transport, TlsTransport)
        assert client.transport.can_write_eof()
        client.send(b"all")
        client.half_close()
        assert await server.take(3) == b"all"


async def test_a_connection_that_is_cut_off_is_an_error(contexts: Contexts) -> None:
    """A FIN without close_notify: half of something is not the whole."""
    async with connected(contexts) as (client, server):
        client.send(b"half of it")
        assert await server.take(10) == b"half of it"
        client.end_now()
        await server.closed()
        assert isinstance(server.error, ssl.SSLEOFError)


async def test_where_what_is_inside_says_its_own_end_a_bare_one_is_an_end(contexts: Contexts) -> None:
    async with connected(contexts, framed=True) as (client, server):
        client.send(b"all of it")
        assert await server.take(9) == b"all of it"
        client.end_now()
        await server.closed()
        assert server.error is None


async def test_who_takes_nothing_has_a_moment_for_what_is_left(
    contexts: Contexts, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls_stream, "CLOSE_TIMEOUT", 0.1)
    async with connected(contexts, framed=True) as (client, server):
        client.transport.pause_reading()
        while not server.transport.get_write_buffer_size():
            server.send(b"x" * 100_000)
        server.transport.close()
        await server.closed()
        client.transport.resume_reading()
        await client.closed()
        assert isinstance(client.error, ConnectionResetError | ssl.SSLEOFError)


async def test_what_waits_for_its_turn_in_a_handshake_is_little(contexts: Contexts) -> None:
    loop = asyncio.get_running_loop()
    steps: list[Callable[[], None]] = []
    session = Session(contexts[0], server_side=True)
    connection = TlsConnection(session, Link, lambda _: None, queue=steps.append)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        client = socket.create_connection(at(listening))
        sock, address = listening.accept()
        sock.setblocking(False)
        client.setblocking(False)
        SocketTransport(sock, connection, address)
        with client:
            sending = asyncio.create_task(loop.sock_sendall(client, b"x" * (16 << 20)))
            await eventually(lambda: not connection.raw.is_reading(), what="the end of reading")
            assert len(session._kept) <= 2 * tls_stream.FIRST
            assert len(steps) == 1
            steps[0]()
            await eventually(connection.raw.is_closing, what="its end, for it is no TLS")
            await asyncio.gather(sending, return_exceptions=True)


async def test_what_fails_to_begin_is_ended(contexts: Contexts) -> None:
    class Failing(Link):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            super().connection_made(transport)
            raise ValueError("on purpose")

    accidents: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, told: accidents.append(told["exception"]))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        dial = asyncio.create_task(tls_stream.connect(Link, *at(listening), contexts[1], within=5))
        sock, _ = await loop.sock_accept(listening)
        inside = Failing()
        await accepted(sock, contexts[0], inside)
        await inside.closed()
        await asyncio.gather(dial, return_exceptions=True)
    assert [str(error) for error in accidents] == ["on purpose"]
    loop.set_exception_handler(None)


async def test_another_protocol_may_take_over(contexts: Contexts) -> None:
    async with connected(contexts) as (client, server):
        other = Link()
        server.transport.set_protocol(other)
        assert server.transport.get_protocol() is other
        client.send(b"for the other")
        assert await other.take(13) == b"for the other"
        server.transport.set_protocol(server)


async def test_a_reset_is_seen_as_one(contexts: Contexts) -> None:
    async with connected(contexts) as (client, server):
        client.transport.abort()
        await server.closed()
        assert isinstance(server.error, ConnectionResetError)


async def test_what_is_no_tls_any_more_ends_it(contexts: Contexts) -> None:
    async with connected(contexts) as (client, server):
        assert isinstance(client.transport, TlsTransport)
        client.transport._connection.raw.write(b"plaintext, by mistake")
        await server.closed()
        assert isinstance(server.error, ssl.SSLError)


async def test_a_slow_reader_stops_the_writer(contexts: Contexts) -> None:
    async with connected(contexts) as (client, server):
        server.transport.pause_reading()
        assert not server.transport.is_reading()
        client.transport.set_write_buffer_limits(high=1000)
        for _ in range(200):
            if not client._writable.is_set():
                break
            client.send(b"x" * 100_000)
            await asyncio.sleep(0)
        assert not client._writable.is_set()
        assert client.transport.get_write_buffer_size() > 0
        server.transport.resume_reading()
        async with asyncio.timeout(5):
            await client.send_all(b"")


@pytest.fixture
def strangers(tmp_path: Path) -> ssl.SSLContext:
    other = Authority("another CA")
    return context_of(ssl.PROTOCOL_TLS_CLIENT, other.issue("mallory.test", peer=True), tmp_path)


async def accepting(contexts: Contexts, dial: asyncio.Future[Any], listening: socket.socket) -> Exception:
    sock, _ = await asyncio.get_running_loop().sock_accept(listening)
    error = await accepted(sock, contexts[0], Link())
    assert error is not None
    await asyncio.gather(dial, return_exceptions=True)
    return error


async def test_a_stranger_is_refused_named_and_told(contexts: Contexts, strangers: ssl.SSLContext) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        client = Link()
        dial = asyncio.create_task(tls_stream.connect(lambda: client, *at(listening), strangers, within=5))
        failed = await accepting(contexts, dial, listening)
        assert isinstance(failed, HandshakeFailedError)
        assert isinstance(failed.cause, ssl.SSLCertVerificationError)
        assert failed.shown is not None
        assert b"mallory.test" in failed.shown
        await client.closed()
        assert "ALERT_UNKNOWN_CA" in str(client.error)


async def test_a_silent_client_runs_out_of_time(contexts: Contexts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        dial = asyncio.create_task(asyncio.open_connection(*at(listening)))
        failed = await accepting(contexts, dial, listening)
        assert isinstance(failed, TimeoutError)
        _, writer = dial.result()
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def test_nobody_listens(contexts: Contexts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        gone = at(listening)
    with pytest.raises(ConnectionRefusedError):
        await tls_stream.connect(Link, *gone, contexts[1], within=5)


async def test_who_is_connected_to_must_speak_tls(contexts: Contexts) -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 hello\r\n")
        await reader.read(1)
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        with pytest.raises(HandshakeFailedError) as failed:
            await tls_stream.connect(Link, *at(server.sockets[0]), contexts[1], within=5)
    assert isinstance(failed.value.cause, ssl.SSLError)
    assert failed.value.shown is None
