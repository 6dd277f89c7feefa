"""One connection to an upstream that does what it likes."""

import asyncio
import contextlib
import socket
import ssl
import tempfile
from collections.abc import AsyncIterator

import pytest

from rekeyd.system import tls_stream
from rekeyd.upstream.connection import (
    HIGH_WATER,
    UpstreamConnection,
    UpstreamError,
    UpstreamStaleError,
    UpstreamTimeoutError,
)
from support.pki import Authority
from support.waiting import eventually
from support.wire import END_OF_HEAD, Link, Upstream, ok

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[UpstreamConnection, Link]]:
    """Both ends of a connection."""
    loop = asyncio.get_running_loop()
    near, far = socket.socketpair()
    _, link = await loop.create_unix_connection(Link, sock=far)
    _, connection = await loop.create_unix_connection(lambda: UpstreamConnection(loop), sock=near)
    try:
        yield connection, link
    finally:
        connection.close()
        link.abort()
        await asyncio.sleep(0)


def begin(connection: UpstreamConnection, *, read_timeout: float = 5) -> None:
    connection.begin(HEAD, b"GET", upgrades=False, read_timeout=read_timeout)
    connection.request_sent()


async def exchanged(connection: UpstreamConnection, link: Link) -> None:
    begin(connection)
    await link.until(END_OF_HEAD)
    link.send(ok(b"x"))
    await connection.head()
    assert await connection.piece() == b"x"
    assert await connection.piece() == b""
    assert connection.rest()


async def test_an_exchange_leaves_the_connection_fit_for_another() -> None:
    async with connected() as (connection, link):
        for _ in range(3):
            assert connection.is_usable(4.0)
            await exchanged(connection, link)


@pytest.mark.parametrize("at", ["before the first", "after one"])
async def test_bytes_that_nobody_asked_for_close_the_connection(at: str) -> None:
    async with connected() as (connection, link):
        if at == "after one":
            await exchanged(connection, link)
        link.send(ok(b"evil"))
        assert not connection.is_usable(4.0)
        await link.closed()
        begin(connection)
        with pytest.raises(UpstreamError):
            await connection.head()


async def test_a_connection_that_was_closed_is_not_usable_even_before_the_loop_saw_it() -> None:
    async with connected() as (connection, link):
        await exchanged(connection, link)
        link.end_now()
        assert not connection.is_usable(4.0)


async def test_a_connection_that_ended_is_not_usable_although_its_transport_is_not_gone_yet() -> None:
    """So it is over TLS, where close_notify comes before the FIN: the socket has nothing more to read."""
    async with connected() as (connection, link):
        await exchanged(connection, link)
        assert connection.is_usable(4.0)
        connection.eof_received()
        assert not connection.is_usable(4.0)


async def test_only_silence_on_a_kept_connection_is_stale() -> None:
    for kept, said, kind in (
        (True, b"", UpstreamStaleError),
        (True, b"HT", UpstreamError),
        (False, b"", UpstreamError),
    ):
        async with connected() as (connection, link):
            if kept:
                await exchanged(connection, link)
            begin(connection)
            await link.until(END_OF_HEAD)
            link.send(said)
            link.close()
            with pytest.raises(UpstreamError) as caught:
                await connection.head()
            assert type(caught.value) is kind


async def test_reading_stops_at_high_water_and_goes_on_when_pieces_are_taken() -> None:
    async with connected() as (connection, link):
        begin(connection)
        link.send(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 5_000_000)
        await connection.head()
        await eventually(lambda: not connection._reading)
        assert connection._waiting_bytes <= HIGH_WATER + 256 * 1024  # a read of asyncio's is that large
        got = 0
        link.close()
        while piece := await connection.piece():
            got += len(piece)
        assert got == 5_000_000


