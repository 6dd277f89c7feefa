"""The workers as one: what a `Front` is for a process that serves alone.

The rules: listening sockets are the supervisor's, and workers accept from the same ones. So a worker that
dies takes its own connections along and nobody else's, and what is queued is taken by another. What is asked
of the crew is asked of all workers (`roster.py`), and told as one answer.

How workers come and go is for `staff.py`, how they get a generation for `handover.py`, what they count for
`counts.py`. Must not know: files, what asks for reloads, or how a worker serves.
"""

import contextlib
import os
import socket
import time
from dataclasses import replace
from functools import partial

from rekeyd import __version__
from rekeyd.calls import grpc_upstream_of
from rekeyd.front import Place, places_in
from rekeyd.proof import Pulse, Way, reason_against_any
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import Settings
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.evidence import Evidence
from rekeyd.telemetry.hub import Heard
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.metrics import Metrics
from rekeyd.telemetry.report import Listener, Report, total
from rekeyd.trust.generation import Generation
from rekeyd.workers.background import Background
from rekeyd.workers.channel import Message
from rekeyd.workers.counts import Counts
from rekeyd.workers.guests import CrewWay, Guests
from rekeyd.workers.handover import Handover, Seal
from rekeyd.workers.member import Member, WorkerError
from rekeyd.workers.roster import Roster
from rekeyd.workers.staff import LAST_WORDS, Origin, Staff

PROMPT = 0.5
"""Seconds for what workers say of visits of our own: who takes longer won't be the one that lets us in."""


class Crew:
    """`settings.service.workers` processes, from `open` to `end`."""

    def __init__(
        self,
        settings: Settings,
        *,
        current: Current,
        logs: Logs,
        sockets: Sockets,
        origin: Origin,
        seal: Seal,
    ) -> None:
        self._settings = settings
        self._current = current
        self._logs = logs
        self._sockets = sockets
        self.evidence = Evidence(lambda: current.generation, now=time.time)
        self.metrics = Metrics(
            version=__version__,
            generation=lambda: current.generation,
            connections=dict,
            last_used=self.evidence.last_used,
            lost_lines=logs.lost,
        )
        self._roster = Roster()
        self._handover = Handover(self._roster, seal)
        self._counts = Counts(self._roster, self.evidence, self.metrics)
        self._staff = Staff(
            origin,
            roster=self._roster,
            handover=self._handover,
            counts=self._counts,
            drain_timeout=settings.service.drain_timeout,
            joined=self._joined,
            heard=self._heard,
        )
        self._counting = Background()
        self._proof = Pulse()
        self._guests = Guests(partial(self._roster.ask, heed=PROMPT))
        self._places: list[Place] = []
        self._listening: dict[str, socket.socket] = {}

    # Start.

    async def open(self) -> None:
        """Start all workers, and have them take connections.

        Raises:
            OSError, RekeydError: a listener can't be had, or a worker can't begin; then none is left.
        """
        with contextlib.ExitStack() as undo:
            undo.callback(self._close_sockets)
            self._places = places_in(self._settings)
            for place in self._places:
                self._listening[place.name] = self._sockets.listen(place.name, place.host, place.port)
            size = self._settings.service.workers or len(os.sched_getaffinity(0))
            await self._staff.open(size, self._listening)
            undo.pop_all()
        self._counting.begin(self._counts.run())
        self._logs.hub.on_wanted = self._listen

    @property
    def listeners(self) -> list[Listener]:
        """Where is listened, in the order in which it is told."""
        return [Listener(place.name, *self._address_of(place), tls=place.tls) for place in self._places]

    @property
    def connections(self) -> int:
        """How many were open when that was last counted."""
        return sum(member.connections for member in self._roster)

    @property
    def grpc_upstream(self) -> str | None:
        """Where calls go; None where gRPC is not served."""
        return grpc_upstream_of(self._settings)

    def _address_of(self, place: Place) -> tuple[str, int]:
        host, port, *_ = self._listening[place.name].getsockname()
        return host, port

    # Generations.

    async def prepare(self, serving: Serving) -> str | None:
        """Have every worker build it; why one can't, or None."""
        return await self._handover.prepare(serving.generation)

    async def spread(self, serving: Serving) -> None:
        """From now on all workers serve it: what was prepared, or what was served before that."""
        await self._handover.spread(serving.generation.number)

    def follow(self, generation: Generation, *, changed: bool) -> None:
        """Workers have it from `spread`."""
        if changed:
            self._logs.level = generation.settings.logging.level

    @property
    def sealed(self) -> int | None:
        """A descriptor of the sealed snapshot of what is served."""
        return self._handover.sealed

    async def verify(self, serving: Serving) -> str | None:
        """Does a client that comes in, to whichever worker, see what is served now? None where it does."""
        return await reason_against_any(serving, self._ways)

    async def reason_for_doubt(self, within: float) -> str | None:
        """Does each listener still let somebody in, within so many seconds? None where it does."""
        serving = self._current.serving
        return None if serving is None else await self._proof.reason_for_doubt(serving, self._ways, within)

    @property
    def _ways(self) -> list[Way]:
        return [
            CrewWay(place, self._address_of(place), self._guests)
            for place in self._places
            if not place.outward
        ]

    # What workers tell.

    async def report(self) -> Report:
        """How it is at this moment."""
        answers = await self._roster.ask("report")
        await self._counts.count()
        told = [
            (member, Report.from_json(answer))
            for member, answer in answers
            if not isinstance(answer, WorkerError)
        ]
        workers = [
            {"worker": member.number, "pid": member.pid, "connections": sum(report.connections.values())}
            for member, report in told
        ]
        return replace(total([report for _, report in told]), workers=workers)

    async def exposition(self, accept: str) -> tuple[bytes, str]:
        """Metrics of all together, and their content type."""
        return await self._counts.exposition(accept)

    def _heard(self, message: Message) -> None:
        if message.kind == "heard":
            name, line = message.body
            self._logs.hub.relay(Heard(str(name), str(line).encode()))
        elif message.kind == "let_in":
            host, port = message.body
            self._guests.let_in(str(host), int(port))

    def _joined(self, member: Member) -> None:
        if self._logs.hub.wanted:
            member.tell("hear", True)

    def _listen(self, wanted: bool) -> None:
        for member in self._roster:
            member.tell("hear", wanted)

    # How they end.

    def renew(self) -> None:
        """Replace all workers, one after the other. Connections end as in a drain."""
        self._staff.renew()

    def close(self) -> None:
        """Take no more connections. Those that are there go on."""
        self._staff.close()
        self._close_sockets()
        for member in self._roster:
            member.tell("close")

    def _close_sockets(self) -> None:
        for listening in self._listening.values():
            listening.close()

    async def drain(self, within: float) -> int:
        """Finish what runs, for `within` seconds; how many connections were cut then."""
        answers = await self._roster.each(
            lambda member: member.ask("drain", within, within=within + LAST_WORDS)
        )
        return sum(answer for _, answer in answers if isinstance(answer, int))

    async def cut(self) -> int:
        """End everything now; how many connections that were."""
        return sum(answer for _, answer in await self._roster.ask("cut") if isinstance(answer, int))

    async def end(self) -> None:
        """Have the last of what workers counted, and wait until they are gone."""
        self._counting.call_off()
        await self._counting.over()
        await self._staff.dismiss()
        self._handover.close()
