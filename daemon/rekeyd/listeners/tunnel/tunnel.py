"""A tunnel: who comes in, where it leads, and how it ends.

The rules. Nothing is passed on before both ends are known to be who they should be: a peer that comes in is
judged before the service is connected to, and one that is connected to before its first byte is passed on.
Who comes in is held until the other end is reached, with little of what is said meanwhile, or is reset when
that fails. Every tunnel is in the ledger from the moment its peer is known, under the generation whose
contexts it was made with. It is told when it opens and when it ends, with the reason and the bytes each way.

Must not know: how the two ends are connected (`inbound.py`, `outbound.py`).
"""

import abc
import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from rekeyd.ledger import Admission, Entry
from rekeyd.listeners.tunnel.reach import Reach, UnreachableError, failure_of
from rekeyd.listeners.tunnel.relay import End, Idleness
from rekeyd.listeners.tunnel.tunnels import Tunnels
from rekeyd.system.peers import address_of
from rekeyd.telemetry.tunnels import Carried
from rekeyd.trust.generation import Generation
from rekeyd.trust.peers import name_of

CLOSED, BROKEN, IDLE, RETIRED, STOPPED = "closed", "broken_off", "idle", "retired", "stopped"
REFUSED, UNREACHABLE, LEFT = "refused", "unreachable", "left"
"""Why a tunnel ended, or came to nothing; other reasons are the ledger's words."""

_FLUSH_LOOKS = 0.02

log = structlog.get_logger()


