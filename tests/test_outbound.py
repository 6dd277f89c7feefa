"""Tunnels to a peer: who must answer there, what happens until it does, and nothing leaves in the clear."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from rekeyd.system.sockets import bind
from support.peers import Node, cluster, free_port
from support.pki import Authority, Leaf
from support.waiting import eventually
from support.wire import Link

SECRET = b"a secret between peers " * 100


@contextlib.asynccontextmanager
async def listening(
    folder: Path, leaf: Leaf, trusted: Authority, *, port: int = 0
) -> AsyncIterator[tuple[int, list[bytes]]]:
    """Somebody who is not rekeyd, behind TLS: the port, and what was heard there, decrypted."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*leaf.write(folder / "listening"))
    context.load_verify_locations(cadata=trusted.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    heard: list[bytes] = []
    over = asyncio.Event()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"what an impostor would say")
        with contextlib.suppress(OSError):
            heard.append(await reader.read(65536))
        await over.wait()
        writer.transport.abort()

    server = await asyncio.start_server(converse, "127.0.0.1", port, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        over.set()
        server.close()
        await asyncio.sleep(0)


async def reset_without_a_word(near: Link) -> None:
    await near.closed()
    assert near.received == b""
    assert isinstance(near.error, ConnectionResetError)


async def dialed(one: Node) -> Link:
    near = await one.dial()
    near.send(SECRET)
    return near


async def test_a_peer_of_another_authority_is_refused_and_named(tmp_path: Path) -> None:
    mallory = Authority("another CA").issue("two.test", peer=True)
    authority = Authority()
    async with (
        listening(tmp_path, mallory, authority) as (port, heard),
        cluster(tmp_path, authority=authority, dial=f"127.0.0.1:{port}") as (one, _),
    ):
        await reset_without_a_word(await dialed(one))
        line = await one.line("peer.failed", cause="certificate")
        assert line["peer"] == f"127.0.0.1:{port}"
        assert line["peer_certificate"] == "dns:two.test"
        assert "unable to get local issuer certificate" in line["problem"]
        assert b"".join(heard) == b""
        assert len(one.ledger) == 0


@pytest.mark.parametrize(
    ("name", "allowed", "why"),
    [
        ("three.test", ["dns:*.test"], "it is not dns:two.test"),
        ("two.test", ["dns:one.test"], "its certificate is not among cluster.p2p.allowed_peers"),
    ],
)
async def test_who_is_not_expected_gets_and_says_nothing(
    tmp_path: Path, name: str, allowed: list[str], why: str
) -> None:
    authority = Authority()
    async with (
        listening(tmp_path, authority.issue(name, peer=True), authority) as (port, heard),
        cluster(tmp_path, authority=authority, dial=f"127.0.0.1:{port}", allowed_peers=allowed) as (one, _),
    ):
        await reset_without_a_word(await dialed(one))
        line = await one.line("peer.failed")
        assert (line["cause"], line["problem"], line["peer_certificate"]) == (
            "certificate",
            why,
            f"dns:{name}",
        )
        assert b"".join(heard) == b""
        peer = one.status()["peers"][0]
        assert (peer["state"], peer["problem"]) == ("failing", why)


async def test_a_peer_that_is_revoked_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        assert two.leaf is not None
        (one.folder / "ca.crl").write_bytes(one.authority.crl(two.leaf))
        one.configure("tls", crl="ca.crl")
        one.publish()
        await reset_without_a_word(await dialed(one))
        line = await one.line("peer.failed", cause="certificate")
        assert "certificate revoked" in line["problem"]
        assert line["peer_certificate"] == "dns:two.test"


async def test_a_peer_that_does_not_take_us_is_a_failure_that_says_so(tmp_path: Path) -> None:
    """With TLS 1.3 the handshake is over for us when the peer objects."""
    async with cluster(tmp_path) as (one, two):
        one.authority = Authority("another CA")
        one.trusted.append(one.authority)
        one.publish(rotate=True)
        await reset_without_a_word(await dialed(one))
        line = await one.line("peer.failed")
        assert line["cause"] == "refused"
        assert "unknown_ca" in line["problem"]
        assert (await two.line("tls.handshake_failed"))["peer"] == "dns:one.test"


async def test_nothing_ever_leaves_in_the_clear(tmp_path: Path) -> None:
    """Somebody on the wire sees TLS records and nothing else; somebody who speaks no TLS gets nothing."""
    seen: list[bytes] = []

    async def tap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        with contextlib.suppress(OSError):
            while data := await reader.read(65536):
                seen.append(data)
        writer.transport.abort()

    server = await asyncio.start_server(tap, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, cluster(tmp_path, dial=f"127.0.0.1:{port}", connect_timeout=0.5) as (one, _):
        await reset_without_a_word(await dialed(one))
        assert (await one.line("peer.failed"))["cause"] == "tls"
    sent = b"".join(seen)
    assert sent
    assert b"secret" not in sent
    assert set(sent[:2]) == {0x16, 0x03}  # a handshake record (RFC 8446, 5.1)


async def test_what_crosses_the_wire_is_encrypted(tmp_path: Path) -> None:
    seen = bytearray()
    to = 0

    async def tap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection("127.0.0.1", to)

        async def copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError):
                while data := await source.read(65536):
                    seen.extend(data)
                    sink.write(data)
                sink.write_eof()

        await asyncio.gather(copy(reader, back), copy(there, writer))
        for sink in (back, writer):
            sink.transport.abort()

    server = await asyncio.start_server(tap, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, cluster(tmp_path, dial=f"127.0.0.1:{port}") as (one, two):
        to = two.port
        near = await dialed(one)
        far = await two.service.link()
        assert await far.take(len(SECRET)) == SECRET
        far.send(SECRET)
        assert await near.take(len(SECRET)) == SECRET
        near.half_close()
        far.half_close()
        await asyncio.gather(near.rest(), far.rest())
        await one.line("tunnel.closed", direction="out", reason="closed")
    assert len(seen) > 2 * len(SECRET)
    assert b"secret" not in seen


async def test_a_peer_that_is_not_there_yet_is_tried_with_growing_pauses(tmp_path: Path) -> None:
    port = free_port()
    async with cluster(tmp_path, dial=f"127.0.0.1:{port}", connect_timeout=10) as (one, two):
        near = await dialed(one)
        await eventually(lambda: one.status()["peers"][0]["failures"] >= 3)
        peer = one.status()["peers"][0]
        assert (peer["state"], peer["problem"]) == ("failing", "Connection refused")
        told = one.logged("peer.failed")
        assert [line["failures"] for line in told] == [1, 2]  # and then 4, 8, 16
        labels = {"direction": "out", "peer": f"127.0.0.1:{port}"}
        assert one.metric("rekeyd_tunnel_connect_failures", **labels) >= 3
        two.publish(upstream=f"127.0.0.1:{two.service.port}")
        await two_listens_at(two, port)
        far = await two.service.link()
        assert await far.take(len(SECRET)) == SECRET
        far.send(b"here I am")
        assert await near.take(9) == b"here I am"
        line = await one.line("peer.recovered")
        assert line["peer"] == f"127.0.0.1:{port}"
        assert one.status()["peers"][0]["state"] == "reached"
        assert one.metric("rekeyd_tunnel_connect_failures", **labels) == 0
        assert one.metric("rekeyd_tunnel_connects_total", outcome="connected", **labels) == 1


async def two_listens_at(two: Node, port: int) -> None:
    """The node comes up at last."""
    door = two.cluster.door
    assert door is not None
    door._accept_off()
    door._listening.close()
    door._listening = bind("127.0.0.1", port)
    door._listening.setblocking(False)
    door.open()


async def test_a_peer_that_does_not_come_resets_who_waits_for_it(tmp_path: Path) -> None:
    async with cluster(tmp_path, dial=f"127.0.0.1:{free_port()}", connect_timeout=0.4) as (one, _):
        await reset_without_a_word(await dialed(one))
        line = await one.line("tunnel.failed")
        assert line["problem"] == "Connection refused"
        assert one.metric("rekeyd_tunnels_ended_total", direction="out", reason="unreachable") == 1


async def test_a_peer_that_answers_nothing_runs_out_of_time(tmp_path: Path) -> None:
    """It accepts, and says nothing: a firewall, or a process that hangs."""
    came: list[asyncio.StreamWriter] = []

    async def hang(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        came.append(writer)

    server = await asyncio.start_server(hang, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with cluster(tmp_path, dial=f"127.0.0.1:{port}", connect_timeout=0.4) as (one, _):
        await reset_without_a_word(await dialed(one))
        assert (await one.line("peer.failed"))["cause"] == "timeout"
    server.close()
    for writer in came:
        writer.transport.abort()
