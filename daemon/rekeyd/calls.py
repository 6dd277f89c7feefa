"""gRPC: where its calls come in, from the opening to the end, and how its upstream is.

Owns: which doors take calls: one of its own, or that of HTTP (`service.single_port`). A reload can't change
where is listened, nor whether at all. Must not know: how a call gets through.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from rekeyd.gatekeeper import Gatekeeper
from rekeyd.ledger import Ledger
from rekeyd.listeners.alpn import Chooser, Factory
from rekeyd.listeners.door import Door, Limits
from rekeyd.listeners.grpc.gateway import GrpcGateway, GrpcRecords
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import Settings
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.broken import BrokenLog
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.handshakes import Emit, HandshakeLog
from rekeyd.upstream.grpc import GrpcDialer
from rekeyd.upstream.grpc_health import GrpcHealth


@dataclass(frozen=True, slots=True)
class Told:
    """Where what happens is told and counted."""

    emit: Emit
    decisions: DecisionLog
    handshakes: HandshakeLog
    upstream_failed: Callable[[str], None]


def grpc_port_of(settings: Settings) -> int | None:
    """Where calls come in, if they have a port of their own."""
    return settings.service.grpc_port if settings.upstream.grpc is not None else None


def grpc_upstream_of(settings: Settings) -> str | None:
    """Where calls go at start; None where gRPC is not served."""
    served = grpc_port_of(settings) is not None or settings.service.single_port
    upstream = settings.upstream.grpc
    return str(upstream) if served and upstream is not None else None


class Calls:
    """The gRPC of one daemon; without `upstream.grpc` and a port there is none, and nothing listens."""

    def __init__(
        self,
        settings: Settings,
        *,
        current: Current,
        ledger: Ledger,
        gatekeeper: Gatekeeper,
        told: Told,
        sockets: Sockets,
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._current = current
        self._handshakes = told.handshakes
        self._broken = BrokenLog(told.emit)
        self.upstream = grpc_upstream_of(settings)
        """Where calls go at start; None where gRPC is not served."""
        dialer = GrpcDialer()
        self.health = GrpcHealth(dialer) if self.upstream is not None else None
        """How the upstream is; None where gRPC is not served."""
        self.door: Door | None = None
        """Its own, where it has one."""
        self._gateway = GrpcGateway(
            settings,
            current=current,
            dialer=dialer,
            ledger=ledger,
            records=GrpcRecords(told.decisions, told.handshakes, self._broken, told.upstream_failed),
            gatekeeper=gatekeeper,
        )

    def beside(self, http: Factory, left: Callable[[], None]) -> Factory:
        """What serves the door of HTTP: calls as well, where both share a port. `left` is that door's."""
        if self.upstream is None or not self._settings.service.single_port:
            return http
        return lambda serving: Chooser(
            serving, http, {"h2": lambda chosen: self._gateway.protocol(chosen, left)}
        )

    def open(self) -> None:
        """Listen. Raises OSError where the address can't be had."""
        service, port = self._settings.service, grpc_port_of(self._settings)
        if port is None:
            return
        self.door = Door(
            "grpc",
            self._sockets.listen("grpc", service.host, port),
            tls=service.enable_tls,
            current=self._current,
            protocol=self._protocol,
            limits=Limits(service.handshake_timeout, service.max_connections),
            handshakes=self._handshakes,
            context=lambda serving: serving.grpc_tls,
        )
        self.door.open()

    def close(self) -> None:
        """Take no more connections. Those that are there go on."""
        if self.door is not None:
            self.door.close()

    async def closed(self) -> None:
        """Wait for the handshakes that were under way."""
        if self.door is not None:
            await self.door.closed()

    async def drain(self, within: float) -> int:
        """Serve what runs, for `within` seconds; how many connections were cut then."""
        return await self._gateway.drain(within)

    def end(self) -> None:
        """Tell what is yet to be told."""
        self._broken.close()

    def _protocol(self, serving: Serving) -> asyncio.Protocol:
        if self.door is None:
            raise RuntimeError("a connection came by a door that there isn't")
        return self._gateway.protocol(serving, self.door.left)
