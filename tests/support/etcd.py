"""Three nodes of etcd, each behind a rekeyd of its own, whose peers reach one another only through tunnels.

All nodes know each other by the same URLs (`http://node-2.test:PORT`), as etcd asks for. What these names
lead to differs from node to node: a loopback address at which the node's own rekeyd listens. So each etcd
gets an `/etc/hosts` of its own, in a mount namespace (unshare(1)).
"""

import asyncio
import base64
import contextlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp

from support.daemon import Daemon
from support.peers import free_port
from support.pki import Authority, Leaf, replace_file

NUMBERS = (1, 2, 3)
ELECTION_TIMEOUT = 3000
"""Milliseconds: short enough for a broken cluster to show, long enough for a machine that is busy."""
WRITE_TIMEOUT = 3.0
_OWN_HOSTS = 'mount --bind "$1" /etc/hosts && shift && exec "$@"'


def missing() -> str | None:
    """Why this machine can't have such a cluster; None where it can."""
    for command, package in (("etcd", "etcd-server"), ("etcdctl", "etcd-client"), ("unshare", "util-linux")):
        if shutil.which(command) is None:
            return f"{command} is not installed ({package})"
    try:
        tried = subprocess.run([*_namespace(), "true"], capture_output=True, check=False, timeout=10)
    except subprocess.TimeoutExpired:
        return "unshare hangs"
    return None if tried.returncode == 0 else "mount namespaces can't be had here (unshare --mount)"


def _namespace() -> list[str]:
    return ["unshare", "--map-root-user", "--mount"]


