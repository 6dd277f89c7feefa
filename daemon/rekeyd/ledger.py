"""Every open connection, the generation under which it was accepted, and what it rests on.

The rules:

1. What is open must be admissible to the current generation: after each change every connection, and every
   request that runs on it, is judged anew, with the very functions that admit new ones. What rests on trust
   that was taken away or is over (a CA, a client certificate, a key, a token) gets `GRACE` seconds to finish,
   and is then cut, unless it is trusted again by then.
2. `connections.after_rotation: drain` retires the connections of older generations: idle ones close at
   moments spread over `connections.drain` seconds, so that their clients don't come back all at once; answers
   at hand say `Connection: close`; what is left at the end is cut. A tunnel has no answers: it ends at its
   moment.
3. `connections.max_age` retires a connection at that age, a tenth earlier or later, and cuts it
   `connections.drain` seconds after.
4. What was set going goes on: a later change puts no end off, and no timer outlives its connection.

Must not know: what is spoken on a connection, or how it is closed.
"""

import asyncio
import contextlib
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import structlog

from rekeyd.access.admission import Ask, objection_to
from rekeyd.access.keys import Credential
from rekeyd.trust.clients import objection
from rekeyd.trust.generation import Generation
from rekeyd.trust.shrinkage import shrinkage

log = structlog.get_logger()

GRACE = 3.0
"""Seconds between the loss of trust and the cut, so that the end comes within 5 also on a busy machine."""
LOOKS = 1.0
"""Seconds between two looks at whether a key or token that is in use has expired."""
_JITTER = 0.1


class Closable(Protocol):
    """A connection, as far as the ledger deals with it."""

    def retire(self) -> None:
        """Close now if nothing is asked, else after the answer at hand."""

    def cut(self, why: str) -> None:
        """Close now, whatever is under way; `why` goes to the records of what was."""


Admission = Callable[[Generation, bytes | None, Generation | None], str | None]
"""Why a certificate has no place in a generation (see `trust.clients.objection`)."""


@dataclass(eq=False, slots=True)
class Use:
    """A request that runs, and the credential that let it in (None: none was needed).

    Not frozen, which would double what it costs to make: there is one for every request.
    """

    ask: Ask
    credential: Credential | None


@dataclass(eq=False, slots=True)
class Entry:
    """One open connection. `certificate` is the other end's, DER; None where it showed none.

    `admission` judged whether it may come in. `opaque`: nobody knows when an answer is finished, so that to
    retire it is to end it; where trust is lost that is left to the cut, which says why.
    """

    connection: Closable
    generation: Generation
    certificate: bytes | None = None
    admission: Admission = objection
    opaque: bool = False
    using: list[Use] = field(default_factory=list)
    """The requests that run on it."""
    timers: dict[str, asyncio.TimerHandle] = field(default_factory=dict, repr=False)
    """What is to happen to it, by name; each once."""


