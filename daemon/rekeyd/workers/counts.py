"""What workers have counted, as one sum: metrics, and evidence of use.

The rules: it is asked for at every pulse and by whoever wants to know, and outlives the worker that counted
it, but for what one that crashed had counted since it was asked last. Metrics are told as they are by then,
and told anew each time; of evidence only what is new is told, once. A worker that tells nonsense is killed.

Must not know: what the numbers mean.
"""

import asyncio
from typing import Any

from rekeyd.telemetry.evidence import Evidence, NewerUsageError, NotUsageError, usage_in
from rekeyd.telemetry.metrics import Metrics
from rekeyd.telemetry.totals import Totals
from rekeyd.workers.member import Member, WorkerError
from rekeyd.workers.roster import PATIENCE, Roster

PULSE = 5.0
"""Seconds between two looks at what workers have counted, and at whether they live."""
PROMPT = 2.0
"""Seconds for counts that somebody waits for: Prometheus gives up after 10, and very many keys take one."""
_NONSENSE = (AttributeError, KeyError, TypeError, ValueError)


class Counts:
    """The sum. It adds to `evidence`, and to the supervisor's own `metrics` where they are told."""

    def __init__(self, roster: Roster, evidence: Evidence, metrics: Metrics) -> None:
        self._roster = roster
        self._evidence = evidence
        self._metrics = metrics
        self._totals = Totals()

    async def run(self) -> None:
        """Count now and then. Who doesn't answer is killed, so that this finds a worker that is frozen."""
        while True:
            await asyncio.sleep(PULSE)
            await self.count()

    async def count(self, *, heed: float | None = None) -> None:
        """Have what workers have counted until now; of who takes longer than `heed`, what it told last."""
        await self._roster.each(self._count, heed=heed)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Metrics of all together. One that is frozen costs no scrape."""
        await self.count(heed=PROMPT)
        return self._metrics.exposition(accept, self._totals)

    async def _count(self, member: Member) -> None:
        self.add(member, await member.ask("counts", within=PATIENCE))

    def add(self, member: Member, counts: dict[str, Any]) -> None:
        """What a worker has told.

        Raises:
            WorkerError: it is nonsense.
        """
        try:
            usage = usage_in(counts["usage"].encode())
            self._totals.tell(member.pid, counts["metrics"])
            member.connections = int(counts["connections"])
        except (*_NONSENSE, NotUsageError, NewerUsageError) as error:
            member.kill()
            raise WorkerError(f"worker {member.number} tells nonsense") from error
        self._evidence.add(usage)

    def depart(self, member: Member) -> None:
        """It is gone: what it counted stays, and what it had is had no more."""
        self._totals.depart(member.pid)
