"""Tunnels of the service to a peer: from a plaintext listener on this machine to mutual TLS.

The rules. A tunnel is made with the contexts of the generation that is current when the peer is connected to,
and never without TLS. Before a byte of the peer is passed on it must be the one that is expected there and
one that is allowed at all. A peer that ends without a word, after its handshake, did not take us: that is a
failure of the way to it. Must not know: the door.
"""

import asyncio
import ssl
from collections.abc import Callable
from functools import partial

from rekeyd.ledger import Admission
from rekeyd.listeners.tunnel.reach import Failure, Reach, StrangerError, failure_of
from rekeyd.listeners.tunnel.relay import End
from rekeyd.listeners.tunnel.tunnel import Tunnel
from rekeyd.listeners.tunnel.tunnels import Tunnels
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import P2p, Peer
from rekeyd.system import tls_stream
from rekeyd.telemetry.tunnels import Way
from rekeyd.trust.peers import peer_objection

OUT = "out"
PROVED_AFTER = 2.0
"""Seconds after which a peer that says nothing is taken to be well."""


class Outbound:
    """Makes a tunnel for each connection of the service to one peer; `left` is called when one is gone."""

    def __init__(
        self,
        tunnels: Tunnels,
        current: Current,
        settings: Callable[[], P2p],
        peer: Peer,
    ) -> None:
        self.tunnels = tunnels
        self.current = current
        self.settings = settings
        self.peer = peer
        self.left: Callable[[], None] = lambda: None
        self.admission: Admission = partial(peer_objection, expected=peer.expect)
        self.reach = Reach(lambda: settings().connect_timeout, "peer.failed", peer=str(peer))

    def protocol(self, _serving: Serving) -> End:
        return _OutboundTunnel(self).near

    def way(self) -> Way:
        return Way(OUT, str(self.peer), self.reach.connected, self.reach.failed, self.reach.failures)


class _OutboundTunnel(Tunnel):
    direction = OUT

    def __init__(self, outbound: Outbound) -> None:
        super().__init__(outbound.tunnels, outbound.reach, str(outbound.peer), outbound.left)
        self._outbound = outbound
        self._serving: Serving | None = None
        self._objection: str | None = None
        self._proof: asyncio.TimerHandle | None = None

    @property
    def peer_end(self) -> End | None:
        return self.far

    def arrived(self) -> bool:
        """Whoever reaches the listener may: it is on this machine, unless the settings say otherwise."""
        return True

    async def connect(self) -> End:
        serving = self._serving = self._outbound.current.serving
        if serving is None or serving.peers is None:
            raise ConnectionRefusedError("there is nothing to encrypt with")  # never in plaintext
        peer, far = self._outbound.peer, End(self)
        await tls_stream.connect(
            lambda: far,
            peer.connect.host,
            peer.connect.port,
            serving.peers.connecting,
            within=self._outbound.settings().connect_timeout,
            server_name=peer.connect.host if peer.connect.is_name else None,
        )
        if self._objection is not None:
            raise StrangerError(self._objection, self.peer_certificate)
        self.enter(serving.generation, self.peer_certificate, self._outbound.admission)
        self._proof = asyncio.get_running_loop().call_later(PROVED_AFTER, self._stays)
        return far

    def met(self, end: End) -> None:
        """Judged at once: what it says may follow in the same breath."""
        self.peer_certificate = end.certificate
        if self._serving is not None:
            self._objection = self._outbound.admission(self._serving.generation, end.certificate, None)
        if self._serving is None or self._objection is not None:
            end.reset()

    def _stays(self) -> None:
        if self.far is not None and not self.far.lost and self.why is None:
            self.reach.proved()

    def heard_from_afar(self) -> None:
        self._forget_proof()
        self.reach.proved()

    def silent(self, error: Exception | None) -> None:
        self._forget_proof()
        failure = failure_of(error) if error is not None else Failure("closed", "it closed")
        if isinstance(error, ssl.SSLError) and not isinstance(error, ssl.SSLEOFError):
            failure = Failure("refused", f"it does not take us: {failure.problem}")
        self.reach.failing(failure)

    def _forget_proof(self) -> None:
        if self._proof is not None:
            self._proof.cancel()
            self._proof = None
