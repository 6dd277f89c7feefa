"""The processes of the workers: begun, replaced, and seen off.

The rules:

1. There is one worker in each place, and at most one on its way there. One that dies is replaced, ever later
   where none lives long (`pauses.py`); so is one that asks for it, and all in turn when we are asked to
   (`renew`).
2. A worker serves from the moment at which it has what is current, and none begins to once we stop.
3. One that is replaced while it lives is like any other until the next one serves; then it is leaving, and
   ends when its connections have.
4. Every process is waited for, and what it counted is kept. Where one can't even begin at the start, none is
   left.

Must not know: how a generation is handed over, what is counted, or what is asked of workers while they serve.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from rekeyd.workers.background import Background
from rekeyd.workers.channel import Message
from rekeyd.workers.counts import Counts
from rekeyd.workers.handover import BUILD, Handover
from rekeyd.workers.member import Member, WorkerError
from rekeyd.workers.pauses import Pauses
from rekeyd.workers.roster import Roster

log = structlog.get_logger()

LAST_WORDS = 10.0
"""Seconds for an answer that a worker gives at its end, beyond what it was given to finish in."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What workers are started with: the settings that a reload can't change, as text."""

    file: str
    source: str


class Staff:
    """The processes, from `open` to `dismiss`.

    `joined` is called with each that serves from now on, `heard` with what one says unasked and what is not
    for us. `drain_timeout`, in seconds, is what the connections of one that is replaced are given.
    """

    def __init__(
        self,
        origin: Origin,
        *,
        roster: Roster,
        handover: Handover,
        counts: Counts,
        drain_timeout: float,
        joined: Callable[[Member], None],
        heard: Callable[[Message], None],
    ) -> None:
        self._origin = origin
        self._roster = roster
        self._handover = handover
        self._counts = counts
        self._drain_timeout = drain_timeout
        self._joined = joined
        self._heard = heard
        self._listening: Mapping[str, socket.socket] = {}
        self._hired: set[Member] = set()
        """Every process there is: those that serve, and those that have only begun."""
        self._awaited: set[int] = set()
        """The places to which one is on its way."""
        self._pauses = Pauses()
        self._replacing = Background()
        self._burials = Background()
        self._stopping = False

    # How one begins.

    async def open(self, size: int, listening: Mapping[str, socket.socket]) -> None:
        """Start so many workers, that take connections from these sockets.

        Raises:
            OSError, RekeydError: one can't begin; then none is left.
        """
        self._listening = listening
        try:
            await asyncio.gather(*(self._hire(number) for number in range(1, size + 1)))
        except BaseException:
            await self._bury_all()
            raise

    async def _hire(self, number: int) -> None:
        """A worker in this place, that serves what is current when it is done."""
        member = Member(number, heard=self._hear, ended=self._ended)
        self._hired.add(member)
        try:
            member.start(self._listening)
            sockets = {name: each.fileno() for name, each in self._listening.items()}
            begin = {"file": self._origin.file, "source": self._origin.source, "sockets": sockets}
            await member.ask("begin", begin, within=BUILD)
            await self._handover.bring_up_to_date(member)
            await self._join(member)
        except BaseException:
            member.leaving = True
            member.kill()
            raise
        self._joined(member)
        log.info("worker.started", worker=number, worker_pid=member.pid)

    async def _join(self, member: Member) -> None:
        """No waiting before it is on the roster: what is current could change unnoticed."""
        if self._stopping:
            raise WorkerError("no connections are taken any more")
        self._roster.add(member)
        await member.ask("open", within=BUILD)

    # How one is replaced.

    def _hear(self, member: Member, message: Message) -> None:
        if message.kind != "leaving":
            self._heard(message)
        else:
            self._replacing.begin(self._renew(member))

    def renew(self) -> None:
        """Replace all workers, one after the other. Connections end as in a drain."""
        self._replacing.begin(self._renew_all())

    async def _renew_all(self) -> None:
        for member in self._roster:
            await self._renew(member)

    async def _renew(self, member: Member) -> None:
        """Unless its place is another's by now, or about to be."""
        if member.leaving or member not in self._roster or member.number in self._awaited:
            return
        await self._replace(member.number)
        if self._stopping:
            return
        member.leaving = True
        with contextlib.suppress(WorkerError):
            await member.ask("drain", self._drain_timeout, within=self._drain_timeout + LAST_WORDS)
            await self._end(member)

    async def _replace(self, number: int, pause: float = 0.0) -> None:
        """Another one in this place after `pause` seconds, unless one is on its way."""
        if number not in self._awaited:
            self._awaited.add(number)
            try:
                await self._fill(number, pause)
            finally:
                self._awaited.discard(number)

    async def _fill(self, number: int, pause: float) -> None:
        """However often that has to be tried."""
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

    # How one ends.

    async def _end(self, member: Member) -> None:
        self._counts.add(member, await member.ask("end", within=LAST_WORDS))

    def _ended(self, member: Member) -> None:
        self._burials.begin(self._bury(member))

    async def _bury(self, member: Member) -> None:
        if member not in self._hired:
            return
        self._hired.discard(member)
        self._roster.discard(member)
        how = await member.gone()
        self._counts.depart(member)
        if member.leaving or self._stopping:
            log.info("worker.left", worker=member.number, worker_pid=member.pid)
            return
        pause = self._pauses.after(member.number, asyncio.get_running_loop().time() - member.since)
        log.error("worker.died", worker=member.number, worker_pid=member.pid, problem=how, retry_in=pause)
        self._replacing.begin(self._replace(member.number, pause))

    def close(self) -> None:
        """From now on nobody begins to serve."""
        self._stopping = True

    async def dismiss(self) -> None:
        """Have the last of what each has counted, and wait until they are gone."""
        self._stopping = True
        for member in self._roster:
            member.leaving = True
        await self._roster.each(self._end)
        await self._bury_all()

    async def _bury_all(self) -> None:
        """Nobody is left: those that have ended by themselves, and those that are yet to be told."""
        self._stopping = True
        self._replacing.call_off()
        await self._replacing.over()
        await asyncio.gather(*map(self._bury, tuple(self._hired)))
        await self._burials.over()
