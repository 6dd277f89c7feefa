"""The workers that serve, and what is asked of all of them at once.

The rules: who serves is asked, and so is who is leaving: what a generation forbids is forbidden there, too.
Each gives an answer or a `WorkerError`, and what one does is nothing to the answers of the others. One that
doesn't answer for `PATIENCE` is killed (`member.py`); who can't wait for that goes on without it (`heed`).

Must not know: what is asked, or how a worker comes and goes.
"""

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from rekeyd.workers.background import Background
from rekeyd.workers.member import Member, WorkerError

PATIENCE = 10.0
"""Seconds for an answer that takes no work."""

Answers = list[tuple[Member, Any]]
"""Every worker and its answer, which is a `WorkerError` where there is none."""


class Roster:
    """Those that serve."""

    def __init__(self) -> None:
        self._members: set[Member] = set()
        self._asking = Background()

    def __contains__(self, member: Member) -> bool:
        return member in self._members

    def __len__(self) -> int:
        return len(self._members)

    def __iter__(self) -> Iterator[Member]:
        """By their places; in one place the older of two comes first."""
        return iter(sorted(self._members, key=lambda member: (member.number, member.since)))

    def add(self, member: Member) -> None:
        self._members.add(member)

    def discard(self, member: Member) -> None:
        self._members.discard(member)

    async def ask(self, kind: str, body: Any = None, *, heed: float | None = None) -> Answers:
        """Ask all the same. See `each`."""
        return await self.each(lambda member: member.ask(kind, body, within=PATIENCE), heed=heed)

    async def each(
        self, ask: Callable[[Member], Coroutine[Any, Any, Any]], *, heed: float | None = None
    ) -> Answers:
        """Do this with all at once, and have what has come of it after `heed` seconds (None: in the end).

        Where nobody waits any more it goes on all the same: what a worker has told it doesn't tell again, and
        one that is silent is to be found out.
        """
        asked = [(member, self._asking.begin(ask(member))) for member in self]
        if asked:
            await asyncio.wait([task for _, task in asked], timeout=heed)
        return [(member, _answer_of(member, task)) for member, task in asked]


def _answer_of(member: Member, task: asyncio.Task[Any]) -> Any:
    if not task.done():
        return WorkerError(f"worker {member.number} has not answered yet")
    try:
        return task.result()
    except WorkerError as error:
        return error
