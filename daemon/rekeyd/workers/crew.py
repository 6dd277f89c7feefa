"""The workers as one: what a `Front` is for a process that serves alone.

The rules:

1. Listening sockets are the supervisor's; workers accept from the same ones. So a worker that dies takes its
   own connections along and nobody else's, and what is queued is taken by another.
2. A generation is prepared by all workers or published by none; it is announced when all have it. Who comes
   later (the place of one that died) begins with the one that is current.
3. A worker that dies is replaced (`pauses.py`). One that doesn't answer for `PATIENCE` is killed. Where one
   can't even begin when the daemon starts, the daemon doesn't.
4. What workers count is added up here, and outlives them but for the last `PULSE` of one that crashed.

Must not know: files, what asks for reloads, or how a worker serves.
"""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any

import structlog

from rekeyd import __version__
from rekeyd.calls import grpc_upstream_of
from rekeyd.front import Place, places_in
from rekeyd.proof import Pulse, Way, reason_against_any
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import Settings
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.evidence import Evidence, NotUsageError, usage_in
from rekeyd.telemetry.hub import Heard
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.metrics import Metrics
from rekeyd.telemetry.report import Listener, Report, total
from rekeyd.telemetry.totals import Totals
from rekeyd.trust.generation import Generation
from rekeyd.workers.channel import Message
from rekeyd.workers.guests import CrewWay, Guests
from rekeyd.workers.member import Member, WorkerError
from rekeyd.workers.pauses import Pauses

log = structlog.get_logger()

PULSE = 5.0
"""Seconds between two looks at what workers have counted, and at whether they live."""
PATIENCE = 10.0
BUILD = 60.0
"""Seconds for a worker to build a generation: a hundred thousand keys and a thousand pairs take ten."""
_LAST_WORDS = 10.0


@dataclass(frozen=True, slots=True)
class Origin:
    """What workers are started with: the settings that a reload can't change, as bytes."""

    file: str
    source: str


@dataclass(frozen=True, slots=True)
class _Held:
    """A generation as it is handed over: `descriptor` is a sealed snapshot."""

    number: int
    descriptor: int


