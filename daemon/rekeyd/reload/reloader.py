"""The reloader: reads, judges, builds, publishes and proves; one run at a time, and always with an outcome.

The rules: a request that comes while a run is going on is answered by the *next* run, never by the one that
may have read the disk before the request was made; requests that wait for the same run share it. An attempt
is made in a thread, publishing happens on the event loop. What was published must prove itself at once,
else what was served before comes back. Where there is no generation yet and none to be had from the disk, one
may come back from before this process (`restore`). Nothing that goes wrong in a run ends the daemon: the
generation that is served goes on, and the outcome says why. What `patience.py` says is borne is `settling`;
it is looked at again until it is good or refused. All `reload.*` log lines are written here, and
`generation.restored`.

Must not know: what asks for reloads (`triggers.py`), or what is on the disk (`disk.py`).
"""

import asyncio
import datetime as dt
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

import structlog

from rekeyd.reload import patience
from rekeyd.reload.attempt import (
    PROBE_LISTENER,
    Attempt,
    Failed,
    Means,
    attempt,
    failed_probe,
    unprepared,
    where,
)
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.outcome import Outcome, Result
from rekeyd.reload.patience import Advice, Sight, Terms, Trouble
from rekeyd.reload.vault import Restored
from rekeyd.trust.generation import Candidate, Finding, Generation, Severity

WATCH, TTL, NOT_BEFORE, RETRY, START = "watch", "ttl", "not_before", "retry", "start"

_BY_ITSELF = frozenset({WATCH, TTL, NOT_BEFORE, RETRY})
_LONGEST_WAIT = 3600.0  # seconds; the clock on the wall may be set meanwhile
_SHORTEST_WAIT = 0.05


class Servers(Protocol):
    """What serves a generation, in this process or in others."""

    async def prepare(self, serving: Serving) -> str | None:
        """Have everything that it takes; why it can't be served, or None."""

    async def spread(self, serving: Serving) -> None:
        """It is published: return when it is served everywhere."""

    async def verify(self, serving: Serving) -> str | None:
        """Why what is served is not this, or None."""