class Tunnel(abc.ABC):
    """One tunnel, from the moment somebody came in at `near`."""

    direction: str

    def __init__(self, tunnels: Tunnels, reach: Reach, label: str, left: Callable[[], None]) -> None:
        self.tunnels = tunnels
        self.reach = reach
        self.label = label
        """What metrics call the other end."""
        self.near = End(self)
        self.far: End | None = None
        self.peer_certificate: bytes | None = None
        self.entry: Entry | None = None
        self.why: str | None = None
        """Why it ends, once that is settled."""
        self._problem: str | None = None
        self.address = ""
        """Of who came in, without the port."""
        self._left = left
        self._connecting: asyncio.Task[None] | None = None
        self._leaving: asyncio.Task[None] | None = None
        self._idleness = Idleness(tunnels.idle_timeout, lambda: self.cut(IDLE))
        self._since = 0.0
        self._over = False

    # What the directions have to say.

    @property
    @abc.abstractmethod
    def peer_end(self) -> End | None:
        """The one of the two at which the peer is."""

    @abc.abstractmethod
    def arrived(self) -> bool:
        """Somebody is there at `near`; whether it may be."""

    @abc.abstractmethod
    async def connect(self) -> End:
        """One attempt to make `far`; what it gives is that. Raises OSError, StrangerError."""

    @abc.abstractmethod
    def met(self, end: End) -> None:
        """`end` is connected, and nothing of it was heard yet."""

    @abc.abstractmethod
    def heard_from_afar(self) -> None:
        """`far` said something."""

    @abc.abstractmethod
    def silent(self, error: Exception | None) -> None:
        """`far` went without a word."""

    # For the ledger.

    def retire(self) -> None:
        """There is no answer after which it could end: so it ends now, when what was taken is delivered."""
        self._break_off(RETIRED)

    def cut(self, why: str) -> None:
        """End now, whatever is under way, so that both sides can tell."""
        self._ends(why)
        for end in (self.near, self.far):
            if end is not None:
                end.reset()

    def finish(self) -> None:
        """For a drain: break off when what was taken is delivered. It is no end of what is said, and must not
        look like one."""
        if self.far is None or self.near.other is None:
            self.cut(STOPPED)
        else:
            self._break_off(STOPPED)

    def _break_off(self, why: str) -> None:
        """Take no more, deliver what was taken, and then cut."""
        for end in (self.near, self.far):
            if end is not None:
                end.pause()
        if self._leaving is None:
            self._leaving = asyncio.get_running_loop().create_task(self._deliver_and_cut(why))

    async def _deliver_and_cut(self, why: str) -> None:
        while any(end.has_unsent for end in (self.near, self.far) if end is not None):  # noqa: ASYNC110
            await asyncio.sleep(_FLUSH_LOOKS)  # no event tells of what the kernel holds
        self.cut(why)

    def enter(self, generation: Generation, certificate: bytes | None, admission: Admission) -> None:
        """The peer is known."""
        self.peer_certificate = certificate
        self.entry = self.tunnels.ledger.enter(
            self, generation, certificate, admission=admission, opaque=True
        )

    # What the ends tell.

    def made(self, end: End) -> None:
        if end is not self.near:
            self.met(end)
            return
        loop = asyncio.get_running_loop()
        self._since = loop.time()
        self.address = address_of(end.transport.get_extra_info("peername") if end.transport else None)
        self.tunnels.came(self)
        if self.arrived():
            self._connecting = loop.create_task(self._reach())
        else:
            end.turned_away = True
            self.cut(REFUSED)

    def heard(self, end: End) -> None:
        self._idleness.heard()
        if end is self.far and end.taken:
            self.heard_from_afar()

    def ended(self, end: End) -> None:
        self._idleness.heard()
        if end is self.far:
            self.heard_from_afar()
        if self.far is not None and self.near.ended and self.far.ended:
            self._ends(CLOSED)
            self.near.close()
            self.far.close()

    def lost(self, end: End, error: Exception | None) -> None:
        if end is not self.near and end is not self.far:
            return  # an attempt that came to nothing, or one that is looked at in `_reach`
        if end is self.far and self.why is None and not end.has_spoken:
            self.silent(error)
        if self.why is None and error is not None:
            self._problem = failure_of(error).problem
        self._ends(BROKEN if end.other is not None else LEFT)
        other = self.far if end is self.near else self.near
        if self._connecting is not None:
            self._connecting.cancel()
        if other is not None and self.why == BROKEN and not other.lost:
            self._break_off(BROKEN)
        elif other is not None and self.why != CLOSED:
            other.reset()
        if self.near.lost and (self.far is None or self.far.lost):
            self._is_over()

    # Its life.

    async def _reach(self) -> None:
        try:
            self.far = await self.reach(self.connect)
        except UnreachableError as error:
            self._ends(UNREACHABLE)
            log.info("tunnel.failed", **self._fields(), problem=str(error))
            self.near.reset()
            return
        except Exception:  # whatever it is, nobody is to be kept waiting
            log.exception("tunnel.failed", **self._fields())
            self.cut(UNREACHABLE)
            return
        if self.far.lost or self.near.lost or self.why is not None:
            if self.far.lost and not self.far.has_spoken:
                self.silent(self.far.error)
            self.cut(self.why or BROKEN)
            return
        log.info("tunnel.opened", **self._fields())
        self._idleness.begin()
        self.near.join(self.far)
        self.far.join(self.near)
        if self.near.ended and self.far.ended:
            self.ended(self.far)

    def _ends(self, why: str) -> None:
        if self.why is None:
            self.why = why

    def _is_over(self) -> None:
        if self._over:
            return
        self._over = True
        self._idleness.end()
        if self._leaving is not None:
            self._leaving.cancel()
        if self.entry is not None:
            self.tunnels.ledger.leave(self.entry)
        if self.near.other is not None and self.far is not None:
            duration = round(asyncio.get_running_loop().time() - self._since, 3)
            log.info(
                "tunnel.closed",
                **self._fields(),
                reason=self.why,
                **({"problem": self._problem} if self._problem else {}),
                duration=duration,
                bytes_to_peer=self.carried.to_peer,
                bytes_from_peer=self.carried.from_peer,
            )
        self.tunnels.went(self, self.why or CLOSED)
        self._left()

    @property
    def carried(self) -> Carried:
        peer = self.peer_end
        ours = self.far if peer is self.near else self.near
        taken = (end.taken if end is not None else 0 for end in (ours, peer))
        return Carried(self.direction, self.label, 1, *taken)

    def _fields(self) -> dict[str, Any]:
        fields: dict[str, Any] = {"direction": self.direction, "client": self.address}
        if self.label:
            fields["peer"] = self.label
        if self.peer_certificate is not None:
            fields["peer_certificate"] = name_of(self.peer_certificate)
        if self.entry is not None:
            fields["connection_generation"] = self.entry.generation.number
        return fields
