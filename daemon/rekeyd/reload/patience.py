"""How long a refusal is borne, when it is told, and when to look again.

The rules. Certificate and key are two writes, and a careless tool empties a file before it fills it; so what
the next moment may mend (torn, mismatched, missing: `PASSING`) is borne quietly for a grace, counted from the
first sight of trouble and not from the latest, lest files that never rest are never told of. After that it is
told, and told again with growing pauses (`PAUSES`, then `longest`) for as long as it lasts. What no moment
mends is told at once, and so is everything to whoever asked. A certificate that waits for its `notBefore` is
told once: it is no trouble. Another reason than the one that was told gets a grace of its own, but is never
told later than the old one would have been. When all is well again, that is said if the trouble was.

Pure: the time is passed in, in seconds of any clock that only goes forward. Must not know: what a reload is,
or how things are told.
"""

import math
from collections.abc import Hashable, Iterable
from dataclasses import dataclass, replace

from rekeyd.trust.generation import Finding, Severity

PASSING = frozenset(
    {
        "unreadable",
        "unsteady",
        "empty",
        "no_pem_block",
        "truncated_pem",
        "garbage",
        "unparsable",
        "key_mismatch",
        "passphrase_wrong",
        "pair_incomplete",
        "crl_of_another_issuer",
        "keys_torn",
        "pepper_mismatch",
    }
)
"""Rules whose breach may be the middle of a change."""

PAUSES = (10.0, 30.0, 60.0, 300.0)
"""Seconds between one telling and the next."""

LONGEST = 3600.0
SOON = 0.5
"""Seconds until files that are borne are looked at again; events come in between."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What one look found: `reason` is the same as long as it would be told in the same words.

    `passing`: the next moment may mend it. `held`: time alone will, at a known moment. `asked`: somebody
    waits for the answer.
    """

    reason: Hashable
    passing: bool = False
    held: bool = False
    asked: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """`grace` is how long what passes is borne, `longest` the longest pause between two tellings; seconds."""

    grace: float
    longest: float = LONGEST


@dataclass(frozen=True, slots=True)
class Trouble:
    """A refusal that lasts. `due` is when it is to be told next; `told` counts since the reason changed."""

    since: float
    reason: Hashable
    due: float
    told: int = 0
    loud: bool = False
    """Whether it was ever told: else it is still borne."""


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do after a refusal: `tell` it now or not, and look again in so many seconds (None: no need)."""

    trouble: Trouble
    tell: bool
    first: bool
    look_again: float | None


def may_pass(findings: Iterable[Finding]) -> bool:
    """Whether each finding that refuses could be the middle of a change."""
    against = [finding for finding in findings if finding.severity is not Severity.WARN]
    return bool(against) and all(finding.rule in PASSING for finding in against)


def refused(trouble: Trouble | None, sight: Sight, terms: Terms, now: float) -> Advice:
    """A look found files that are refused, after `trouble` (None: all was well)."""
    first = trouble is None
    trouble = _seen(trouble, sight, terms, now)
    if not (sight.asked or now >= trouble.due):
        pause = trouble.due - now
        look_again = min(pause, SOON) if not trouble.loud else pause
        return Advice(trouble, tell=False, first=first, look_again=_finite(look_again))
    pause = math.inf if sight.held else _pause(trouble.told, terms)
    told = replace(trouble, due=now + pause, told=trouble.told + 1, loud=True)
    return Advice(told, tell=True, first=first, look_again=_finite(pause))


def _seen(trouble: Trouble | None, sight: Sight, terms: Terms, now: float) -> Trouble:
    at_the_latest = now + terms.grace if sight.passing else now
    if trouble is None:
        return Trouble(since=now, reason=sight.reason, due=at_the_latest)
    if trouble.reason == sight.reason:
        return trouble
    return replace(trouble, reason=sight.reason, due=min(trouble.due, at_the_latest), told=0)


def _pause(told: int, terms: Terms) -> float:
    return min(PAUSES[told] if told < len(PAUSES) else terms.longest, terms.longest)


def _finite(seconds: float) -> float | None:
    return seconds if math.isfinite(seconds) else None
