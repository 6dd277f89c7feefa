"""A real cluster whose peers speak only through tunnels, while certificates and their authority change."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.etcd import EtcdCluster, Node, Writer, etcd_cluster, missing
from support.live import measured
from support.pki import Authority
from support.waiting import eventually

StartDaemon = Callable[..., Awaitable[Daemon]]


async def change_authority(cluster: EtcdCluster, old: Authority, new: Authority) -> None:
    """Both are believed everywhere before either is shown, and until nobody shows the old one."""
    await cluster.rotate(lambda node: node.trust(old, new))

    def reissue(node: Node) -> None:
        node.authority = new
        node.issue()

    await cluster.rotate(reissue)
    await cluster.rotate(lambda node: node.trust(new))


async def refuses_and_names_a_stranger(cluster: EtcdCluster, folder: Path, believed: Authority) -> None:
    stranger = Authority("another CA").issue("mallory.test", peer=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.load_verify_locations(cadata=believed.pem.decode())
    context.load_cert_chain(*stranger.write(folder / "stranger"))
    for node in cluster.nodes:
        since = node.daemon.mark()
        reader, writer = await asyncio.open_connection("127.0.0.1", node.tunnels_at, ssl=context)
        writer.write(b"GET /raft HTTP/1.1\r\n\r\n")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await reader.readexactly(1)
        writer.close()
        line = await node.daemon.event("tls.handshake_failed", since=since)
        assert line["peer"] == "dns:mallory.test"


async def story(folder: Path, start_daemon: StartDaemon, *, leaves: int, authorities: int) -> None:
    """So many rotations of all certificates, then the authority's; as often as there are authorities."""
    authority = Authority("CA 0")
    async with etcd_cluster(folder, authority, start_daemon) as cluster:
        reigns = await cluster.reigns()
        writer = Writer(cluster)
        writing = asyncio.create_task(writer.run())
        for number in range(authorities):
            undisturbed = list(writer.repeated)
            for _ in range(leaves):
                await cluster.rotate(lambda node: node.issue())
                assert await cluster.reigns() == reigns
            assert writer.repeated == undisturbed
            new = Authority(f"CA {number + 1}")
            await change_authority(cluster, authority, new)
            await all_that_rested_on_the_old_one_is_gone(cluster)
            authority = new
        await refuses_and_names_a_stranger(cluster, folder, authority)
        before = len(writer.written)
        await eventually(lambda: len(writer.written) > before + 10, timeout=20, what="writes after it all")
        writer.stop()
        await writing
        assert await cluster.reigns() == reigns
        found = set(cluster.etcdctl("get", "key-", "--prefix", "--keys-only").split())
        assert found >= set(writer.written)
        measured("writes, and those that were repeated", (len(writer.written), len(writer.repeated)))


async def all_that_rested_on_the_old_one_is_gone(cluster: EtcdCluster) -> None:
    """Each node is at the generation that believes the new one alone, after the one that shows it."""
    for node in cluster.nodes:
        last = node.daemon.told("reload.applied")[-1]["generation"] - 1
        await eventually(
            lambda node=node, last=last: old_tunnels(node.daemon, last) == 0,  # type: ignore[misc]
            timeout=10,
            what=f"the end of old tunnels of {node.name}",
        )
    told = [line["reason"] for node in cluster.nodes for line in node.daemon.told("connection.cut")]
    assert "the authority of its certificate is not believed any more" in told


def old_tunnels(daemon: Daemon, before: int) -> int:
    """How many are open that were made under a generation before that one."""
    opened, closed = (
        [line for line in daemon.told(f"tunnel.{what}") if line["connection_generation"] < before]
        for what in ("opened", "closed")
    )
    return len(opened) - len(closed)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.timeout(150)
async def test_no_write_is_lost_and_no_leader_changes(tmp_path: Path, start_daemon: StartDaemon) -> None:
    await story(tmp_path, start_daemon, leaves=10, authorities=1)


@pytest.mark.skipif(missing() is not None, reason=str(missing()))
@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_nor_in_fifty_rotations_and_two_of_the_authority(
    tmp_path: Path, start_daemon: StartDaemon
) -> None:
    await story(tmp_path, start_daemon, leaves=25, authorities=2)
