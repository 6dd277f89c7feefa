"""Peers that come in: who is let in, who is refused and named, and what the service hears of it."""

import asyncio
import base64
import hashlib
import shutil
import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rekeyd.listeners.door import Limits
from rekeyd.system.handshaking import Handshakes
from support.peers import Node, Service, cluster
from support.pki import Authority, Leaf
from support.waiting import eventually
from support.wire import Link, connect

FAILED = "tls.handshake_failed"


def dialer(folder: Path, leaf: Leaf | None, trusted: Authority) -> ssl.SSLContext:
    """Somebody else's TLS, who believes `trusted` and shows `leaf`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=trusted.pem.decode())
    if leaf is not None:
        context.load_cert_chain(*leaf.write(folder / "dialer"))
    return context


async def come_in(node: Node, folder: Path, leaf: Leaf | None) -> Link:
    return await connect("127.0.0.1", node.port, dialer(folder, leaf, node.authority))


async def refused(node: Node, link: Link) -> None:
    """It ends, and the service has heard nothing."""
    await link.closed()
    assert link.received == b""
    assert node.service.links.empty()
    assert len(node.ledger) == 0
    await eventually(lambda: node.cluster.doors[0].connections == 0)


async def test_a_peer_of_another_authority_is_refused_and_named(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, two):
        stranger = Authority("another CA").issue("mallory.test", peer=True)
        link = await come_in(two, tmp_path, stranger)
        link.send(b"let me in")
        await refused(two, link)
        line = await two.line(FAILED, listener="p2p")
        assert line["peer"] == "dns:mallory.test"
        assert line["client"] == "127.0.0.1"
        assert line["reason"] == "client_certificate: unable to get local issuer certificate"
        failures = two.metric("rekeyd_handshake_failures_total", listener="p2p", reason="client_certificate")
        assert failures == 1


async def test_a_peer_without_a_certificate_is_refused(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, two):
        link = await come_in(two, tmp_path, None)
        await refused(two, link)
        assert (await two.line(FAILED))["reason"] == "peer_did_not_return_a_certificate"


async def test_a_peer_that_speaks_an_older_tls_is_refused(tmp_path: Path) -> None:
    """Only TLS 1.3 can end one direction before the other."""
    async with cluster(tmp_path) as (_, two):
        context = dialer(tmp_path, two.authority.issue("one.test", peer=True), two.authority)
        context.maximum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(ssl.SSLError):
            await connect("127.0.0.1", two.port, context)
        assert (await two.line(FAILED))["reason"] == "unsupported_protocol"


@pytest.mark.parametrize(
    ("allowed", "let_in"),
    [
        (["dns:one.test"], True),
        (["dns:two.test", "dns:*.test"], True),
        (["uri:spiffe://cluster/node/*"], True),
        (["PIN"], True),
        (["dns:two.test"], False),
        (["uri:spiffe://cluster/other/*"], False),
        (["spki:sha256/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA="], False),
    ],
)
async def test_of_those_that_are_verified_only_the_allowed_ones_get_in(
    tmp_path: Path, allowed: list[str], let_in: bool
) -> None:
    authority = Authority()
    leaf = authority.issue("one.test", "spiffe://cluster/node/one", peer=True)
    spki = leaf.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    pin = "spki:sha256/" + base64.b64encode(hashlib.sha256(spki).digest()).decode()
    async with cluster(tmp_path, authority=authority) as (_, two):
        two.publish(allowed_peers=[pin if each == "PIN" else each for each in allowed])
        link = await come_in(two, tmp_path, leaf)
        if let_in:
            link.send(b"hello")
            assert await (await two.service.link()).take(5) == b"hello"
            line = await two.line("tunnel.opened", direction="in")
            assert line["peer_certificate"] == "uri:spiffe://cluster/node/one"
            assert two.metric("rekeyd_handshakes_total", listener="p2p") == 1
        else:
            await refused(two, link)
            line = await two.line(FAILED)
            why = "its certificate is not among cluster.p2p.allowed_peers"
            assert line["reason"] == f"client_certificate: {why}"
            assert two.metric("rekeyd_tunnels_ended_total", direction="in", reason="refused") == 1
            assert line["peer"] == "uri:spiffe://cluster/node/one"
            assert two.metric("rekeyd_handshakes_total", listener="p2p") == 0


async def test_where_nobody_is_named_those_that_are_connected_to_may_come_in(tmp_path: Path) -> None:
    """And no other certificate of the same authority, which may vouch for clients as well."""
    async with cluster(tmp_path) as (one, _):
        one.publish(allowed_peers=[])
        link = await come_in(one, tmp_path, one.authority.issue("two.test", peer=True))
        link.send(b"hello")
        far = await one.service.link()
        assert await far.take(5) == b"hello"
        far.reset()
        await eventually(lambda: len(one.ledger) == 0)
        link = await come_in(one, tmp_path, one.authority.issue("a-client.test", client=True))
        await refused(one, link)


async def test_a_revoked_peer_is_refused_and_named(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, two):
        leaf = two.authority.issue("one.test", peer=True)
        (two.folder / "ca.crl").write_bytes(two.authority.crl(leaf))
        two.configure("tls", crl="ca.crl")
        two.publish()
        await refused(two, await come_in(two, tmp_path, leaf))
        line = await two.line(FAILED)
        assert (line["reason"], line["peer"]) == ("client_certificate: certificate revoked", "dns:one.test")


async def test_a_port_scanner_holds_no_place_for_long(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, two):
        door = two.cluster.door
        assert door is not None
        door._limits, door._shaking = Limits(0.3, 8), Handshakes(0.3)
        silent = [await connect("127.0.0.1", two.port) for _ in range(6)]
        (talker := await connect("127.0.0.1", two.port)).send(b"GET / HTTP/1.1\r\n\r\n")
        for link in (*silent, talker):
            await link.rest()
            link.abort()
        assert two.service.links.empty()
        await eventually(lambda: two.cluster.doors[0].connections == 0)
        two.handshakes.close()
        counts = [line.get("count", 1) for line in two.logged(FAILED)]
        assert sum(counts) == 7


async def test_a_service_that_is_not_there_yet_is_waited_for(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        port = two.service.port
        await two.service.stop()
        near = await one.dial()
        near.send(b"is anybody there?")
        line = await two.line("upstream.failed")
        assert (line["upstream"], line["cause"], line["problem"]) == (
            "cluster",
            "connect",
            "Connection refused",
        )
        two.service = Service()
        await two.service.start(port=port)
        assert await (await two.service.link()).take(17) == b"is anybody there?"
        await two.line("peer.recovered", upstream="cluster")
        assert two.status()["inbound"]["state"] == "reached"


async def test_a_service_that_does_not_come_resets_the_peer(tmp_path: Path) -> None:
    async with cluster(tmp_path, connect_timeout=0.5) as (one, two):
        await two.service.stop()
        near = await one.dial()
        await near.closed()
        assert isinstance(near.error, ConnectionResetError)
        assert two.status()["inbound"]["state"] == "failing"
        assert two.status()["inbound"]["problem"] == "Connection refused"
        assert two.metric("rekeyd_tunnel_connects_total", direction="in", outcome="failed") >= 1


async def test_the_service_may_be_behind_a_unix_socket(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        links: asyncio.Queue[Link] = asyncio.Queue()
        server = await asyncio.get_running_loop().create_unix_server(
            lambda: Link(links.put_nowait), str(tmp_path / "cluster.sock")
        )
        two.publish(upstream=f"unix:{tmp_path}/cluster.sock")
        near = await one.dial()
        near.send(b"hello")
        near.half_close()
        far = await links.get()
        assert await far.rest() == b"hello"
        far.send(b"yes?")
        far.half_close()
        assert await near.rest() == b"yes?"
        far.close()
        server.close()


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
async def test_a_peer_that_is_not_rekeyd_gets_in_as_well(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (_, two):
        cert, key = two.authority.issue("one.test", peer=True).write(tmp_path / "openssl")
        two.authority.write(tmp_path / "ca.crt")
        files = ["-cert", str(cert), "-key", str(key), "-CAfile", str(tmp_path / "ca.crt")]
        at = f"127.0.0.1:{two.port}"
        client = await asyncio.create_subprocess_exec(
            *["openssl", "s_client", "-quiet", "-verify_return_error", "-connect", at, *files],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        assert client.stdin is not None
        assert client.stdout is not None
        client.stdin.write(b"hello\n")
        far = await two.service.link()
        assert await far.take(6) == b"hello\n"
        far.send(b"hello to you\n")
        far.half_close()
        async with asyncio.timeout(5):
            assert await client.stdout.readline() == b"hello to you\n"
            assert await client.wait() == 0  # it saw the end of the session
        assert await far.rest() == b""
        await two.line("tunnel.closed", direction="in", reason="closed")
