"""The reloader: reads, judges, builds, probes and publishes; one run at a time, and always with an outcome.

The rules: a request that comes while a run is going on is answered by the *next* run, never by the one that
may have read the disk before the request was made; requests that wait for the same run share it. Reading and
building happen in a thread, publishing on the event loop. Nothing that goes wrong in a run ends the daemon:
the generation that is served goes on, and the outcome says why. All `reload.*` log lines are written here.

Must not know: what asks for reloads (`triggers.py`), or what is on the disk (`disk.py`).
"""

import asyncio
import datetime as dt
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import structlog

from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.contexts import ContextError, ProbeError
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.outcome import Outcome, Result, findings_of
from rekeyd.trust.generation import (
    Candidate,
    Finding,
    Generation,
    Part,
    PartChange,
    Severity,
    Verdict,
    changes,
)
from rekeyd.trust.judge import judge

WATCH, TTL, NOT_BEFORE, START = "watch", "ttl", "not_before", "start"

_BY_ITSELF = frozenset({WATCH, TTL, NOT_BEFORE})
_LONGEST_WAIT = 3600.0  # seconds; the clock on the wall may be set meanwhile
_SHORTEST_WAIT = 0.05

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Attempt:
    """What a run found out, off the event loop.

    `same`: nothing differs from what is served. `serving` is what is to be published, if anything.
    """

    verdict: Verdict
    same: bool = False
    changes: tuple[PartChange, ...] = ()
    restart_needed: tuple[str, ...] = ()
    serving: Serving | None = None
    problems: tuple[Problem, ...] = ()
    digest: str = ""


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class Reloader:
    """Keeps `current` in step with what `load` finds.

    `load` and `build` are called in a thread, never two at once. `load` raises `SettingsError` where there is
    no candidate, `build` raises `ContextError`. Each of `on_outcome` is called on the event loop with every
    outcome, after the generation is published.
    """

    def __init__(
        self,
        current: Current,
        load: Callable[[], Candidate],
        build: Callable[[Generation], Serving],
        *,
        now: Callable[[], dt.datetime] = _utc_now,
        on_outcome: Sequence[Callable[[Outcome], None]] = (),
    ) -> None:
        self._current = current
        self._load = load
        self._build = build
        self._now = now
        self._on_outcome = list(on_outcome)
        self._one_at_a_time = asyncio.Lock()
        self._waiting: tuple[list[str], asyncio.Task[Outcome]] | None = None
        self._tasks: set[asyncio.Task[Outcome]] = set()
        self._timer: asyncio.TimerHandle | None = None
        self._last_waiting: tuple[str, ...] = ()
        self._last_refusal: object = None
        self.last: Outcome | None = None
        """The most recent outcome."""

    async def reload(self, trigger: str) -> Outcome:
        """Ask for a reload; the outcome of a run that began after the request. Raises nothing of its own."""
        return await asyncio.shield(self._request(trigger))

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
        attempt = await self._attempt()
        if attempt.serving is not None:
            self._current.publish(attempt.serving)
        outcome = self._outcome(trigger, attempt, time.monotonic() - started)
        self._arm(outcome.held_until)
        self._tell(outcome, attempt)
        return outcome

    async def _attempt(self) -> _Attempt:
        try:
            return await asyncio.to_thread(self._try, self._current.generation)
        except SettingsError as error:
            return _Attempt(Verdict(findings_of(error.problems)), problems=error.problems)
        except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # noqa: BLE001 - nor may a panic in a library that is written in Rust
            return _Attempt(Verdict((_internal_error(error),)))

    def _try(self, current: Generation | None) -> _Attempt:
        candidate = self._load()
        generation = candidate.generation(current.number + 1 if current else 1)
        attempt = _compared(candidate, judge(candidate, current, self._now()), current, generation)
        if attempt.verdict.refused or attempt.same:
            return attempt
        try:
            return replace(attempt, serving=self._build(generation))
        except ContextError as error:
            return replace(attempt, verdict=Verdict((*attempt.verdict.findings, _unservable(error))))

    def _outcome(self, trigger: str, attempt: _Attempt, duration: float) -> Outcome:
        result = _result_of(attempt)
        return Outcome(
            result=result,
            trigger=trigger,
            generation=self._current.number,
            duration=duration,
            changes=attempt.changes,
            findings=attempt.verdict.findings,
            problems=attempt.problems,
            restart_needed=attempt.restart_needed,
            held_until=attempt.verdict.held_until if result is Result.REFUSED else None,
        )

    def _tell(self, outcome: Outcome, attempt: _Attempt) -> None:
        refusal = (attempt.digest, outcome.findings) if outcome.refused else None
        repeated = refusal is not None and refusal == self._last_refusal
        mended = refusal is None and self._last_refusal is not None
        news = mended or outcome.restart_needed != self._last_waiting
        self._last_refusal, self._last_waiting = refusal, outcome.restart_needed
        self.last = outcome
        _write(outcome, repeated=repeated, news=news)
        for callback in self._on_outcome:
            try:
                callback(outcome)
            except Exception as error:  # noqa: BLE001 - who is told must not stop the service
                reason, where = type(error).__name__, _where(error)
                log.error("reload.callback_failed", reason=reason, where=where)  # noqa: TRY400 - see _internal_error

    def _arm(self, held_until: dt.datetime | None) -> None:
        """A certificate that is held goes live by itself: look again at that moment."""
        self._disarm()
        if held_until is None:
            return
        wait = (held_until - self._now()).total_seconds()
        wait = min(max(wait, _SHORTEST_WAIT), _LONGEST_WAIT)
        self._timer = asyncio.get_running_loop().call_later(wait, self._look_again)

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look_again(self) -> None:
        self._timer = None
        self._request(NOT_BEFORE)


