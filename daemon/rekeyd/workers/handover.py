"""A generation on its way to the workers: prepared by all, then published by all.

The rules: it is prepared by all workers or published by none; when `spread` returns, all that serve have it.
Each is handed the same sealed snapshot. A worker that comes later, or that came between the two, is handed
what is current by then. One that can't follow what was published is killed, for it would serve what isn't
current. The snapshot of what was served before is kept, should that have to come back.

Must not know: how a snapshot is sealed, when a generation changes, or how a worker comes and goes.
"""

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from rekeyd.errors import RekeydError
from rekeyd.trust.generation import Generation
from rekeyd.workers.member import Member, WorkerError
from rekeyd.workers.roster import PATIENCE, Roster

BUILD = 60.0
"""Seconds for a worker to build a generation: a hundred thousand keys and a thousand pairs take ten."""

Seal = Callable[[Generation], int]
"""A descriptor of the sealed snapshot that this generation was made of. Called in a thread.

It raises OSError or RekeydError where that can't be had.
"""


@dataclass(frozen=True, slots=True)
class _Held:
    """A generation as it is handed over: `descriptor` is its sealed snapshot."""

    number: int
    descriptor: int


class Handover:
    """Generations as the workers have them; `close` at the end."""

    def __init__(self, roster: Roster, seal: Seal) -> None:
        self._roster = roster
        self._seal = seal
        self._next: _Held | None = None
        self._held: _Held | None = None
        self._before: _Held | None = None

    @property
    def sealed(self) -> int | None:
        """A descriptor of the sealed snapshot of what is served."""
        return None if self._held is None else self._held.descriptor

    async def prepare(self, generation: Generation) -> str | None:
        """Have every worker build it; why one can't, or None."""
        self._drop_next()
        try:
            descriptor = await asyncio.to_thread(self._seal, generation)
        except (OSError, RekeydError) as error:
            return f"it can't be handed over: {error}"
        self._next = held = _Held(generation.number, descriptor)
        found = await self._roster.each(lambda member: _hand_over(member, held))
        # One that is leaving may be gone by now. If it isn't, it ends when it can't follow (`spread`).
        answers = [answer for member, answer in found if not member.leaving]
        problem = next((str(answer) for answer in answers if isinstance(answer, WorkerError)), None)
        if problem is not None:
            self._drop_next()
        return problem

    async def spread(self, number: int) -> None:
        """From now on all workers serve it: what was prepared, or what was served before that."""
        if self._next is not None and self._next.number == number:
            _drop(self._before)
            self._before, self._held, self._next = self._held, self._next, None
        elif self._before is not None and self._before.number == number:
            _drop(self._held)
            self._held, self._before = self._before, None
        answers = await self._roster.ask("publish", {"number": number})
        late = [member for member, answer in answers if isinstance(answer, WorkerError)]
        await asyncio.gather(*map(self._catch_up, late))

    async def _catch_up(self, member: Member) -> None:
        """It came after the others had prepared."""
        try:
            await self.bring_up_to_date(member)
        except WorkerError:
            member.kill()

    async def bring_up_to_date(self, member: Member) -> None:
        """Until what it has is what is current: that may change meanwhile. Raises WorkerError."""
        held = None
        while held is not self._held:
            held = self._held
            if held is not None:
                await _hand_over(member, held)
                await member.ask("publish", {"number": held.number}, within=PATIENCE)

    def close(self) -> None:
        """Let go of what is held. Nobody is left to whom it could be handed."""
        for held in (self._held, self._before, self._next):
            _drop(held)
        self._held = self._before = self._next = None

    def _drop_next(self) -> None:
        _drop(self._next)
        self._next = None


async def _hand_over(member: Member, held: _Held) -> None:
    await member.ask("prepare", {"number": held.number}, within=BUILD, descriptor=held.descriptor)


def _drop(held: _Held | None) -> None:
    if held is not None:
        os.close(held.descriptor)
