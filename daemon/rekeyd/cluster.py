"""Peer to peer: the doors of the tunnels, from their opening to the end, and how they are.

Owns: which doors there are (one for peers that come in, one on this machine for each that is connected to),
and what is told of them. A reload can't change the list of peers, or where is listened. Must not know: how
bytes get from one end of a tunnel to the other.
"""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import Any

from rekeyd.ledger import Ledger
from rekeyd.listeners.door import Door, Limits
from rekeyd.listeners.tunnel.inbound import IN, LISTENER, Inbound
from rekeyd.listeners.tunnel.outbound import OUT, Outbound
from rekeyd.listeners.tunnel.tunnels import Tunnels
from rekeyd.reload.current import Current
from rekeyd.settings import Endpoint, P2p, Peer, Settings, peer_host
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.telemetry.tunnels import TunnelMetrics, Way


def places_of_peers(settings: Settings) -> Iterator[tuple[str, str, int, bool]]:
    """Where is listened: name, host, port, and whether it is TLS that is spoken."""
    p2p = settings.cluster.p2p
    if p2p.enable_tls:
        yield LISTENER, peer_host(settings), p2p.port, True
        for peer in p2p.peers:
            yield _name_of(peer), peer.listen.host, peer.listen.port, False


def _name_of(peer: Peer) -> str:
    return f"peer {peer}"


class Cluster:
    """Peers' tunnels of one daemon; without `cluster.p2p.enable_tls` there are none, and nothing listens."""

    def __init__(
        self,
        settings: Settings,
        *,
        current: Current,
        ledger: Ledger,
        handshakes: HandshakeLog,
        sockets: Sockets,
    ) -> None:
        self._settings = settings
        self._sockets = sockets
        self._current = current
        self._handshakes = handshakes
        self._tunnels = Tunnels(ledger, lambda: self._now().idle_timeout)
        self._inbound = Inbound(self._tunnels, current, self._now, handshakes)
        self._outbound: list[tuple[Outbound, Door]] = []
        self._at: list[str] = []
        """Where the doors are, in their order; also once they are closed."""
        self.door: Door | None = None
        """Where peers come in."""
        self.metrics = TunnelMetrics(self._tunnels.carried, lambda: self._tunnels.ended, self._ways)

    @property
    def doors(self) -> list[Door]:
        """That of peers first, then those to peers in the order of the settings."""
        return [*([self.door] if self.door else []), *(door for _, door in self._outbound)]

    def open(self) -> None:
        """Listen. Raises OSError where an address can't be had, after closing those that could."""
        p2p = self._settings.cluster.p2p
        if not p2p.enable_tls:
            return
        with contextlib.ExitStack() as undo:
            undo.callback(self.close)
            self.door = Door(
                LISTENER,
                self._sockets.listen(LISTENER, peer_host(self._settings), p2p.port),
                tls=True,
                current=self._current,
                protocol=self._inbound.protocol,
                limits=self._limits(),
                handshakes=self._handshakes,
                context=lambda serving: serving.peers.accepting if serving.peers else None,
                framed=False,
            )
            self._inbound.left = self.door.left
            for peer in p2p.peers:
                self._outbound.append(self._door_to(peer))
            for door in self.doors:
                door.open()
                self._at.append(str(Endpoint(*door.address)))
            undo.pop_all()

    def close(self) -> None:
        """Take no more connections. Those that are there go on."""
        for door in self.doors:
            door.close()

    async def drain(self, within: float) -> int:
        """Take no more connections, end all tunnels; how many were cut with something yet to deliver."""
        self.close()
        cut, _ = await asyncio.gather(self._tunnels.drain(within), self._finish_handshakes(within))
        return cut + await self._tunnels.drain(0)

    async def _finish_handshakes(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                for door in self.doors:
                    await door.closed()

    def described(self) -> dict[str, Any] | None:
        """For the status; None where there are no tunnels."""
        p2p = self._now()
        if not self._at:
            return None
        carried = {each.of: each.open for each in self._tunnels.carried()}
        return {
            "inbound": {
                "listen": self._at[0],
                "upstream": str(p2p.upstream),
                "tunnels": carried.get((IN, ""), 0),
                **self._inbound.reach.described(),
            },
            "peers": [
                {
                    "peer": str(outbound.peer),
                    "expect": str(outbound.peer.expect),
                    "listen": at,
                    "tunnels": carried.get((OUT, str(outbound.peer)), 0),
                    **outbound.reach.described(),
                }
                for (outbound, _), at in zip(self._outbound, self._at[1:], strict=True)
            ],
        }

    def _door_to(self, peer: Peer) -> tuple[Outbound, Door]:
        outbound = Outbound(self._tunnels, self._current, self._now, peer)
        door = Door(
            _name_of(peer),
            self._sockets.listen(_name_of(peer), peer.listen.host, peer.listen.port),
            tls=False,
            current=self._current,
            protocol=outbound.protocol,
            limits=self._limits(),
            handshakes=self._handshakes,
        )
        outbound.left = door.left
        return outbound, door

    def _limits(self) -> Limits:
        service = self._settings.service
        return Limits(service.handshake_timeout, service.max_connections)

    def _now(self) -> P2p:
        """The settings of the current generation."""
        generation = self._current.generation
        return (generation.settings if generation is not None else self._settings).cluster.p2p

    def _ways(self) -> Iterator[Way]:
        if self.door is not None:
            yield self._inbound.way()
        for outbound, _ in self._outbound:
            yield outbound.way()
