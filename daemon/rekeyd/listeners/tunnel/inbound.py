"""Tunnels of peers that come in: from mutual TLS to the service's plaintext cluster port.

The rule: who has no place here by its certificate is turned away before the service hears of it, told in a
line like a failed handshake, which it is to whoever looks at it. Must not know: the door.
"""

import asyncio
from collections.abc import Callable

from rekeyd.listeners.tunnel.reach import Reach
from rekeyd.listeners.tunnel.relay import End
from rekeyd.listeners.tunnel.tunnel import Tunnel
from rekeyd.listeners.tunnel.tunnels import Tunnels
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import P2p
from rekeyd.system.dialing import dial
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.telemetry.tunnels import Way
from rekeyd.trust.generation import Generation
from rekeyd.trust.peers import name_of, peer_objection

LISTENER = "p2p"
IN = "in"


class Inbound:
    """Makes a tunnel for each peer that comes in; `left` is called when one is gone."""

    def __init__(
        self,
        tunnels: Tunnels,
        current: Current,
        settings: Callable[[], P2p],
        handshakes: HandshakeLog,
    ) -> None:
        self.tunnels = tunnels
        self.current = current
        self.settings = settings
        self.handshakes = handshakes
        self.left: Callable[[], None] = lambda: None
        self.reach = Reach(lambda: settings().connect_timeout, "upstream.failed", upstream="cluster")

    def protocol(self, serving: Serving) -> End:
        return _InboundTunnel(self, serving.generation).near

    def way(self) -> Way:
        return Way(IN, "", self.reach.connected, self.reach.failed, self.reach.failures)


class _InboundTunnel(Tunnel):
    direction = IN

    def __init__(self, inbound: Inbound, generation: Generation) -> None:
        super().__init__(inbound.tunnels, inbound.reach, "", inbound.left)
        self._inbound = inbound
        self._generation = generation

    @property
    def peer_end(self) -> End:
        return self.near

    def arrived(self) -> bool:
        certificate = self.near.certificate
        why = peer_objection(self._generation, certificate)
        if why is not None:
            self._inbound.handshakes.failed(
                LISTENER,
                self.address,
                f"client_certificate: {why}",
                self._generation.number,
                name_of(certificate),
            )
            return False
        self.enter(self._generation, certificate, peer_objection)
        return True

    def met(self, end: End) -> None:
        """The service: it needs no more to be known by than its address."""

    def heard_from_afar(self) -> None:
        """That it took the connection was enough."""

    def silent(self, error: Exception | None) -> None:
        """As it may."""

    async def connect(self) -> End:
        upstream = self._inbound.settings().upstream
        if upstream is None:
            raise ConnectionRefusedError("cluster.p2p.upstream is not set")
        far = End(self)
        if upstream.path:
            await asyncio.get_running_loop().create_unix_connection(lambda: far, upstream.path)
        else:
            await dial(lambda: far, upstream.host, upstream.port)
        self.reach.proved()
        return far
