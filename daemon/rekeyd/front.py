"""What serves: the doors, what is behind them, and what is recorded of it; in this process, whole.

Owns: which listeners there are and in which order they open, drain and end. It goes by `current`, whoever
publishes there. Must not know: files, reloads, the service manager, or whether other processes serve beside
it.
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass

from rekeyd import __version__
from rekeyd.calls import Calls, Told, grpc_port_of
from rekeyd.cluster import Cluster, places_of_peers
from rekeyd.condition import Checks
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.ledger import Ledger
from rekeyd.listeners.door import Door, Limits
from rekeyd.listeners.http.gateway import Guards, HttpGateway, Records
from rekeyd.proof import DoorWay, Pulse, Way, reason_against_any
from rekeyd.reload.contexts import ContextError, serving_of
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import Settings
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.evidence import Evidence
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.metrics import Metrics
from rekeyd.telemetry.report import Listener, Report
from rekeyd.trust.generation import Generation, Part
from rekeyd.upstream.connectors import ApplicationError, find_factory
from rekeyd.upstream.pools import Pools


@dataclass(frozen=True, slots=True)
class Place:
    """Where is to be listened; `outward` for this machine on its way to a peer, else for who comes in."""

    name: str
    host: str
    port: int
    tls: bool
    outward: bool = False


def places_in(settings: Settings) -> list[Place]:
    """Every place where is listened, but for what is asked of the daemon itself."""
    service = settings.service
    places = [Place("http", service.host, service.http_port, service.enable_tls)]
    if (port := grpc_port_of(settings)) is not None:
        places.append(Place("grpc", service.host, port, service.enable_tls))
    peers = places_of_peers(settings)
    return [*places, *(Place(name, host, port, tls, outward=not tls) for name, host, port, tls in peers)]


TUNNELS_END = 5.0
"""Seconds in which tunnels deliver what they hold when the daemon stops."""


class Front:
    """Everything that meets traffic, from `open` to `end`. A reload can't change `settings`."""

    def __init__(self, settings: Settings, *, current: Current, logs: Logs, sockets: Sockets) -> None:
        self._settings = settings
        self._current = current
        self._logs = logs
        self._sockets = sockets
        self._ledger = Ledger()
        self.sealed: int | None = None
        """A descriptor of the sealed snapshot of what is served, where there is one: nobody here needs it."""
        self.evidence = Evidence(lambda: current.generation, now=time.time)
        self.metrics = Metrics(
            version=__version__,
            generation=lambda: current.generation,
            connections=self._ledger.per_generation,
            last_used=self.evidence.last_used,
            lost_lines=logs.lost,
        )
        self._decisions = DecisionLog(
            logs.emit,
            counts=[self.metrics, self.evidence],
            hub=logs.hub,
            decisions=settings.logging.decisions,
            audited=settings.logging.audit is not None,
        )
        self._handshakes = HandshakeLog(logs.emit, self.metrics)
        self._gatekeeper = Gatekeeper()
        self._pools = Pools()
        self._calls = self._make_calls()
        self._cluster = Cluster(
            settings,
            current=current,
            ledger=self._ledger,
            handshakes=self._handshakes,
            sockets=sockets,
        )
        self.metrics.register(self._cluster.metrics)
        self._checks = Checks(current, self._pools, self._calls.health)
        self._gateway = self._make_gateway()
        self._door: Door | None = None
        self._closed = False
        self._pulse = Pulse()

    def _make_calls(self) -> Calls:
        return Calls(
            self._settings,
            current=self._current,
            ledger=self._ledger,
            gatekeeper=self._gatekeeper,
            told=Told(self._logs.emit, self._decisions, self._handshakes, self.metrics.upstream_failed),
            sockets=self._sockets,
        )

    def _make_gateway(self) -> HttpGateway:
        return HttpGateway(
            self._settings,
            current=self._current,
            pools=self._pools,
            health=self._checks.all,
            guards=Guards(self._gatekeeper, self._ledger),
            records=Records(self._decisions, self._handshakes, self.metrics.upstream_failed),
            left=self._connection_left,
        )

    def _connection_left(self) -> None:
        if self._door is not None:
            self._door.left()

    # Start.

    async def open(self) -> None:
        """Take connections, once the first generation is published, unless `close` comes before it is done.

        Raises:
            OSError, RekeydError, UpstreamError: a listener can't be had, and none is open.
        """
        service = self._settings.service
        if self._current.generation is not None:
            await self._pools.pool_for(self._current.generation)
        if self._closed:
            return
        self._door = door = Door(
            "http",
            self._sockets.listen("http", service.host, service.http_port),
            tls=service.enable_tls,
            current=self._current,
            protocol=self._calls.beside(self._gateway.protocol, self._connection_left),
            limits=Limits(service.handshake_timeout, service.max_connections),
            handshakes=self._handshakes,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(door.close)
            self._calls.open()
            undo.callback(self._calls.close)
            self._cluster.open()
            door.open()
            undo.pop_all()

    @property
    def listeners(self) -> list[Listener]:
        """Where is listened, in the order in which it is told."""
        return [Listener(door.name, *door.address, tls=door.tls) for door in self._doors]

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._ledger)

    @property
    def grpc_upstream(self) -> str | None:
        """Where calls go; None where gRPC is not served."""
        return self._calls.upstream

    @property
    def own_doors(self) -> dict[str, Door]:
        """Those by which others come in, by name: not those of this machine to its peers."""
        doors = (self._door, self._calls.door, self._cluster.door)
        return {door.name: door for door in doors if door is not None}

    @property
    def _doors(self) -> list[Door]:
        return [*filter(None, (self._door, self._calls.door)), *self._cluster.doors]

    # What is asked of it, and what follows a change.

    def follow(self, generation: Generation, *, changed: bool) -> None:
        """`generation` is current; unless `changed` it was before, and another one was tried."""
        if changed:
            self._logs.level = generation.settings.logging.level
            self._decisions.decisions = generation.settings.logging.decisions
        # Also where nothing changed: what came in under a generation that was taken back is judged anew.
        self._ledger.rotated(generation)

    async def report(self) -> Report:
        """How it is at this moment."""
        return Report(
            checks=await self._checks.all(),
            grpc_health=await self._checks.grpc_health(),
            connections=self._ledger.per_generation(),
            in_use=self._ledger.in_use(),
            cluster=self._cluster.described(),
        )

    async def prepare(self, _: Serving) -> str | None:
        """Nothing is to be done: this process has what it needs."""
        return None

    async def spread(self, _: Serving) -> None:
        """Nor is anybody else to be told."""

    def renew(self) -> None:
        """There are no workers to be replaced."""

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Metrics, and their content type."""
        return self.metrics.exposition(accept)

    async def verify(self, serving: Serving) -> str | None:
        """Does a client that comes in by a door of ours see what is served now? None where it does.

        Through each door that has TLS: the first that shows something else is enough.
        """
        return await reason_against_any(serving, self._ways)

    async def reason_for_doubt(self, within: float) -> str | None:
        """Does each door of ours still let somebody in, within so many seconds? None where it does."""
        serving = self._current.serving
        return None if serving is None else await self._pulse.reason_for_doubt(serving, self._ways, within)

    @property
    def _ways(self) -> list[Way]:
        return [DoorWay(door) for door in self.own_doors.values()]

    # Stop.

    def close(self) -> None:
        """Take no more connections by HTTP and gRPC. Those that are there go on."""
        self._closed = True
        for door in (self._door, self._calls.door):
            if door is not None:
                door.close()

    async def drain(self, within: float) -> int:
        """Finish what runs, for `within` seconds; how many connections were cut then.

        A handshake that hangs delays nobody else; connections that come of one are drained after it.
        """
        now = asyncio.get_running_loop().time
        deadline = now() + within
        cut, _ = await asyncio.gather(self._drain_gateways(within), self._finish_handshakes(within))
        cut += await self._drain_gateways(max(0.0, deadline - now()))
        # The service may need its peers for the answers that it had to finish: tunnels end last.
        return cut + await self._cluster.drain(max(0.0, min(TUNNELS_END, deadline - now())))

    async def cut(self) -> int:
        """End everything now; how many connections that were."""
        return await self._drain_gateways(0) + await self._cluster.drain(0)

    async def _drain_gateways(self, within: float) -> int:
        return sum(await asyncio.gather(self._gateway.drain(within), self._calls.drain(within)))

    async def _finish_handshakes(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(
                    *(door.closed() for door in (self._door, self._calls.door) if door is not None)
                )

    async def end(self) -> None:
        """Tell what is yet to be told."""
        await self._pools.close()
        self._decisions.close()
        self._handshakes.close()
        self._calls.end()


def build(generation: Generation) -> Serving:
    """What is served of a generation. Runs in a thread. Raises ContextError where it can't be."""
    upstream = generation.settings.upstream.http
    if upstream is not None and upstream.scheme == "app":
        try:
            find_factory(upstream.path)
        except ApplicationError as error:
            fix = "Correct upstream.http, or install what it names"
            raise ContextError(str(error), fix, Part.SETTINGS) from error
    return serving_of(generation)
