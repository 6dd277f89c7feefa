"""Nodes of a cluster in the test's event loop: real doors, tunnels and TLS, and services played by hand.

    async with cluster(tmp_path) as nodes:
        one, two = nodes
        near = await one.dial(two)            # what the service of `one` says to the peer `two`
        far = await two.service.link()        # and what the service of `two` hears
        near.send(b"hello")
        assert await far.take(5) == b"hello"

Leaving the block asserts that nothing is left open and that nothing was told as a traceback.
"""

import asyncio
import contextlib
import json
import logging
import random
import socket
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import structlog
from prometheus_client.parser import text_string_to_metric_families
from structlog.testing import capture_logs

from rekeyd.cluster import Cluster
from rekeyd.ledger import Ledger
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.reload.disk import Disk
from rekeyd.settings import Settings
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.telemetry.metrics import Metrics
from support.gateway import Accidents
from support.pki import Authority, Leaf, replace_file
from support.waiting import eventually
from support.wire import PATIENCE, Link, connect

KEY = "a-made-up-key-that-may-do-everything"
Event = dict[str, Any]


def free_port() -> int:
    """One that was free a moment ago, and that no outgoing connection gets meanwhile (ip(7), local ports).

    For what must be known before anybody listens there; else bind port 0.
    """
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            return port


class Service:
    """The plaintext cluster port of a service: every connection is a `Link`."""

    def __init__(self) -> None:
        self.links: asyncio.Queue[Link] = asyncio.Queue()
        self.all: list[Link] = []
        self.port = 0
        self._server: asyncio.Server | None = None

    async def start(self, *, port: int = 0, buffer: int | None = None) -> None:
        listening = socket.create_server(("127.0.0.1", port))
        if buffer is not None:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        self.port = listening.getsockname()[1]
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: Link(self._came), sock=listening)

    def _came(self, link: Link) -> None:
        self.all.append(link)
        self.links.put_nowait(link)

    async def link(self) -> Link:
        """The next connection."""
        async with asyncio.timeout(PATIENCE):
            return await self.links.get()

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for link in self.all:
            link.abort()


