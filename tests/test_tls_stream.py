"""TLS whose directions end one at a time: in memory, byte by byte, and over sockets."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.system import tls_stream
from rekeyd.system.shown import ShowingContext
from rekeyd.system.tls_stream import HandshakeFailedError, Session, TlsTransport
from support.pki import Authority, Leaf
from support.wire import Link

AUTHORITY = Authority()


def context_of(side: int, leaf: Leaf, folder: Path, trusted: Authority = AUTHORITY) -> ssl.SSLContext:
    context = ShowingContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_cert_chain(*leaf.write(folder))
    context.load_verify_locations(cadata=trusted.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    folder = tmp_path_factory.mktemp("tls")
    leaf = AUTHORITY.issue("node.test", peer=True)
    return (
        context_of(ssl.PROTOCOL_TLS_SERVER, leaf, folder),
        context_of(ssl.PROTOCOL_TLS_CLIENT, leaf, folder),
    )


def at(sock: Any) -> tuple[str, int]:
    host, port = sock.getsockname()
    return host, port


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def pair(contexts: Contexts) -> tuple[Session, Session]:
    """Both ends, shaken hands; the client first."""
    server, client = contexts
    one, two = Session(client, server_side=False), Session(server, server_side=True)
    one.start()
    for _ in range(3):
        assert two.receive(one.pending()) == []
        assert one.receive(two.pending()) == []
    assert one.established
    assert two.established
    return one, two


def heard(session: Session, data: bytes, *, by: int = 1 << 20) -> bytes:
    """What a session makes of bytes that come in pieces of that size."""
    pieces = (data[at : at + by] for at in range(0, len(data), by))
    return b"".join(part for piece in pieces for part in session.receive(piece))


# In memory.


@pytest.mark.parametrize("by", [1, 7, 1 << 20])
def test_each_direction_ends_with_a_word_of_its_own(contexts: Contexts, by: int) -> None:
    one, two = pair(contexts)
    one.send(b"a question")
    one.finish()
    assert heard(two, one.pending(), by=by) == b"a question"
    assert (two.ended, one.ended) == (True, False)
    two.send(b"an answer " * 10_000)
    assert heard(one, two.pending(), by=by) == b"an answer " * 10_000
    assert not one.ended
    two.finish()
    assert heard(one, two.pending(), by=by) == b""
    assert one.ended


def test_what_comes_after_the_end_is_thrown_away(contexts: Contexts) -> None:
    one, two = pair(contexts)
    one.finish()
    assert heard(two, one.pending()) == b""
    for _ in range(100):
        assert two.receive(b"\x17\x03\x03\x40\x00" + bytes(16384)) == []
    assert two._incoming.pending == 0


def test_both_may_end_at_once(contexts: Contexts) -> None:
    one, two = pair(contexts)
    for session in (one, two):
        session.send(b"the last word")
        session.finish()
    from_one, from_two = one.pending(), two.pending()
    assert heard(one, from_two) == heard(two, from_one) == b"the last word"
    assert one.ended
    assert two.ended


def test_who_has_ended_still_hears_what_comes_in_pieces(contexts: Contexts) -> None:
    """A part of a record lies in OpenSSL when the end is said."""
    one, two = pair(contexts)
    two.send(b"x" * 50_000)
    record = two.pending()
    begun = heard(one, record[:1000])
    one.finish()
    assert begun + heard(one, record[1000:], by=999) == b"x" * 50_000
    assert heard(two, one.pending()) == b""
    assert two.ended


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=40_000), max_size=6), by=st.integers(1, 20_000))
def test_whatever_is_said_arrives_whole(contexts: Contexts, pieces: list[bytes], by: int) -> None:
    one, two = pair(contexts)
    for piece in pieces:
        one.send(piece)
    one.finish()
    assert heard(two, one.pending(), by=by) == b"".join(pieces)
    assert two.ended


@settings(max_examples=50, deadline=None)
@given(noise=st.binary(min_size=1, max_size=200))
def test_what_is_no_tls_is_an_error_and_nothing_else(contexts: Contexts, noise: bytes) -> None:
    session = Session(contexts[0], server_side=True)
    with contextlib.suppress(ssl.SSLError):
        assert session.receive(noise) == []
    assert not session.established


# Over sockets.


@contextlib.asynccontextmanager
async def connected(contexts: Contexts) -> AsyncIterator[tuple[Link, Link]]:
    """Two ends of a connection, the client first."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        client, server = Link(), Link()
        dialing = asyncio.create_task(
            tls_stream.connect(lambda: client, *at(listening), contexts[1], within=5)
        )
        sock, _ = await loop.sock_accept(listening)
        await tls_stream.accept(lambda: server, sock, contexts[0], 5)
        assert await dialing is client
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
    with pytest.raises(OSError) as failed:  # noqa: PT011 - which one is asked by the caller
        await tls_stream.accept(Link, sock, contexts[0], 0.3)
    await asyncio.gather(dial, return_exceptions=True)
    return failed.value


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
