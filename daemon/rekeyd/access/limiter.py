"""How often: failed attempts of a network, and the requests of a key that has a rate.

The rule is the generic cell rate algorithm (ITU-T I.371): one number a bucket, the moment at which it would
be empty again. A network may fail `burst` times in a row, and then once in `interval` seconds; what comes
sooner is told to wait and not counted, so that waiting helps. Only failures are counted, and who asks for a
verdict has looked for the key first: so nobody is locked out by what others do.

Networks are remembered up to `most`, the least recent forgotten first. Sans I/O: `now` is in monotonic
seconds. Must not know: what a failure is, or whose network it is.
"""

import functools
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from rekeyd.access.verdict import Quota

MOST = 65_536


@dataclass(frozen=True, slots=True)
class Pace:
    """`burst` at once, and one more for each `interval` seconds."""

    burst: int
    interval: float

    @classmethod
    def per_second(cls, rate: float) -> "Pace":
        """`rate` requests within any second; a fraction is one request in so many seconds."""
        return cls(max(1, int(rate)), 1 / rate)

    @classmethod
    @functools.lru_cache(maxsize=4)
    def per_minute(cls, count: int) -> "Pace":
        return cls(count, 60 / count)


class Taken(NamedTuple):
    """What came of asking for one more: `wait` seconds (0: it is granted), how many `remaining` at once, and
    in how many seconds, `reset`, all would be had again."""

    wait: float
    remaining: int
    reset: float


class Buckets:
    """One bucket for each name."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._empty_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        return len(self._empty_at)

    def take(self, name: str, pace: Pace, now: float) -> Taken:
        """One of `name`'s, if there is one."""
        whole = pace.burst * pace.interval
        full = max(self._empty_at.get(name, now), now) - now + pace.interval
        if full > whole * (1 + 1e-9):
            return Taken(full - whole, 0, full - pace.interval)
        self._empty_at[name] = now + full
        self._empty_at.move_to_end(name)
        if len(self._empty_at) > self._most:
            self._empty_at.popitem(last=False)
        return Taken(0.0, int((whole - full) / pace.interval + 1e-9), full)

    def wait(self, name: str, pace: Pace, now: float) -> float:
        """Seconds until one could be had, without taking it."""
        full = max(self._empty_at.get(name, now), now) - now + pace.interval
        return max(0.0, full - pace.burst * pace.interval)


def quota(rate: float, taken: Taken) -> Quota:
    """What a client is told of its rate."""
    return Quota(rate, taken.remaining, taken.reset, taken.wait)


def whole_seconds(seconds: float) -> int:
    """Rounded up, at least one: what `Retry-After` takes (RFC 9110, 10.2.3)."""
    return max(1, math.ceil(seconds))