def _spokesman(triggers: Sequence[str]) -> str:
    """Who is named in the outcome of a shared run: a person who asked, before what asks by itself."""
    return next((trigger for trigger in triggers if trigger not in _BY_ITSELF), triggers[0])


def _compared(
    candidate: Candidate, verdict: Verdict, current: Generation | None, generation: Generation
) -> _Attempt:
    """A part that could not be read has not changed into nothing; it is left out of the changes."""
    broken = {fault.part for fault in candidate.faults if fault.severity is Severity.REFUSE}
    different = tuple(change for change in changes(current, generation) if change.part not in broken)
    same = current is not None and not broken and not different
    return _Attempt(verdict, same, different, candidate.restart_needed, digest=candidate.digest)


def _result_of(attempt: _Attempt) -> Result:
    if attempt.serving is not None:
        return Result.APPLIED
    return Result.UNCHANGED if attempt.same else Result.REFUSED


def _write(outcome: Outcome, *, repeated: bool, news: bool) -> None:
    """The one place where a reload is logged. What the watch sees again and again is said once."""
    fields = outcome.fields()
    if outcome.result is Result.APPLIED:
        (log.warning if outcome.findings else log.info)(outcome.event, **fields)
    elif outcome.result is Result.UNCHANGED:
        quiet = outcome.trigger == WATCH and not news
        (log.debug if quiet else log.info)(outcome.event, **fields)
    elif repeated and outcome.trigger in {WATCH, NOT_BEFORE}:
        log.debug(outcome.event, **fields)
    else:
        log.error(outcome.event, **fields)


def _unservable(error: ContextError) -> Finding:
    rule = "probe" if isinstance(error, ProbeError) else "context"
    return Finding(rule, Severity.REFUSE, error.part, error.message, error.fix)


def _internal_error(error: BaseException) -> Finding:
    """Where it happened, but not what it says: the words of an unexpected error may hold anything."""
    return Finding(
        "internal_error",
        Severity.REFUSE,
        Part.SETTINGS,
        f"an unexpected {type(error).__name__} at {_where(error)}",
        "Please report this",
    )


def _where(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in reversed(frames[-4:]))
