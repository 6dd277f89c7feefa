"""Tunnels between two nodes: what is said gets there, and each direction ends by itself."""

import asyncio
import resource
import socket
from pathlib import Path

import pytest

from rekeyd.listeners.tunnel.tunnel import Tunnel
from support.peers import cluster
from support.waiting import eventually
from support.wire import Link


async def test_what_is_said_gets_there_both_ways(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near = await one.dial()
        near.send(b"hello")
        far = await two.service.link()
        assert await far.take(5) == b"hello"
        far.send(b"x" * 1_000_000)
        assert await near.take(1_000_000) == b"x" * 1_000_000
        near.close()
        assert await far.rest() == b""


@pytest.mark.parametrize("first", ["near", "far"])
async def test_each_direction_ends_by_itself(tmp_path: Path, first: str) -> None:
    async with cluster(tmp_path) as (one, two):
        ends = [await one.dial(), await two.service.link()]
        asking, answering = ends if first == "near" else reversed(ends)
        asking.send(b"a question")
        asking.half_close()
        assert await answering.rest() == b"a question"
        answering.send(b"an answer, " * 100_000)
        answering.half_close()
        assert await asking.rest() == b"an answer, " * 100_000
        for node, direction in ((one, "out"), (two, "in")):
            line = await node.line("tunnel.closed", direction=direction)
            assert line["reason"] == "closed"
            assert sorted((line["bytes_to_peer"], line["bytes_from_peer"])) == [10, 1_100_000]
        for end in ends:
            end.close()
            await end.closed()
            assert end.error is None


async def test_what_is_said_and_ended_before_the_peer_is_reached_is_not_lost(tmp_path: Path) -> None:
    """The whole of a connection may be there before its other end is."""
    async with cluster(tmp_path) as (one, two):
        near = await one.dial()
        near.send(b"all there is")
        near.end_now()
        far = await two.service.link()
        assert await far.rest() == b"all there is"


async def test_both_may_end_at_the_same_moment(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near = await one.dial()
        far = await two.service.link()
        near.send(b"bye")
        far.send(b"bye")
        near.end_now()
        far.end_now()
        assert await near.rest() == await far.rest() == b"bye"
        for end in (near, far):
            end.close()
            await end.closed()
            assert end.error is None
        await one.line("tunnel.closed", direction="out", reason="closed")
        await one.line("tunnel.closed", direction="in", reason="closed")


@pytest.mark.parametrize("breaks", ["near", "far"])
async def test_what_breaks_off_on_one_side_breaks_off_on_the_other(tmp_path: Path, breaks: str) -> None:
    """Else half of something would look like the whole."""
    async with cluster(tmp_path) as (one, two):
        near = await one.dial()
        far = await two.service.link()
        near.send(b"half of it")
        far.send(b"half of it")
        assert await far.take(10) == await near.take(10) == b"half of it"
        broken, other = (near, far) if breaks == "near" else (far, near)
        broken.reset()
        await other.closed()
        assert isinstance(other.error, ConnectionResetError)
        line = await one.line("tunnel.closed", direction="out")
        assert line["reason"] == "broken_off"


async def test_what_was_said_before_a_break_is_delivered(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near = await one.dial()
        far = await two.service.link()
        far.transport.pause_reading()
        near.send(b"x" * 150_000)
        carried = two.cluster._tunnels.carried
        await eventually(lambda: next(iter(carried())).from_peer == 150_000, what="all of it")
        near.reset()
        await one.line("tunnel.closed", direction="out", reason="broken_off")
        far.transport.resume_reading()
        await far.closed()
        assert len(far.received) == 150_000
        assert isinstance(far.error, ConnectionResetError)


async def test_who_does_not_read_holds_up_who_writes_and_little_waits(tmp_path: Path) -> None:
    """64 MiB are offered to a service that reads nothing; what isn't in kernel buffers must not be here."""
    async with cluster(tmp_path) as (one, two):
        near = await one.dial(buffer=64 * 1024)
        far = await two.service.link()
        far.transport.pause_reading()
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        piece, sent = b"x" * 65536, 0
        near.transport.set_write_buffer_limits(high=65536)
        while sent < 64 << 20 and near._writable.is_set():
            near.send(piece)
            sent += len(piece)
            await asyncio.sleep(0.002)
        assert not near._writable.is_set(), "64 MiB were taken for a service that reads nothing"
        assert next(iter(one.cluster._tunnels.carried())).to_peer < 32 << 20
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
        assert grown < 16 << 10, f"{grown} KiB"
        far.transport.resume_reading()
        near.half_close()
        assert len(await far.rest()) == sent


async def test_a_flood_both_ways_does_not_lock_up(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near = await one.dial()
        far = await two.service.link()
        size = 4 << 20
        near.send(b"n" * size)
        far.send(b"f" * size)
        near.half_close()
        far.half_close()
        assert await near.rest() == b"f" * size
        assert await far.rest() == b"n" * size


async def test_a_tunnel_without_a_byte_ends_after_the_idle_time(tmp_path: Path) -> None:
    async with cluster(tmp_path, idle_timeout=0.5) as (one, two):
        near = await one.dial()
        far = await two.service.link()
        for _ in range(3):  # what is heard keeps it
            await asyncio.sleep(0.3)
            far.send(b".")
        assert await near.take(3) == b"..."
        for end in (near, far):
            await end.closed()
            assert isinstance(end.error, ConnectionResetError)
        reasons = {line["reason"] for line in one.logged("tunnel.closed")}
        assert "idle" in reasons


async def test_a_service_that_leaves_before_its_peer_is_reached_is_forgotten(tmp_path: Path) -> None:
    async with cluster(tmp_path, dial="127.0.0.1:1", connect_timeout=30) as (one, _):
        near = await one.dial()
        await one.line("peer.failed")
        near.reset()
        await eventually(lambda: one.cluster.doors[1].connections == 0, what="its end")
        assert one.status()["peers"][0]["tunnels"] == 0


async def test_an_end_that_is_gone_without_a_word_is_asked_for(tmp_path: Path) -> None:
    """TCP keepalive on all four sockets of a tunnel: to the service and to the peer, at both nodes."""
    async with cluster(tmp_path) as (one, two):
        near, far = await one.dial(), await two.service.link()
        near.send(b"hello")
        assert await far.take(5) == b"hello"
        tunnels = [*one.cluster._tunnels._open, *two.cluster._tunnels._open]
        ends = [end for tunnel in tunnels if isinstance(tunnel, Tunnel) for end in (tunnel.near, tunnel.far)]
        assert len(ends) == 4
        for end in ends:
            assert end is not None
            assert end.transport is not None
            sock = end.transport.get_extra_info("socket")
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
            options = (socket.TCP_KEEPIDLE, socket.TCP_KEEPCNT, socket.TCP_KEEPINTVL)
            idle, tries, pause = (sock.getsockopt(socket.IPPROTO_TCP, option) for option in options)
            assert idle + tries * pause <= 60


async def test_many_tunnels_are_told_apart(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        nears = [await one.dial() for _ in range(20)]
        for number, near in enumerate(nears):
            near.send(b"%3d" % number)
        fars: dict[int, Link] = {}
        for _ in nears:
            far = await two.service.link()
            fars[int(await far.take(3))] = far
        for number, far in fars.items():
            far.send(b"%3d" % (number * 2))
        assert [int(await near.take(3)) for near in nears] == [2 * number for number in range(20)]
        assert one.status()["peers"][0]["tunnels"] == 20
        assert one.ledger.per_generation() == {1: 20}
        assert two.status()["inbound"]["tunnels"] == 20