class Node:
    """An etcd and the rekeyd in front of it."""

    def __init__(self, number: int, folder: Path, authority: Authority, port: int) -> None:
        self.number = number
        self.name = f"node-{number}.test"
        self.url = f"http://{self.name}:{port}"
        """By which all know it; `port` is the same for all."""
        self._port = port
        self.folder = folder
        self.authority = authority
        self.tunnels_at = free_port()
        self.etcd_peers_at = free_port()
        self.clients_at = free_port()
        self.leaf: Leaf
        self.daemon: Daemon
        self._etcd: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    # Its rekeyd.

    def near(self, other: "Node") -> str:
        """The address at which this node's rekeyd listens for what is meant for another."""
        return f"127.0.{self.number}.{other.number}"

    def configure(self, others: "list[Node]") -> Path:
        peers = [
            {
                "listen": f"{self.near(other)}:{self._port}",
                "connect": f"127.0.0.1:{other.tunnels_at}",
                "expect": f"dns:{other.name}",
            }
            for other in others
        ]
        p2p = {
            "enable_tls": True,
            "port": self.tunnels_at,
            "upstream": f"127.0.0.1:{self.etcd_peers_at}",
            "peers": peers,
        }
        document = {
            "service": {"host": "127.0.0.1", "http_port": 0, "insecure": True},
            "tls": {"cert": "tls.crt", "key": "tls.key", "ca_cert": "ca.crt", "watch": False},
            "upstream": {"http": "demo"},
            "admin": {"socket": "admin.sock"},
            "cluster": {"p2p": p2p},
        }
        return replace_file(self.folder / "rekeyd.yaml", json.dumps(document).encode())

    def issue(self) -> None:
        self.leaf = self.authority.issue(self.name, peer=True)
        self.leaf.write(self.folder)

    def trust(self, *authorities: Authority) -> None:
        replace_file(self.folder / "ca.crt", b"".join(each.pem for each in authorities))

    async def reload(self) -> None:
        """Take up what is on the disk, and have it served."""
        since = self.daemon.mark()
        self.daemon.signal(signal.SIGHUP)
        await self.daemon.event("reload.applied", since=since)

    # Its etcd.

    def start_etcd(self, nodes: "list[Node]") -> None:
        hosts = "".join(f"{self.near(other)} {other.name}\n" for other in nodes)
        hosts_file = replace_file(self.folder / "hosts", f"127.0.0.1 localhost\n{hosts}".encode())
        clients = f"http://127.0.0.1:{self.clients_at}"
        arguments = {
            "name": self.name,
            "data-dir": str(self.folder / "data"),
            "listen-peer-urls": f"http://127.0.0.1:{self.etcd_peers_at}",
            "initial-advertise-peer-urls": self.url,
            "listen-client-urls": clients,
            "advertise-client-urls": clients,
            "initial-cluster": ",".join(f"{each.name}={each.url}" for each in nodes),
            "initial-cluster-state": "new",
            "heartbeat-interval": "100",
            "election-timeout": str(ELECTION_TIMEOUT),
        }
        etcd = ["etcd", *(f"--{name}={value}" for name, value in arguments.items())]
        with (self.folder / "etcd.log").open("wb") as log:
            self._etcd = subprocess.Popen(
                [*_namespace(), "sh", "-c", _OWN_HOSTS, "sh", str(hosts_file), *etcd],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def stop_etcd(self) -> None:
        if self._etcd is not None:
            self._etcd.terminate()
            try:
                self._etcd.wait(10)
            except subprocess.TimeoutExpired:
                self._etcd.kill()
                self._etcd.wait()


class EtcdCluster:
    """All three, and a client of theirs."""

    def __init__(self, nodes: list[Node], http: aiohttp.ClientSession) -> None:
        self.nodes = nodes
        self._http = http

    async def ask(self, node: Node, path: str, body: dict[str, Any]) -> dict[str, Any]:
        url = f"http://127.0.0.1:{node.clients_at}{path}"
        async with self._http.post(url, json=body) as response:
            answer: dict[str, Any] = await response.json(content_type=None)
            assert response.status == 200, answer
            return answer

    async def reigns(self) -> set[tuple[str, str]]:
        """Leader and term, as each node sees them: one entry where they agree."""
        told = [await self.ask(node, "/v3/maintenance/status", {}) for node in self.nodes]
        return {(each.get("leader", "0"), each["raftTerm"]) for each in told}

    async def elected(self) -> None:
        try:
            async with asyncio.timeout(40):
                while not await self._has_a_leader():  # noqa: ASYNC110 - it can only be asked
                    await asyncio.sleep(0.1)
        except TimeoutError:
            said = (path.read_text()[-2000:] for path in (node.folder / "etcd.log" for node in self.nodes))
            raise AssertionError("no leader was elected:\n" + "\n".join(said)) from None

    async def _has_a_leader(self) -> bool:
        try:
            reigns = await self.reigns()
        except (aiohttp.ClientError, AssertionError):
            return False
        return len(reigns) == 1 and all(leader != "0" for leader, _ in reigns)

    async def rotate(self, change: Callable[[Node], None]) -> None:
        """Change each node in turn, as an operator does, and see it served."""
        for node in self.nodes:
            change(node)
            await node.reload()

    def etcdctl(self, *arguments: str) -> str:
        """What the command says, asked of all three."""
        endpoints = ",".join(f"http://127.0.0.1:{node.clients_at}" for node in self.nodes)
        command = ["etcdctl", f"--endpoints={endpoints}", *arguments]
        environ = {**os.environ, "ETCDCTL_API": "3"}
        done = subprocess.run(command, capture_output=True, check=True, timeout=20, env=environ)
        return done.stdout.decode()


@contextlib.asynccontextmanager
async def etcd_cluster(
    folder: Path, authority: Authority, start_daemon: Callable[..., Awaitable[Daemon]]
) -> AsyncIterator[EtcdCluster]:
    port = free_port()
    nodes = [Node(number, folder / f"node-{number}", authority, port) for number in NUMBERS]
    for node in nodes:
        node.issue()
        node.trust(authority)
        others = [other for other in nodes if other is not node]
        node.daemon = await start_daemon(node.configure(others))
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=10)) as http:
        try:
            for node in nodes:
                node.start_etcd(nodes)
            cluster = EtcdCluster(nodes, http)
            await cluster.elected()
            yield cluster
        finally:
            for node in nodes:
                await asyncio.to_thread(node.stop_etcd)


class Writer:
    """Writes one key after another, through one node after another, and remembers what was acknowledged.

    What was not is written again: etcd drops a proposal that a follower passes on to the leader while that
    connection breaks, and says so by letting the client's time run out.
    """

    def __init__(self, cluster: EtcdCluster) -> None:
        self._cluster = cluster
        self._over = asyncio.Event()
        self.written: list[str] = []
        self.repeated: list[str] = []

    async def run(self) -> None:
        number = 0
        while not self._over.is_set():
            node, key = self._cluster.nodes[number % 3], f"key-{len(self.written):06}"
            body = {"key": _base64(key), "value": _base64("x" * 1000)}
            number += 1
            try:
                async with asyncio.timeout(WRITE_TIMEOUT):
                    await self._cluster.ask(node, "/v3/kv/put", body)
            except (aiohttp.ClientError, TimeoutError, AssertionError) as error:
                self.repeated.append(f"{key}: {error!r}")
            else:
                self.written.append(key)
            await asyncio.sleep(0.005)

    def stop(self) -> None:
        self._over.set()


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()