class Ledger:
    """Knows every open connection of every listener. `now` is in seconds of the epoch."""

    def __init__(self, now: Callable[[], float] = time.time) -> None:
        self._now = now
        self._open: set[Entry] = set()
        self._ending: dict[Use, Entry] = {}
        self._looks: asyncio.TimerHandle | None = None
        self._current: Generation | None = None
        self._narrower: dict[int, bool] = {}
        self._objections: dict[tuple[Admission, int, bytes | None], str | None] = {}

    def __len__(self) -> int:
        return len(self._open)

    def per_generation(self) -> dict[int, int]:
        """How many connections each generation still has."""
        return dict(Counter(entry.generation.number for entry in self._open))

    def in_use(self) -> dict[str, int]:
        """How many requests run on each key, by its id."""
        return dict(
            Counter(use.credential.id for entry in self._open for use in entry.using if use.credential)
        )

    def enter(
        self,
        connection: Closable,
        generation: Generation,
        certificate: bytes | None = None,
        *,
        admission: Admission = objection,
        opaque: bool = False,
    ) -> Entry:
        """A connection was let in under `generation`."""
        entry = Entry(connection, generation, certificate, admission, opaque)
        self._open.add(entry)
        rules = generation.settings.connections
        if rules.max_age is not None:
            age = rules.max_age * random.uniform(1 - _JITTER, 1 + _JITTER)  # noqa: S311 - spreads load, hides nothing
            self._retire(entry, age, cut_after=rules.drain, why="max_age")
        if self._is_older(entry):  # it changed during the handshake
            self._follow(entry)
        return entry

    def leave(self, entry: Entry) -> None:
        """The connection is closed."""
        self._open.discard(entry)
        if entry.timers:
            _forget_timers(entry)

    @contextlib.contextmanager
    def resting(self, entry: Entry, use: Use) -> Iterator[None]:
        """While it runs, a request rests on what let it in: should that go, the connection ends."""
        self.begin(entry, use)
        try:
            yield
        finally:
            self.end(entry, use)

    def begin(self, entry: Entry, use: Use) -> None:
        """The same for whom no block encloses it: `end` has to follow."""
        entry.using.append(use)
        if use.credential is not None and use.credential.expires is not None:
            self._ending[use] = entry
            self._look_later()

    def end(self, entry: Entry, use: Use) -> None:
        entry.using.remove(use)
        if self._ending:
            self._ending.pop(use, None)

    def rotated(self, new: Generation) -> None:
        """`new` is current from now on."""
        self._current = new
        self._narrower.clear()
        self._objections.clear()
        for entry in tuple(self._open):
            if entry.generation is not new:
                self._follow(entry)

    def _is_older(self, entry: Entry) -> bool:
        """A newer one is about to become current: it is published before it is told here."""
        return self._current is not None and entry.generation.number < self._current.number

    def _follow(self, entry: Entry) -> None:
        """What the current generation asks of a connection of another one."""
        if self._objection(entry) is not None:
            if not entry.opaque:
                entry.connection.retire()
            self._after(GRACE, entry, "objection", lambda: self._cut_for(entry, self._objection(entry)))
        self._follow_keys(entry)
        rules = self._current.settings.connections if self._current is not None else None
        if rules is not None and rules.after_rotation == "drain":
            wait = random.uniform(0, rules.drain * (1 - 2 * _JITTER))  # noqa: S311
            self._retire(entry, wait, cut_after=rules.drain - wait, why="rotation")

    # What it rests on.

    def _objection(self, entry: Entry) -> str | None:
        """Why the client's certificate, or that it has none, is not enough any more. Looked at once for all
        that are alike, and not at all where client certificates need no more than before."""
        current, then = self._current, entry.generation
        if current is None or current is then or not self._asks_for_more_than(then, current):
            return None
        alike = (entry.admission, then.number, entry.certificate)
        if alike not in self._objections:
            self._objections[alike] = entry.admission(current, entry.certificate, then)
        return self._objections[alike]

    def _asks_for_more_than(self, then: Generation, current: Generation) -> bool:
        if then.number not in self._narrower:
            lost = shrinkage(then, current)
            self._narrower[then.number] = bool(lost.authorities or lost.revoked or lost.narrowed)
        return self._narrower[then.number]

    def _follow_keys(self, entry: Entry) -> None:
        if self._lost_key(entry) is not None:
            self._after(GRACE, entry, "lost_key", lambda: self._cut_for(entry, self._lost_key(entry)))

    def _lost_key(self, entry: Entry) -> str | None:
        """Asked again when the grace is over: the request may have ended by then."""
        current = self._current or entry.generation
        found = (objection_to(use.ask, use.credential, current, self._now()) for use in entry.using)
        return next(filter(None, found), None)

    def _look_later(self) -> None:
        if self._looks is None:
            self._looks = asyncio.get_running_loop().call_later(LOOKS, self._look_at_the_ending)

    def _look_at_the_ending(self) -> None:
        """The clock on the wall decides, which may be set: so it is looked at again and again."""
        self._looks = None
        for entry in tuple(self._ending.values()):
            self._follow_keys(entry)
        if self._ending:
            self._look_later()

    # What happens later.

    def _retire(self, entry: Entry, wait: float, *, cut_after: float, why: str) -> None:
        self._after(wait, entry, f"{why}: retire", entry.connection.retire)
        self._after(wait + cut_after, entry, f"{why}: cut", lambda: self._cut_for(entry, why))

    def _after(self, wait: float, entry: Entry, what: str, act: Callable[[], None]) -> None:
        """Once: while it waits to happen it isn't put off."""

        def happen() -> None:
            del entry.timers[what]
            act()

        if what not in entry.timers:
            entry.timers[what] = asyncio.get_running_loop().call_later(wait, happen)

    def _cut_for(self, entry: Entry, why: str | None) -> None:
        if why is not None:
            _forget_timers(entry)
            log.info("connection.cut", reason=why, connection_generation=entry.generation.number)
            entry.connection.cut(why)


def _forget_timers(entry: Entry) -> None:
    for timer in entry.timers.values():
        timer.cancel()
    entry.timers.clear()
