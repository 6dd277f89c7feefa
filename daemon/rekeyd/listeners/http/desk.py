"""What the two lanes of the gateway share: the same judges, the same answers, the same records.

The rule: whatever a lane does with a request, its visit begins and ends here, and what is decided about it is
decided by the functions that are called here; so no lane can be more lenient than the other, or tell less.

Must not know: how bytes come from a client or get to the upstream.
"""

import asyncio
import os
import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from rekeyd.gatekeeper import Gatekeeper
from rekeyd.http1.request import Request
from rekeyd.ledger import Ledger
from rekeyd.listeners.http.replies import Replies
from rekeyd.listeners.http.visit import Guest, Visit
from rekeyd.reload.current import Current
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError, UpstreamTimeoutError
from rekeyd.upstream.pools import Pools

log = structlog.get_logger()

MEGABYTE = 1024 * 1024
_IDS_AT_ONCE = 256
_ID = 16


@dataclass(frozen=True, slots=True)
class Records:
    """Where what happens is told and counted."""

    decisions: DecisionLog
    handshakes: HandshakeLog
    upstream_failed: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Guards:
    """Who judges what is asked, and who ends what was let in and would not be any more."""

    gatekeeper: Gatekeeper
    ledger: Ledger


class Desk:
    """Where every request of an HTTP gateway begins and ends. `max_head` is in bytes."""

    def __init__(
        self,
        current: Current,
        pools: Pools,
        guards: Guards,
        records: Records,
        replies: Replies,
        max_head: int,
    ) -> None:
        self.current = current
        self.pools = pools
        self.gatekeeper = guards.gatekeeper
        self.ledger = guards.ledger
        self.replies = replies
        self.max_head = max_head
        self.cutting = False
        """Whether what is left of a drain is being cut off."""
        self.visits = 0
        """Requests that have begun and are not recorded yet."""
        self.all_told = asyncio.Event()
        """Set when, during a drain, none is left."""
        self._records = records
        self._ids: list[str] = []

    def generation(self) -> Generation:
        generation = self.current.generation
        if generation is None:
            raise RuntimeError("a connection came before there was a generation")
        return generation

    def begin(self, guest: Guest, generation: Generation) -> Visit:
        """A request has come; `end` has to follow."""
        self.visits += 1
        return Visit(time.monotonic(), generation, guest, guest.peer, guest.peer, guest.tls)

    def end(self, visit: Visit) -> None:
        """Its answer is finished, or given up: it has its line."""
        self._records.decisions.record(visit.decision(time.monotonic()))
        self.visits -= 1
        if not self.visits and self.replies.draining:
            self.all_told.set()

    def malformed(self, guest: Guest, status: int) -> None:
        """What never became a request has its line, too."""
        generation = self.current.generation
        if generation is not None:
            visit = self.begin(guest, generation)
            visit.reason, visit.status = "malformed", status
            self.end(visit)

    def turned_away(self, guest: Guest, why: str) -> None:
        """A handshake that OpenSSL passed and we don't."""
        number = guest.generation.number
        self._records.handshakes.failed("http", guest.peer, f"client_certificate: {why}", number)

    def stall_timeout(self) -> float:
        """Seconds, at this moment: it is reloadable."""
        generation = self.current.generation
        return generation.settings.service.stall_timeout if generation is not None else 0.0

    def why_it_was_cut(self, guest: Guest) -> str | None:
        return "cut off at the end of the drain" if self.cutting else guest.cut_for

    def new_id(self) -> str:
        """A request's id, where the client gave none: 32 random hex digits. The system is asked for many at
        once."""
        if not self._ids:
            digits = os.urandom(_ID * _IDS_AT_ONCE).hex()
            self._ids = [digits[at : at + 2 * _ID] for at in range(0, len(digits), 2 * _ID)]
        return self._ids.pop()

    def too_large(self, request: Request, generation: Generation) -> str | None:
        """Why a body may not come, by what its head announces; None where it may."""
        megabytes = generation.settings.service.max_request_size_mb
        return too_large(megabytes) if (request.framing.length or 0) > megabytes * MEGABYTE else None

    def upstream_failed(self, visit: Visit, error: UpstreamError) -> None:
        visit.failure = str(error)
        self._records.upstream_failed(error.cause)
        log.error(
            "upstream.failed",
            cause=error.cause,
            problem=str(error),
            request_id=visit.request_id,
            generation=visit.generation.number,
        )


def too_large(megabytes: int) -> str:
    return f"The body is larger than {megabytes} MB"


def told_of(error: UpstreamError) -> tuple[int, str]:
    """The status and the words with which a client is told that the upstream failed."""
    if isinstance(error, UpstreamTimeoutError):
        return 504, "The upstream took too long"
    return 502, "The upstream can't be reached or broke off"
