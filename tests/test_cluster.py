"""Two nodes whose certificates and authorities change while they talk; what is cut, what resumes, the end."""

import asyncio
import socket
import ssl
import time
from pathlib import Path

import pytest

from rekeyd.errors import SettingsError
from rekeyd.reload.disk import Disk
from support.peers import Node, cluster
from support.pki import Authority
from support.waiting import eventually
from support.wire import Link, connect


async def conversation(one: Node, two: Node) -> tuple[Link, Link]:
    """A tunnel that has carried something both ways."""
    near = await one.dial()
    near.send(b"ping")
    far = await two.service.link()
    assert await far.take(4) == b"ping"
    far.send(b"pong")
    assert await near.take(4) == b"pong"
    return near, far


async def goes_on(near: Link, far: Link) -> bool:
    near.send(b"still there?")
    far.send(b"yes")
    return await far.take(12) == b"still there?" and await near.take(3) == b"yes"


async def test_no_tunnel_breaks_while_certificates_change_under_traffic(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near, far = await conversation(one, two)
        over = asyncio.Event()

        async def talk() -> int:
            said = 0
            while not over.is_set():
                near.send(b"x" * 10_000)
                far.send(b"y" * 10_000)
                assert await far.take(10_000) == b"x" * 10_000
                assert await near.take(10_000) == b"y" * 10_000
                said += 1
            return said

        talking = asyncio.create_task(talk())
        for number in range(20):
            (one, two)[number % 2].publish(rotate=True)
            new = await conversation(one, two)
            tls = two.leaf
            assert tls is not None
            for link in new:
                link.half_close()
            await asyncio.gather(*(link.rest() for link in new))
        over.set()
        assert await talking > 20
        line = one.logged("tunnel.opened", direction="out")[-1]
        assert line["connection_generation"] == one.current.number == 11
        assert one.ledger.per_generation() == {1: 1}


async def test_a_new_tunnel_is_made_with_the_new_certificates_of_both(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        for node in (one, two):
            node.leaf = node.authority.issue(f"{node.name}.test", f"spiffe://new/{node.name}", peer=True)
            node.leaf.write(node.folder)
            node.publish()
        await conversation(one, two)
        assert await two.line("tunnel.opened", direction="in", peer_certificate="uri:spiffe://new/one")
        assert await one.line("tunnel.opened", direction="out", peer_certificate="uri:spiffe://new/two")


async def test_an_authority_changes_without_a_broken_tunnel(tmp_path: Path) -> None:
    """Both in the bundle everywhere; then new certificates, node by node; then without the old one."""
    async with cluster(tmp_path) as (one, two):
        new = Authority("the new CA")
        old_tunnel = await conversation(one, two)
        for node in (one, two):
            node.trusted.append(new)
            node.publish()
            await conversation(one, two)
        for node in (one, two):
            node.authority = new
            node.publish(rotate=True)
            await conversation(one, two)
        assert await goes_on(*old_tunnel)
        lasting = await conversation(one, two)
        for node in (one, two):
            node.trusted.pop(0)
            node.publish()
            await conversation(one, two)
        assert await goes_on(*lasting)
        # Those that rested on the old authority end, on both sides, with a reason.
        await asyncio.gather(*(end.closed() for end in old_tunnel))
        cut = await one.line("connection.cut")
        assert cut["reason"] == "the authority of its certificate is not believed any more"
        assert await goes_on(*lasting)


@pytest.mark.parametrize("how", ["authority", "revoked", "not_allowed"])
@pytest.mark.parametrize("who", ["one", "two"])
async def test_what_rested_on_lost_trust_ends_within_five_seconds(tmp_path: Path, who: str, how: str) -> None:
    """Whichever of the two takes it away, and with a reason."""
    async with cluster(tmp_path) as (one, two):
        node, other = (one, two) if who == "one" else (two, one)
        near, far = await conversation(one, two)
        assert other.leaf is not None
        began = time.monotonic()
        if how == "authority":
            node.authority = Authority("the new CA")
            node.trusted = [node.authority]
            node.publish(rotate=True)
        elif how == "revoked":
            (node.folder / "ca.crl").write_bytes(node.authority.crl(other.leaf))
            node.configure("tls", crl="ca.crl")
            node.publish()
        else:
            node.publish(allowed_peers=["dns:three.test"])
        for end in (near, far):
            await end.closed()
            assert isinstance(end.error, ConnectionResetError)
        assert time.monotonic() - began < 5
        reason = {
            "authority": "the authority of its certificate is not believed any more",
            "revoked": "its certificate is revoked",
            "not_allowed": "its certificate is not among cluster.p2p.allowed_peers",
        }[how]
        direction = "out" if who == "one" else "in"
        assert (await node.line("connection.cut"))["reason"] == reason
        assert await node.line("tunnel.closed", direction=direction, reason=reason)


async def test_after_a_rotation_tunnels_may_be_drained(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near, far = await conversation(one, two)
        two.configure("connections", after_rotation="drain", drain=0.5)
        two.publish(rotate=True)
        await asyncio.gather(near.closed(), far.closed())
        assert await two.line("tunnel.closed", direction="in", reason="retired")
        await conversation(one, two)


async def test_no_session_outlives_its_handshake(tmp_path: Path) -> None:
    """Else one that was made under a removed authority would be a way in."""
    async with cluster(tmp_path) as (_, two):
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.load_verify_locations(cadata=two.authority.pem.decode())
        leaf = two.authority.issue("one.test", peer=True)
        context.load_cert_chain(*leaf.write(tmp_path / "client"))

        def visit(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
            with (
                socket.create_connection(("127.0.0.1", two.port)) as sock,
                context.wrap_socket(sock, session=session) as tls,
            ):
                tls.sendall(b"hello")
                assert tls.recv(5) == b"hello"
                return tls.session_reused, tls.session

        async def echo() -> None:
            far = await two.service.link()
            far.send(await far.take(5))

        session: ssl.SSLSession | None = None
        for _ in range(2):
            echoing = asyncio.create_task(echo())
            reused, session = await asyncio.to_thread(visit, session)
            await echoing
            assert not reused
            assert session is None or not session.has_ticket


async def test_the_end_delivers_what_was_taken_and_does_not_look_like_an_end_of_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near, far = await conversation(one, two)
        far.transport.pause_reading()
        near.send(b"x" * 300_000)
        await eventually(lambda: next(iter(one.cluster._tunnels.carried())).to_peer == 300_004)
        at = one.listens
        one.cluster.close()
        with pytest.raises(ConnectionRefusedError):
            await connect(*at)
        assert one.status()["peers"][0]["tunnels"] == 1
        draining = asyncio.create_task(one.cluster.drain(5))
        far.transport.resume_reading()
        for end in (near, far):
            await end.closed()
            assert isinstance(end.error, ConnectionResetError)
        assert len(far.received) == 300_004
        assert await draining == 0
        assert await one.line("tunnel.closed", direction="out", reason="stopped")


async def test_what_can_not_be_delivered_is_cut(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near, far = await conversation(one, two)
        near.transport.pause_reading()
        far.send(b"x" * 20_000_000)
        await eventually(lambda: next(iter(one.cluster._tunnels.carried())).from_peer > 200_000)
        assert await one.cluster.drain(0.2) == 1
        near.transport.resume_reading()
        await asyncio.gather(near.closed(), far.closed())
        assert isinstance(near.error, ConnectionResetError)


async def test_without_tls_nothing_listens(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, _):
        one.publish(enable_tls=False)
        generation = one.current.generation
        assert generation is not None
        assert one.current.serving is not None
        assert one.current.serving.peers is None
        quiet = one.tunnels(generation.settings)
        quiet.open()
        assert quiet.doors == []
        assert quiet.described() is None
        # Where TLS is gone from under a listener, nothing goes out in the clear.
        near = await one.dial()
        near.send(b"secret")
        await one.line("peer.failed", problem="there is nothing to encrypt with")
        near.abort()


async def test_an_address_that_is_taken_leaves_nothing_open(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        generation = one.current.generation
        assert generation is not None
        p2p = generation.settings.cluster.p2p.model_copy(update={"port": two.port})
        settings = generation.settings.model_copy(
            update={"cluster": generation.settings.cluster.model_copy(update={"p2p": p2p})}
        )
        third = one.tunnels(settings)
        with pytest.raises(OSError, match="Address already in use"):
            third.open()
        assert third.doors == []


async def test_it_needs_an_authority(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, _):
        one.configure("tls", ca_cert=None)
        with pytest.raises(SettingsError, match=r"needs `tls.ca_cert`"):
            one.publish()
        with pytest.raises(SettingsError):
            Disk(one.folder / "rekeyd.yaml", {}).load()


async def test_over_ipv6(tmp_path: Path) -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("this machine has no IPv6")
    async with cluster(tmp_path, host="::1", dial="[::1]:1") as (one, two):
        outbound, _ = one.cluster._outbound[0]
        peer = outbound.peer
        outbound.peer = type(peer)(peer.listen, type(peer.connect)("::1", two.port), peer.expect)
        await conversation(one, two)
        assert (await two.line("tunnel.opened", direction="in"))["client"] == "::1"
        assert two.status()["inbound"]["listen"] == f"[::1]:{two.port}"


async def test_the_status_and_the_metrics_tell_of_all_of_it(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        untried = one.status()["peers"][0]
        assert (untried["state"], untried["tunnels"], untried["attempts"]) == ("untried", 0, 0)
        near, far = await conversation(one, two)
        status = one.status()
        (peer,) = status["peers"]
        assert peer["peer"] == f"127.0.0.1:{two.port}"
        assert (peer["expect"], peer["state"], peer["tunnels"]) == ("dns:two.test", "reached", 1)
        assert status["inbound"]["upstream"] == f"127.0.0.1:{one.service.port}"
        assert one.metric("rekeyd_tunnels", direction="out") == 1
        assert two.metric("rekeyd_tunnels", direction="in") == 1
        for end in (near, far):
            end.half_close()
        await two.line("tunnel.closed", direction="in", reason="closed")
        await eventually(lambda: one.metric("rekeyd_tunnels", direction="out") == 0)
        for way in ("to_peer", "from_peer"):
            assert one.metric("rekeyd_tunnel_bytes_total", direction="out", way=way) == 4
            assert two.metric("rekeyd_tunnel_bytes_total", direction="in", way=way) == 4
        assert one.metric("rekeyd_tunnels_ended_total", direction="out", reason="closed") == 1
        assert two.metric("rekeyd_handshakes_total", listener="p2p") == 1