Seal = Callable[[Generation], int]
"""A descriptor of the sealed snapshot that this generation was made of."""


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
        self._origin = origin
        self._seal = seal
        self.evidence = Evidence(lambda: current.generation, now=time.time)
        self.metrics = Metrics(
            version=__version__,
            generation=lambda: current.generation,
            connections=dict,
            last_used=self.evidence.last_used,
            lost_lines=logs.lost,
        )
        self._totals = Totals()
        self._proof = Pulse()
        self._guests = Guests(self._all)
        self._places: list[Place] = []
        self._listening: dict[str, socket.socket] = {}
        self._members: set[Member] = set()
        """All that serve. Also those that are leaving: what a generation forbids is forbidden there, too."""
        self._hired: set[Member] = set()
        """Those besides that have only begun: every process there is."""
        self._held: _Held | None = None
        self._next: _Held | None = None
        self._before: _Held | None = None
        self._pauses = Pauses()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._burials: set[asyncio.Task[Any]] = set()
        self._stopping = False

    # Start.

    async def open(self) -> None:
        """Start all workers, and have them take connections.

        Raises:
            OSError, RekeydError: a listener can't be had, or a worker can't begin; then none is left.
        """
        self._places = places_in(self._settings)
        for place in self._places:
            self._listening[place.name] = self._sockets.listen(place.name, place.host, place.port)
        try:
            await asyncio.gather(*(self._hire(number) for number in range(1, self._size + 1)))
        except BaseException:
            await self._dismiss_all()
            raise
        self._begin(self._pulse())
        self._logs.hub.on_wanted = self._listen

    @property
    def _size(self) -> int:
        return self._settings.service.workers or len(os.sched_getaffinity(0))

    async def _hire(self, number: int) -> None:
        """A worker in this place, that serves what is current when it is done."""
        member = Member(number, heard=self._heard, ended=self._ended)
        self._hired.add(member)
        try:
            member.start(self._listening)
            sockets = {name: each.fileno() for name, each in self._listening.items()}
            begin = {"file": self._origin.file, "source": self._origin.source, "sockets": sockets}
            await member.ask("begin", begin, within=BUILD)
            await self._bring_up_to_date(member)
            await self._join(member)
        except BaseException:
            member.leaving = True
            member.kill()
            raise
        if self._logs.hub.wanted:
            member.tell("hear", True)
        log.info("worker.started", worker=number, worker_pid=member.pid)

    async def _join(self, member: Member) -> None:
        if self._stopping:
            raise WorkerError("no connections are taken any more")
        self._members.add(member)
        await member.ask("open", within=BUILD)

    async def _bring_up_to_date(self, member: Member) -> None:
        """Until what it has is what is current: that may change meanwhile."""
        held = None
        while held is not self._held:
            held = self._held
            if held is not None:
                await self._hand_over(member, held)
                await member.ask("publish", {"number": held.number}, within=PATIENCE)

    async def _hand_over(self, member: Member, held: _Held) -> None:
        await member.ask("prepare", {"number": held.number}, within=BUILD, descriptor=held.descriptor)

    @property
    def listeners(self) -> list[Listener]:
        """Where is listened, in the order in which it is told."""
        return [Listener(place.name, *self._address_of(place), tls=place.tls) for place in self._places]

    @property
    def connections(self) -> int:
        """How many were open when that was last counted."""
        return sum(member.connections for member in self._members)

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
        self._drop_next()
        self._next = held = _Held(
            serving.generation.number, await asyncio.to_thread(self._seal, serving.generation)
        )
        found = await self._each(lambda member: self._hand_over(member, held))
        # One that is leaving may be gone by now. If it isn't, it ends when it can't follow (`spread`).
        answers = [answer for member, answer in found if not member.leaving]
        problem = next((str(answer) for answer in answers if isinstance(answer, WorkerError)), None)
        if problem is not None:
            self._drop_next()
        return problem

    async def spread(self, serving: Serving) -> None:
        """From now on all workers serve it: what was prepared, or what was served before that."""
        number = serving.generation.number
        if self._next is not None and self._next.number == number:
            self._drop(self._before)
            self._before, self._held, self._next = self._held, self._next, None
        elif self._before is not None and self._before.number == number:
            self._drop(self._held)
            self._held, self._before = self._before, None
        answers = await self._all("publish", {"number": number})
        late = [member for member, answer in answers if isinstance(answer, WorkerError)]
        await asyncio.gather(*map(self._catch_up, late))

    async def _catch_up(self, member: Member) -> None:
        """It came after the others had prepared. Else it is killed: it would serve what isn't current."""
        try:
            await self._bring_up_to_date(member)
        except (OSError, WorkerError):
            member.kill()

    def follow(self, generation: Generation, *, changed: bool) -> None:
        """Workers have it from `spread`."""
        if changed:
            self._logs.level = generation.settings.logging.level

    @property
    def sealed(self) -> int | None:
        """A descriptor of the sealed snapshot of what is served."""
        return None if self._held is None else self._held.descriptor

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

    def _drop_next(self) -> None:
        self._drop(self._next)
        self._next = None

    def _drop(self, held: _Held | None) -> None:
        if held is not None:
            os.close(held.descriptor)

    # What is asked of all.

    async def _all(self, kind: str, body: Any = None) -> list[tuple[Member, Any]]:
        """Every worker and its answer, which is a `WorkerError` where it can't."""
        return await self._each(lambda member: member.ask(kind, body, within=PATIENCE))

    async def _each(self, ask: Callable[[Member], Awaitable[Any]]) -> list[tuple[Member, Any]]:
        members = sorted(self._members, key=lambda member: (member.number, member.pid))
        answers = await asyncio.gather(*map(ask, members), return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException) and not isinstance(answer, WorkerError):
                raise answer
        return list(zip(members, answers, strict=True))

    async def report(self) -> Report:
        """How it is at this moment."""
        answers = await self._all("report")
        await self.count()
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
        """Metrics of all together."""
        await self.count()
        return self.metrics.exposition(accept, self._totals)

    async def count(self) -> None:
        """Have what workers have counted until now."""
        await self._each(self._count)

    async def _count(self, member: Member) -> None:
        self._add(member, await member.ask("counts", within=PATIENCE))

    def _add(self, member: Member, counts: dict[str, Any]) -> None:
        try:
            usage = usage_in(counts["usage"].encode())
            self._totals.tell(member.pid, counts["metrics"])
            member.connections = int(counts["connections"])
        except (KeyError, TypeError, ValueError, AttributeError, NotUsageError) as error:
            member.kill()
            raise WorkerError(f"worker {member.number} tells nonsense") from error
        self.evidence.add(usage)

    async def _pulse(self) -> None:
        while True:
            await asyncio.sleep(PULSE)
            await self.count()

    # What a worker says, and how it ends.

    def _heard(self, member: Member, message: Message) -> None:
        if message.kind == "heard":
            name, line = message.body
            self._logs.hub.relay(Heard(str(name), str(line).encode()))
        elif message.kind == "let_in":
            host, port = message.body
            self._guests.let_in(str(host), int(port))
        elif message.kind == "leaving" and not member.leaving:
            self._begin(self._renew(member))

    def _listen(self, wanted: bool) -> None:
        for member in self._members:
            member.tell("hear", wanted)

    def _ended(self, member: Member) -> None:
        self._begin(self._bury(member), self._burials)

    async def _bury(self, member: Member) -> None:
        if member not in self._hired:
            return
        self._hired.discard(member)
        self._members.discard(member)
        how = await member.gone()
        self._totals.depart(member.pid)
        if member.leaving or self._stopping:
            log.info("worker.left", worker=member.number, worker_pid=member.pid)
            return
        pause = self._pauses.after(member.number, asyncio.get_running_loop().time() - member.since)
        log.error("worker.died", worker=member.number, worker_pid=member.pid, problem=how, retry_in=pause)
        self._begin(self._replace(member.number, pause))

    async def _replace(self, number: int, pause: float = 0.0) -> None:
        await asyncio.sleep(pause)
        while not self._stopping:
            try:
                await self._hire(number)
            except (OSError, WorkerError) as error:
                if self._stopping:
                    return
                pause = self._pauses.after(number, 0)
                problem = str(error)
                log.error("worker.failed", worker=number, problem=problem, retry_in=pause)  # noqa: TRY400
                await asyncio.sleep(pause)
            else:
                return

    def renew(self) -> None:
        """Replace all workers, one after the other. Connections end as in a drain."""
        self._begin(self._renew_all())

    async def _renew_all(self) -> None:
        for member in sorted(self._members, key=lambda member: member.number):
            if not member.leaving:
                await self._renew(member)

    async def _renew(self, member: Member) -> None:
        member.leaving = True
        await self._replace(member.number)
        with contextlib.suppress(WorkerError):
            await self._let_go(member, self._settings.service.drain_timeout)

    async def _let_go(self, member: Member, within: float) -> int:
        cut = await member.ask("drain", within, within=within + _LAST_WORDS)
        self._add(member, await member.ask("end", within=_LAST_WORDS))
        return int(cut)

    # Stop.

    def close(self) -> None:
        """Take no more connections. Those that are there go on."""
        self._stopping = True
        for listening in self._listening.values():
            listening.close()
        for member in self._members:
            member.tell("close")

    async def drain(self, within: float) -> int:
        """Finish what runs, for `within` seconds; how many connections were cut then."""
        answers = await self._each(lambda member: member.ask("drain", within, within=within + _LAST_WORDS))
        return sum(answer for _, answer in answers if isinstance(answer, int))

    async def cut(self) -> int:
        """End everything now; how many connections that were."""
        return sum(answer for _, answer in await self._all("cut") if isinstance(answer, int))

    async def end(self) -> None:
        """Have the last of what workers counted, and wait until they are gone."""
        self._stopping = True
        for member in self._members:
            member.leaving = True
        await self._each(self._end)
        await self._dismiss_all()

    async def _end(self, member: Member) -> None:
        self._add(member, await member.ask("end", within=_LAST_WORDS))

    async def _dismiss_all(self) -> None:
        """Nobody is left: those that have ended by themselves, and those that are yet to be told."""
        self._stopping = True
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*map(self._bury, tuple(self._hired)), *self._burials)
        for held in (self._held, self._before, self._next):
            self._drop(held)
        self._held = self._before = self._next = None

    def _begin(self, work: Coroutine[Any, Any, Any], among: set[asyncio.Task[Any]] | None = None) -> None:
        """Do it beside all else, and tell if it breaks."""
        tasks = self._tasks if among is None else among
        task = asyncio.get_running_loop().create_task(work)
        tasks.add(task)
        task.add_done_callback(tasks.discard)
        task.add_done_callback(_tell_if_it_broke)


def _tell_if_it_broke(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("worker.failed", problem=f"an unexpected {type(error).__name__}", exc_info=error)