class Node:
    """One node: a service, a certificate, generations, and the tunnels."""

    def __init__(self, name: str, folder: Path, authority: Authority, told: list[Any]) -> None:
        self.name = name
        self.folder = folder
        self.authority = authority
        self.told = told
        self.trusted: list[Authority] = [authority]
        self.current = Current()
        self.ledger = Ledger()
        self.service = Service()
        self.leaf: Leaf | None = None
        self.events: list[Event] = []
        """What the handshake log told."""
        self._sections: dict[str, dict[str, Any]] = {}
        self._number = 0
        folder.mkdir()

    # Generations.

    def issue(self, **properties: Any) -> Leaf:
        self.leaf = self.authority.issue(f"{self.name}.test", peer=True, **properties)
        self.leaf.write(self.folder)
        return self.leaf

    def publish(self, *, rotate: bool = False, **p2p: Any) -> None:
        """The next generation: `cluster.p2p` with these changes; `rotate`: with a new certificate."""
        if rotate or self.leaf is None:
            self.issue()
        replace_file(self.folder / "ca.crt", b"".join(each.pem for each in self.trusted))
        self._sections["cluster"]["p2p"].update(p2p)
        replace_file(self.folder / "rekeyd.yaml", json.dumps(self._sections).encode())
        self._number += 1
        generation = Disk(self.folder / "rekeyd.yaml", {}).load().generation(self._number)
        self.current.publish(serving_of(generation))
        self.ledger.rotated(generation)

    def configure(self, section: str, **values: Any) -> None:
        """For the next `publish`."""
        self._sections.setdefault(section, {}).update(values)

    async def open(self, peers: Sequence[dict[str, str]], **p2p: Any) -> None:
        await self.service.start()
        self._sections = {
            "service": {"host": "127.0.0.1", "http_port": 0, "api_key": KEY},
            "tls": {"cert": "tls.crt", "key": "tls.key", "ca_cert": "ca.crt"},
            "upstream": {"http": "demo"},
            "admin": {"socket": None},
            "cluster": {
                "p2p": {
                    "enable_tls": True,
                    "port": 0,
                    "upstream": f"127.0.0.1:{self.service.port}",
                    "allowed_peers": ["dns:*.test"],
                    "peers": list(peers),
                    **p2p,
                }
            },
        }
        self.publish()
        generation = self.current.generation
        assert generation is not None
        self.metrics = Metrics(
            version="0", generation=lambda: self.current.generation, connections=self.ledger.per_generation
        )
        self.handshakes = HandshakeLog(self._tell, self.metrics)
        self.cluster = self.tunnels(generation.settings)
        self.metrics.register(self.cluster.metrics)
        self.cluster.open()

    def tunnels(self, settings: Settings) -> Cluster:
        """Those of this node, by other settings."""
        return Cluster(
            settings,
            current=self.current,
            ledger=self.ledger,
            handshakes=self.handshakes,
            sockets=Sockets(),
        )

    async def shut(self) -> None:
        self.cluster.close()
        await self.cluster.drain(0)
        await self.service.stop()
        self.handshakes.close()
        doors = self.cluster.doors
        await eventually(lambda: sum(d.connections for d in doors) == 0, what=f"the end of {self.name}")
        assert len(self.ledger) == 0

    # Connections.

    @property
    def listens(self) -> tuple[str, int]:
        """Where the service connects to its first peer."""
        return self.cluster.doors[1].address

    @property
    def port(self) -> int:
        """Where peers come in."""
        assert self.cluster.door is not None
        return self.cluster.door.address[1]

    async def dial(self, *, buffer: int | None = None) -> Link:
        """The service connects to its peer."""
        link = await connect(*self.listens, None, buffer=buffer)
        self.service.all.append(link)
        return link

    # What was told.

    def logged(self, name: str, **fields: Any) -> list[Event]:
        """The lines of any node with this event and these fields."""
        lines = [*self.told, *self.events]
        return [
            line
            for line in lines
            if line["event"] == name and all(line.get(key) == value for key, value in fields.items())
        ]

    async def line(self, name: str, **fields: Any) -> Event:
        await eventually(lambda: self.logged(name, **fields), what=f"{name} {fields}: {self.told}")
        return self.logged(name, **fields)[0]

    def status(self) -> dict[str, Any]:
        described = self.cluster.described()
        assert described is not None
        return described

    def metric(self, name: str, **labels: str) -> float:
        """The sum of the samples that have these labels."""
        found = (
            sample.value
            for family in text_string_to_metric_families(self.metrics.exposition()[0].decode())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )
        return sum(found)

    def _tell(self, level: str, event: str, fields: Event) -> None:
        self.events.append({"level": level, "event": event, **fields})


@contextlib.asynccontextmanager
async def cluster(
    folder: Path, *, authority: Authority | None = None, dial: str | None = None, **p2p: Any
) -> AsyncIterator[tuple[Node, Node]]:
    """Two nodes, `one` and `two`, of which the first connects to the second. `p2p` is for both.

    `dial` is where it connects instead, as `host:port`.
    """
    structlog.reset_defaults()
    accidents: list[str] = []
    handler = Accidents(accidents)
    loop, root = asyncio.get_running_loop(), logging.getLogger()
    loop.set_exception_handler(lambda _, what: accidents.append(f"{what.get('message')} {what}"))
    root.addHandler(handler)
    authority = authority or Authority()
    with capture_logs() as told:
        one, two = (Node(name, folder / name, authority, told) for name in ("one", "two"))
        try:
            await two.open([], **p2p)
            to = {
                "listen": "127.0.0.1:0",
                "connect": dial or f"127.0.0.1:{two.port}",
                "expect": "dns:two.test",
            }
            await one.open([to], **p2p)
            try:
                yield one, two
            finally:
                await asyncio.gather(one.shut(), two.shut())
        finally:
            root.removeHandler(handler)
            loop.set_exception_handler(None)
    assert accidents + [line for line in told if line.get("exc_info")] == []