async def test_a_long_head_and_what_stands_between_chunks_do_not_stop_the_reading() -> None:
    """Of them nothing is there to be taken, whereupon reading would go on."""
    async with connected() as (connection, link):
        begin(connection)
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: " + b"a" * 40_000 + END_OF_HEAD)
        await connection.head()
        link.send(b"3;x=" + b"b" * 40_000)
        await eventually(lambda: connection.reader is not None and connection.reader._unbroken > 40_000)
        link.send(b"\r\nabc\r\n0\r\n\r\n")
        async with asyncio.timeout(5):
            assert await connection.piece() == b"abc"
            assert await connection.piece() == b""


async def test_silence_is_timed_out_only_while_the_upstream_is_waited_for() -> None:
    async with connected() as (connection, _):
        connection.begin(HEAD, b"PUT", upgrades=False, read_timeout=0.1)
        await asyncio.sleep(0.3)
        await connection.write(b"x")
        await asyncio.sleep(0.3)
        connection.request_sent()
        with pytest.raises(UpstreamTimeoutError, match=r"silent for 0\.1 s"):
            await connection.head()


async def test_a_body_that_is_taken_slowly_does_not_time_out() -> None:
    async with connected() as (connection, link):
        begin(connection, read_timeout=0.1)
        link.send(b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 1_000_000)
        await connection.head()
        link.close()
        got = 0
        for _ in range(3):
            await asyncio.sleep(0.2)
            got += len(await connection.piece())
        while piece := await connection.piece():
            got += len(piece)
        assert got == 1_000_000


async def test_writing_waits_for_room_and_fails_when_the_upstream_goes() -> None:
    async with connected() as (connection, link):
        link.transport.pause_reading()
        connection.begin(HEAD, b"PUT", upgrades=False, read_timeout=5)
        write = asyncio.create_task(connection.write(b"x" * 5_000_000))
        await asyncio.sleep(0.05)
        assert not write.done()
        link.transport.abort()
        with pytest.raises(UpstreamError):
            await write
        with pytest.raises(UpstreamError):
            await connection.write(b"x")


@pytest.mark.parametrize("polite", [True, False])
async def test_over_tls_an_end_without_close_notify_is_no_end(polite: bool) -> None:
    """Whoever sits on the way can forge a FIN, and so cut a body that ends with the connection."""
    authority = Authority()
    leaf = authority.issue("localhost")
    loop = asyncio.get_running_loop()
    client = ssl.create_default_context(cadata=authority.pem.decode())
    listening = socket.create_server(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    pem = leaf.chain_pem + leaf.key_pem
    thread = asyncio.create_task(asyncio.to_thread(_serve_tls, listening, pem, polite))
    _, connection = await tls_stream.connect(
        lambda: UpstreamConnection(loop), "127.0.0.1", port, client, within=5, server_name="localhost"
    )
    assert isinstance(connection, UpstreamConnection)
    begin(connection)
    assert (await connection.head()).until_close
    assert await connection.piece() == b"abc"
    if polite:
        assert await connection.piece() == b""
    else:
        with pytest.raises(UpstreamError, match="closed the connection without close_notify"):
            await connection.piece()
    await thread
    connection.close()


def _serve_tls(listening: socket.socket, pem: bytes, polite: bool) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.NamedTemporaryFile() as file:
        file.write(pem)
        file.flush()
        context.load_cert_chain(file.name)
    with listening:
        sock, _ = listening.accept()
    with context.wrap_socket(sock, server_side=True) as tls:
        while not tls.recv(65536).endswith(END_OF_HEAD):
            pass
        tls.sendall(b"HTTP/1.1 200 OK\r\n\r\nabc")
        if polite:
            with contextlib.suppress(OSError):
                tls.unwrap().close()
        else:
            tls.shutdown(socket.SHUT_WR)
            with contextlib.suppress(OSError):
                tls.recv(1)


async def test_a_peer_that_speaks_first_is_not_an_http_upstream() -> None:
    async def greet(link: Link) -> None:
        link.send(b"220 mail.test ESMTP\r\n")
        await link.closed()

    upstream = Upstream(greet)
    await upstream.start()
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_connection(lambda: UpstreamConnection(loop), "127.0.0.1", upstream.port)
    await eventually(lambda: not connection.is_usable(4.0))
    await upstream.stop()
