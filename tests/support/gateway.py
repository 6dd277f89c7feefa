"""The real gateway behind a real door, in the test's event loop, with an upstream that a test plays by hand.

    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, head = await scene.upstream.request()
        link.send(ok())
        assert (await client.answer()).status == 200

Leaving the block asserts that nothing was told as a traceback: not by asyncio, not by aiohttp, not by us.
"""

import asyncio
import contextlib
import json
import logging
import ssl
from collections.abc import AsyncIterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog
from structlog.testing import capture_logs

from rekeyd.access.keys import KeyRing
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.ledger import Ledger
from rekeyd.listeners.door import Door, Limits
from rekeyd.listeners.http.gateway import Guards, HttpGateway, Records
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.disk import Disk
from rekeyd.system.sockets import bind
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.trust.certificates import read_material
from rekeyd.upstream.pools import Pools
from support.pki import Authority, Leaf, replace_file
from support.waiting import eventually
from support.wire import Answer, Link, Script, Upstream, connect

API_KEY = "a-made-up-key-that-may-do-everything"
READ_KEY = "a-made-up-key-that-may-only-read"
Event = dict[str, Any]


class Scene:
    """A gateway at work. `records` has what the decision log told, `told` every other line of the log."""

    def __init__(self, folder: Path, upstream: Upstream, *, tls: bool, told: list[Any]) -> None:
        self.folder = folder
        self.upstream = upstream
        self.tls = tls
        self.told = told
        self.records: list[Event] = []
        self.accidents: list[str] = []
        self.authority = Authority() if tls else None
        self.leaf: Leaf | None = None
        self.ready: dict[str, bool] = {}
        """What the health check answers."""
        self.current = Current()
        self.pools = Pools()
        self._clients: list[Link] = []
        self._number = 0
        self._sections: dict[str, dict[str, Any]] = {}
        self.gateway: HttpGateway
        self.door: Door

    # Generations.

    def publish(self, *, rotate: bool = False, **sections: Any) -> None:
        """The next generation: settings merged over those before, with `rotate` a new certificate."""
        for name, values in sections.items():
            self._sections[name] = {**self._sections.get(name, {}), **values}
        if self.authority is not None and (rotate or self.leaf is None):
            self.leaf = self.authority.issue("localhost", "127.0.0.1")
            self.leaf.write(self.folder)
        replace_file(self.folder / "rekeyd.yaml", json.dumps(self._sections).encode())
        self._number += 1
        generation = Disk(self.folder / "rekeyd.yaml", {}).load().generation(self._number)
        self.current.publish(serving_of(generation))

    def believe(self, ring: KeyRing) -> None:
        """The next generation: other keys, and nothing else."""
        serving = self.current.serving
        assert serving is not None
        self._number += 1
        generation = replace(serving.generation, number=self._number, ring=ring)
        self.current.publish(replace(serving, generation=generation))
        self.ledger.rotated(generation)

    @property
    def ring(self) -> KeyRing:
        generation = self.current.generation
        assert generation is not None
        return generation.ring

    def prepared(self, count: int) -> list[Serving]:
        """The next generations, each with a certificate of its own, to be published in their order."""
        generation = self.current.generation
        assert generation is not None
        assert self.authority is not None
        servings = []
        for _ in range(count):
            self._number += 1
            leaf = self.authority.issue("localhost", "127.0.0.1")
            material = read_material(leaf.chain_pem, leaf.key_pem)
            servings.append(serving_of(replace(generation, number=self._number, certificates=(material,))))
        return servings

    async def open(self, sections: Mapping[str, Mapping[str, Any]]) -> None:
        self._sections = {
            "service": {
                "host": "127.0.0.1",
                "http_port": 0,
                "api_key": API_KEY,
                "read_only_api_key": READ_KEY,
            },
            "upstream": {"http": self.upstream.address},
            "admin": {"socket": None},
        }
        if self.tls:
            self._sections["service"]["enable_tls"] = True
            self._sections["tls"] = {"cert": "tls.crt", "key": "tls.key"}
        self.publish(rotate=False, **sections)
        serving = self.current.serving
        assert serving is not None
        service = serving.generation.settings.service
        self.decisions = DecisionLog(self._record)
        self.handshakes = HandshakeLog(_log)
        self.ledger = Ledger()
        self.gateway = HttpGateway(
            serving.generation.settings,
            current=self.current,
            pools=self.pools,
            health=self._health,
            guards=Guards(Gatekeeper(), self.ledger),
            records=Records(self.decisions, self.handshakes, lambda _cause: None),
            left=self._left,
        )
        self.door = Door(
            "http",
            bind(service.host, 0),
            tls=self.tls,
            current=self.current,
            protocol=self.gateway.protocol,
            limits=Limits(service.handshake_timeout, service.max_connections),
            handshakes=self.handshakes,
        )
        self.door.open()

    async def shut(self) -> None:
        self.forget_clients()
        self.door.close()
        await self.door.closed()
        await self.gateway.drain(0)
        at = self.pools._open
        await eventually(lambda: at is None or not at.pool._lent, what="the return of every connection")
        await self.pools.close()
        self.decisions.close()
        self.handshakes.close()
        await eventually(lambda: self.door.connections == 0, what="the end of all connections")

    # Clients.

    @property
    def port(self) -> int:
        return self.door.address[1]

    def context(self) -> ssl.SSLContext | None:
        """A client's TLS, which trusts the scene's authority."""
        if self.authority is None:
            return None
        return ssl.create_default_context(cadata=self.authority.pem.decode())

    async def client(self, context: ssl.SSLContext | None = None, *, buffer: int | None = None) -> Link:
        """A new connection to the gateway."""
        link = await connect(self.door.address[0], self.port, context or self.context(), buffer=buffer)
        self._clients.append(link)
        return link

    async def ask(self, data: bytes, method: str = "GET") -> Answer:
        """One request on a connection of its own."""
        client = await self.client()
        try:
            client.send(data)
            return await client.answer(method)
        finally:
            client.close()

    async def asked(self, data: bytes, method: str = "GET") -> tuple[Answer, Event]:
        """The answer to one request, and the only line that it left."""
        return await self.ask(data, method), await self.record()

    def forget(self, client: Link) -> None:
        """It is closed: nothing is to be done about it at the end."""
        self._clients.remove(client)

    def forget_clients(self) -> None:
        for client in self._clients:
            client.abort()
        self._clients.clear()

    # What was told.

    async def record(self) -> Event:
        """The only decision that was recorded, waited for; then forgotten."""
        (record,) = await self.several(1)
        return record

    async def several(self, count: int) -> list[Event]:
        """The decisions recorded so far, waited for and then forgotten; AssertionError if there are more."""
        await eventually(lambda: len(self.records) >= count, what=f"{count} records: {self.records}")
        records, self.records[:] = list(self.records), []
        assert len(records) == count, records
        return records

    def events(self, name: str) -> list[Event]:
        return [line for line in self.told if line["event"] == name]

    def _record(
        self,
        level: str,
        event: str,
        fields: Event,
        *,
        dispensable: bool = False,
        logged: bool = True,  # noqa: ARG002 - `Emit` has it
        audited: bool = False,  # noqa: ARG002 - likewise
    ) -> None:
        self.records.append({"level": level, "event": event, "dispensable": dispensable, **fields})

    def _left(self) -> None:
        self.door.left()

    async def _health(self) -> dict[str, bool]:
        return self.ready

    def note_accident(self, _loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.accidents.append(f"{context.get('message')}: {context.get('exception')!r}")


class Accidents(logging.Handler):
    """Notes what asyncio and others warn of."""

    def __init__(self, into: list[str]) -> None:
        super().__init__(logging.WARNING)
        self._into = into

    def emit(self, record: logging.LogRecord) -> None:
        self._into.append(f"{record.name}: {record.getMessage()}")


@contextlib.asynccontextmanager
async def stage(
    folder: Path,
    script: Script | None = None,
    *,
    tls: bool = False,
    upstream: Upstream | None = None,
    upstream_section: Mapping[str, Any] | None = None,
    **sections: Mapping[str, Any],
) -> AsyncIterator[Scene]:
    """A gateway in front of an upstream that follows `script`, or of one that was started already.

    `upstream_section` and `sections` are merged over the settings.
    """
    played = upstream or Upstream(script)
    if upstream is None:
        await played.start()
    structlog.reset_defaults()
    loop, root = asyncio.get_running_loop(), logging.getLogger()
    with capture_logs() as told:
        scene = Scene(folder, played, tls=tls, told=told)
        handler = Accidents(scene.accidents)
        loop.set_exception_handler(scene.note_accident)
        root.addHandler(handler)
        try:
            await scene.open({**sections, "upstream": upstream_section or {}})
            try:
                yield scene
            finally:
                await scene.shut()
        finally:
            await played.stop()
            root.removeHandler(handler)
            loop.set_exception_handler(None)
    tracebacks = [line for line in told if line.get("exc_info")]
    assert scene.accidents + tracebacks == []


def _log(level: str, event: str, fields: Event, *, dispensable: bool = False) -> None:
    """Handshakes are looked for among the other events, not among the decisions."""
    structlog.get_logger().log(getattr(logging, level.upper()), event, **fields)
