"""One attempt at a new generation, up to the moment before it is published: read, judge, compare, build.

The rules: it never raises, whatever goes wrong; and a generation that failed when it was served is not built
again from the same bytes, unless somebody asks for it. Everything here blocks: call it in a thread. Must not
know: the event loop, how often there is an attempt, or who is told.
"""

import datetime as dt
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace

from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.contexts import ContextError, ProbeError
from rekeyd.reload.current import Serving
from rekeyd.reload.outcome import Result, findings_of
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

PROBE_LISTENER = "probe_listener"


@dataclass(frozen=True, slots=True)
class Attempt:
    """What was found out.

    `same`: nothing differs from what is served. `serving` is what is to be published, if anything. `digest`
    is over all bytes that were read, empty where they could not be.
    """

    verdict: Verdict
    same: bool = False
    changes: tuple[PartChange, ...] = ()
    restart_needed: tuple[str, ...] = ()
    serving: Serving | None = None
    problems: tuple[Problem, ...] = ()
    digest: str = ""

    @property
    def result(self) -> Result:
        if self.serving is not None:
            return Result.APPLIED
        return Result.UNCHANGED if self.same and not self.verdict.refused else Result.REFUSED

    def against(self, finding: Finding) -> "Attempt":
        """This, refused for one reason more."""
        return replace(self, serving=None, verdict=Verdict((*self.verdict.findings, finding)))


@dataclass(frozen=True, slots=True)
class Failed:
    """A generation that was served and did not prove itself: its bytes, and what was found."""

    digest: str
    finding: Finding


@dataclass(frozen=True, slots=True)
class Means:
    """How candidates are read (`load` raises `SettingsError`) and generations built (`ContextError`)."""

    load: Callable[[], Candidate]
    build: Callable[[Generation], Serving]
    now: Callable[[], dt.datetime]


def attempt(means: Means, current: Generation | None, number: int, failed: Failed | None) -> Attempt:
    """Make generation `number` of what the files say, while `current` is served."""
    try:
        return _attempt(means, current, number, failed)
    except SettingsError as error:
        return Attempt(Verdict(findings_of(error.problems)), problems=error.problems)
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:  # noqa: BLE001 - nor may a panic in a library that is written in Rust
        return Attempt(Verdict((_internal_error(error),)))


def _attempt(means: Means, current: Generation | None, number: int, failed: Failed | None) -> Attempt:
    candidate = means.load()
    generation = candidate.generation(number)
    found = _compared(candidate, judge(candidate, current, means.now()), current, generation)
    if found.verdict.refused or found.same:
        return found
    if failed is not None and failed.digest == found.digest:
        return found.against(failed.finding)
    try:
        return replace(found, serving=means.build(generation))
    except ContextError as error:
        return found.against(_unservable(error))


def _compared(
    candidate: Candidate, verdict: Verdict, current: Generation | None, generation: Generation
) -> Attempt:
    """A part that could not be read has not changed into nothing; it is left out of the changes."""
    broken = {fault.part for fault in candidate.faults if fault.severity is Severity.REFUSE}
    different = tuple(change for change in changes(current, generation) if change.part not in broken)
    same = current is not None and not broken and not different
    return Attempt(verdict, same, different, candidate.restart_needed, digest=candidate.digest)


def failed_probe(reason: str) -> Finding:
    """What a probe through the own listener found, once the generation was served."""
    return Finding(
        PROBE_LISTENER,
        Severity.REFUSE,
        Part.SERVER_CERTIFICATE,
        f"a handshake through the own listener failed: {reason}",
        "The generation before it is served again; `rekeyd reload` tries once more. Please report this",
    )


def unprepared(problem: str) -> Finding:
    """What a process that is to serve it has against it."""
    return Finding(
        "worker",
        Severity.REFUSE,
        Part.SETTINGS,
        f"a worker can't serve it: {problem}",
        "It is tried again by itself. Where it lasts, see what the log says of that worker",
    )


def _unservable(error: ContextError) -> Finding:
    rule = "probe" if isinstance(error, ProbeError) else "context"
    return Finding(rule, Severity.REFUSE, error.part, error.message, error.fix)


def _internal_error(error: BaseException) -> Finding:
    """Where it happened, but not what it says: the words of an unexpected error may hold anything."""
    return Finding(
        "internal_error",
        Severity.REFUSE,
        Part.SETTINGS,
        f"an unexpected {type(error).__name__} at {where(error)}",
        "Please report this",
    )


def where(error: BaseException) -> str:
    """The innermost places that an error came through: file, line and function."""
    frames = traceback.extract_tb(error.__traceback__)
    return " < ".join(f"{f.filename.rsplit('/', 1)[-1]}:{f.lineno} {f.name}" for f in reversed(frames[-4:]))