log = structlog.get_logger()


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Reloader:
    """Keeps `current` in step with what `load` finds.

    `load` and `build` are called in a thread, never two at once (see `Means`). `servers` are asked before a
    generation is published, told after it, and have to prove each but the first. Each of `on_outcome` is
    called on the event loop with every outcome, those that are settling included, after the generation is
    published. `start_wait` is how long what settles is borne before there is any generation, in seconds;
    after that `tls.settle` is. `restore` is called in a thread, once, where the first look at the disk gave
    nothing to serve.
    """

    def __init__(  # noqa: PLR0913 - each is named at the call
        self,
        current: Current,
        load: Callable[[], Candidate],
        build: Callable[[Generation], Serving],
        *,
        now: Callable[[], dt.datetime] = _utc_now,
        servers: Servers | None = None,
        on_outcome: Sequence[Callable[[Outcome], None]] = (),
        start_wait: float = 0,
        restore: Callable[[], Restored | None] = lambda: None,
    ) -> None:
        self._current = current
        self._means = Means(load, build, now)
        self._servers = servers
        self._on_outcome = list(on_outcome)
        self._start_wait = start_wait
        self._restore: Callable[[], Restored | None] | None = restore
        self._one_at_a_time = asyncio.Lock()
        self._waiting: tuple[list[str], asyncio.Task[Outcome]] | None = None
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._last_waiting: tuple[str, ...] = ()
        self._trouble: Trouble | None = None
        self._trouble_came = 0.0
        self._failed: Failed | None = None
        self.last: Outcome | None = None
        """The most recent outcome."""

    @property
    def refused_since(self) -> float | None:
        """Since when the files are refused (seconds of the epoch); None where they aren't, or settle yet."""
        return self._trouble_came if self._trouble is not None and self._trouble.loud else None

    async def reload(self, trigger: str) -> Outcome:
        """Ask for a reload; the outcome of a run that began after the request. Raises nothing of its own."""
        return await asyncio.shield(self._request(trigger))

    async def settled(self) -> Outcome:
        """The next outcome that is not settling. What settles is looked at again until there is one."""
        settled: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()

        def hear(outcome: Outcome) -> None:
            if not (outcome.settling or settled.done()):
                settled.set_result(outcome)

        self._on_outcome.append(hear)
        try:
            return await settled
        finally:
            self._on_outcome.remove(hear)

    async def close(self) -> None:
        """Wait for the run that is going on, and schedule no other."""
        self._disarm()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._disarm()

    def _request(self, trigger: str) -> asyncio.Task[Outcome]:
        """The run that has not read anything yet; a new one if there is none."""
        if self._waiting is None:
            triggers: list[str] = []
            task = asyncio.create_task(self._take_turn(triggers), name="reload")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            self._waiting = triggers, task
        self._waiting[0].append(trigger)
        return self._waiting[1]

    async def _take_turn(self, triggers: list[str]) -> Outcome:
        async with self._one_at_a_time:
            self._waiting = None
            return await self._reload(_spokesman(triggers))

    async def _reload(self, trigger: str) -> Outcome:
        started = time.monotonic()
        failed = self._failed if trigger in _BY_ITSELF else None
        current = self._current
        made = await asyncio.to_thread(attempt, self._means, current.generation, current.next_number, failed)
        if made.serving is not None:
            made = await self._publish(made, made.serving)
        elif current.generation is None and self._restore is not None:
            await self._fall_back(self._restore)
        outcome = self._outcome(trigger, made, time.monotonic() - started)
        return self._follow(outcome, made)

    async def _publish(self, made: Attempt, serving: Serving) -> Attempt:
        """Serve it; and where it does not prove itself, what was served before again."""
        before = self._current.serving
        if (objection := await self._objection_to(serving)) is not None:
            return made.against(objection)
        await self._switch_to(serving, self._current.publish)
        self._failed = None
        reason = None if before is None else await self._reason_against(serving)
        if before is None or reason is None:
            return made
        await self._switch_to(before, self._current.restore)
        self._failed = Failed(made.digest, failed_probe(reason))
        return made.against(self._failed.finding)

    async def _fall_back(self, restore: Callable[[], Restored | None]) -> None:
        """Serve what comes back, if anything does. What is on the disk stays as refused as it is."""
        self._restore = None
        restored = await asyncio.to_thread(restore)
        if restored is None or await self._objection_to(restored.serving) is not None:
            return
        await self._switch_to(restored.serving, self._current.publish)
        log.warning("generation.restored", **restored.fields())

    async def _objection_to(self, serving: Serving) -> Finding | None:
        if self._servers is None:
            return None
        try:
            problem = await self._servers.prepare(serving)
        except Exception as error:  # noqa: BLE001 - whatever went wrong, it can't be served everywhere
            self._log_broken("reload.unprepared", error)
            problem = f"an unexpected {type(error).__name__}"
        return None if problem is None else unprepared(problem)

    async def _switch_to(self, serving: Serving, publish: Callable[[Serving], None]) -> None:
        publish(serving)
        if self._servers is not None:
            await self._servers.spread(serving)

    async def _reason_against(self, serving: Serving) -> str | None:
        if self._servers is None:
            return None
        try:
            return await self._servers.verify(serving)
        except Exception as error:  # noqa: BLE001 - a proof that breaks proves nothing against what it looked at
            self._log_broken("reload.unverified", error)
            return None

    def _outcome(self, trigger: str, made: Attempt, duration: float) -> Outcome:
        return Outcome(
            result=made.result,
            trigger=trigger,
            generation=self._current.number,
            duration=duration,
            changes=made.changes,
            findings=made.verdict.findings,
            problems=made.problems,
            restart_needed=made.restart_needed,
            held_until=made.verdict.held_until if made.result is Result.REFUSED else None,
        )

    # What follows an outcome: patience, the log, the next look, whoever wants to know.

    def _follow(self, outcome: Outcome, made: Attempt) -> Outcome:
        if outcome.refused:
            advice = self._advice(outcome, made)
            if not advice.trouble.loud:
                outcome = replace(outcome, result=Result.SETTLING)
            level = _level_of_refusal(outcome, advice, started=self._current.number is not None)
        else:
            advice, level = None, self._level_of_success(outcome)
        self._trouble = advice.trouble if advice else None
        self._last_waiting, self.last = outcome.restart_needed, outcome
        self._arm(outcome.held_until, advice.look_again if advice else None)
        getattr(log, level)(outcome.event, **outcome.fields())
        self._tell(outcome)
        return outcome

    def _advice(self, outcome: Outcome, made: Attempt) -> Advice:
        if self._trouble is None:
            self._trouble_came = time.time()
        against = tuple(f for f in outcome.findings if f.severity is not Severity.WARN)
        sight = Sight(
            reason=(made.digest, against),
            passing=patience.may_pass(against),
            held=outcome.held_until is not None,
            asked=outcome.trigger not in _BY_ITSELF | {START},
        )
        return patience.refused(self._trouble, sight, self._terms(), time.monotonic())

    def _terms(self) -> Terms:
        generation = self._current.generation
        if generation is None:
            return Terms(self._start_wait)
        tls = generation.settings.tls
        return Terms(tls.settle, min(patience.LONGEST, tls.cert_ttl or patience.LONGEST))

    def _level_of_success(self, outcome: Outcome) -> str:
        """What looks by itself and finds all as it was says so only where something else was said before."""
        news = self._trouble is not None or outcome.restart_needed != self._last_waiting
        quiet = outcome.result is Result.UNCHANGED and outcome.trigger in {WATCH, RETRY} and not news
        return "debug" if quiet else "info"

    def _tell(self, outcome: Outcome) -> None:
        for callback in self._on_outcome:
            try:
                callback(outcome)
            except Exception as error:  # noqa: BLE001 - who is told must not stop the service
                self._log_broken("reload.callback_failed", error)

    def _log_broken(self, event: str, error: Exception) -> None:
        """Not what it says: the words of an unexpected error may hold anything."""
        log.error(event, reason=type(error).__name__, where=where(error))

    def _arm(self, held_until: dt.datetime | None, look_again: float | None) -> None:
        """Look again when a certificate that is held becomes valid, or when patience says so."""
        self._disarm()
        if held_until is not None:
            wait = (held_until - self._means.now()).total_seconds()
            look_again = min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT)
        if look_again is None:
            return
        trigger = RETRY if held_until is None else NOT_BEFORE
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(max(look_again, _SHORTEST_WAIT), self._look_again, trigger)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self, trigger: str) -> None:
        self._timer = None
        self._request(trigger)


def _spokesman(triggers: Sequence[str]) -> str:
    """Who is named in the outcome of a shared run: a person who asked, before what asks by itself."""
    return next((trigger for trigger in triggers if trigger not in _BY_ITSELF), triggers[0])


def _level_of_refusal(outcome: Outcome, advice: Advice, *, started: bool) -> str:
    """What is borne is said once, what was told as often as patience says. A `notBefore` is no error."""
    if outcome.settling:
        return ("info" if started else "warning") if advice.first else "debug"
    if not advice.tell:
        return "debug"
    if any(finding.rule == PROBE_LISTENER for finding in outcome.findings):
        return "critical"
    return "error" if outcome.held_until is None else "warning"
