"""Which connections are lent, and which are kept."""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator

import pytest

from rekeyd.settings.upstream_address import parse_upstream
from rekeyd.upstream import connectors, pool
from rekeyd.upstream.connection import UpstreamConnection, UpstreamError, UpstreamTimeoutError
from rekeyd.upstream.pool import Pool
from support.waiting import eventually
from support.wire import END_OF_HEAD, Upstream, answering, ok

HEAD = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


@contextlib.asynccontextmanager
async def pooled(answer: bytes = b"") -> AsyncIterator[tuple[Pool, Upstream]]:
    upstream = Upstream(answering(answer or ok()))
    await upstream.start()
    pool = Pool(connectors.tcp(parse_upstream(upstream.address), None), connect_timeout=1)
    try:
        yield pool, upstream
    finally:
        pool.close(abort=True)
        await upstream.stop()


async def exchange(connection: UpstreamConnection) -> None:
    connection.begin(HEAD, b"GET", upgrades=False, read_timeout=5)
    connection.request_sent()
    await connection.head()
    while await connection.piece():
        pass


async def test_a_connection_is_kept_after_a_good_exchange_and_lent_again() -> None:
    async with pooled() as (pool, upstream):
        for _ in range(3):
            connection = await pool.acquire()
            await exchange(connection)
            pool.release(connection)
        assert (pool.counts.opened, pool.counts.reused, len(upstream.links)) == (1, 2, 1)


async def test_two_exchanges_never_share_a_connection() -> None:
    async with pooled() as (pool, _):
        one, other = await pool.acquire(), await pool.acquire()
        assert one is not other


async def test_the_youngest_goes_first() -> None:
    async with pooled() as (pool, _):
        one, other = await pool.acquire(), await pool.acquire()
        for connection in (one, other):
            await exchange(connection)
            pool.release(connection)
        assert await pool.acquire() is other


async def test_a_fresh_one_is_fresh_whatever_is_kept() -> None:
    async with pooled() as (pool, _):
        connection = await pool.acquire()
        pool.release(connection)
        assert await pool.acquire(fresh=True) is not connection


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(ok(b"x", "Connection: close"), id="it says so"),
        pytest.param(b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\nx", id="HTTP/1.0"),
        pytest.param(ok(b"x") + b"y", id="more than the answer"),
    ],
)
async def test_a_connection_that_is_not_clean_is_closed(answer: bytes) -> None:
    async with pooled(answer) as (pool, upstream):
        connection = await pool.acquire()
        await exchange(connection)
        pool.release(connection)
        assert not pool._idle
        await upstream.links[0].closed()


async def test_an_exchange_that_was_given_up_takes_its_connection_along() -> None:
    async with pooled() as (pool, upstream):
        connection = await pool.acquire()
        connection.begin(HEAD, b"GET", upgrades=False, read_timeout=5)
        pool.release(connection)
        assert not pool._idle
        await (await upstream.link()).closed()


async def test_an_idle_connection_that_grew_old_is_not_lent_and_then_closed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pool, "IDLE_FOR", 0.1)
    async with pooled() as (mine, upstream):
        mine.release(await mine.acquire())
        await upstream.links[0].closed()
        mine.release(await mine.acquire())
        assert mine.counts.opened == 2
        await eventually(lambda: not mine._idle)


async def test_no_more_than_a_bounded_number_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "MAX_IDLE", 2)
    async with pooled() as (mine, _):
        connections = [await mine.acquire() for _ in range(4)]
        for connection in connections:
            mine.release(connection)
        assert len(mine._idle) == 2


async def test_a_closed_pool_closes_what_is_idle_now_and_what_is_lent_when_it_comes_back() -> None:
    async with pooled() as (pool, upstream):
        lent, idle = await pool.acquire(), await pool.acquire()
        pool.release(idle)
        pool.close()
        ended = asyncio.create_task(pool.ended())
        await upstream.links[1].closed()
        await exchange(lent)
        assert not ended.done()
        pool.release(lent)
        await ended
        await upstream.links[0].closed()


async def test_a_port_where_nobody_listens_is_told_as_such() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    nowhere = Pool(connectors.tcp(parse_upstream(f"http://127.0.0.1:{port}"), None), connect_timeout=1)
    with pytest.raises(UpstreamError, match="Connection refused") as caught:
        await nowhere.acquire()
    assert caught.value.cause == "connect"


async def test_a_name_that_nobody_knows_is_told_as_such() -> None:
    nowhere = Pool(connectors.tcp(parse_upstream("http://no.such.host.invalid"), None), connect_timeout=5)
    with pytest.raises(UpstreamError) as caught:
        await nowhere.acquire()
    assert caught.value.cause in {"connect", "timeout"}


async def test_a_queue_that_is_full_is_a_timeout() -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.socket())
        server.bind(("127.0.0.1", 0))
        server.listen(0)
        for _ in range(4):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(server.getsockname())
        address = parse_upstream(f"http://127.0.0.1:{server.getsockname()[1]}")
        full = Pool(connectors.tcp(address, None), connect_timeout=0.2)
        with pytest.raises(UpstreamTimeoutError, match=r"no connection within 0\.2 s"):
            await full.acquire()


async def test_an_upstream_that_closes_an_idle_connection_is_connected_to_anew() -> None:
    async with pooled() as (pool, upstream):
        pool.release(await pool.acquire())
        upstream.links[0].end_now()
        connection = await pool.acquire()
        await exchange(connection)
        assert END_OF_HEAD in upstream.links[1].received
