"""What counts for metrics are kept in: a histogram, and the key ids that may be label values.

Plain numbers, because they are counted at every request. Must not know: prometheus-client, or what is
counted.
"""

from bisect import bisect_left
from collections.abc import Callable
from itertools import accumulate

from rekeyd.trust.generation import Generation

OTHER = "other"
"""What stands for everything that has no label value of its own."""
KEY_IDS = 1000
"""Key ids that are counted by name at once; those that are gone make room."""
BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0)
"""Upper bounds in seconds: from an answer of our own to an upstream that is about to be given up."""

_BOUNDS = (*map(str, BUCKETS), "+Inf")


class Durations:
    """One series of a histogram."""

    __slots__ = ("counts", "sum")

    def __init__(self) -> None:
        self.counts = [0] * len(_BOUNDS)
        self.sum = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.sum += seconds

    def buckets(self) -> list[tuple[str, float]]:
        """Each with what is in those below it."""
        return list(zip(_BOUNDS, accumulate(self.counts), strict=True))


class KeyIds:
    """Which key ids are counted by name: `KEY_IDS` of those that a generation knows, or knew."""

    def __init__(self, generation: Callable[[], Generation | None]) -> None:
        self._generation = generation
        self._of: Generation | None = None
        self._counted: frozenset[str] = frozenset()

    def label_for(self, key_id: str, forget: Callable[[frozenset[str]], None]) -> str:
        """The id, or `OTHER`; `forget` is told which ids make room for it."""
        if key_id in self._counted:
            return key_id
        generation = self._generation()
        if generation is not self._of:
            self._of = generation
            if len(self._counted) >= KEY_IDS:
                kept = frozenset(each for each in self._counted if _knows(generation, each))
                forget(self._counted - kept)
                self._counted = kept
        if not _knows(generation, key_id) or len(self._counted) >= KEY_IDS:
            return OTHER
        self._counted |= {key_id}
        return key_id


def _knows(generation: Generation | None, key_id: str) -> bool:
    """Whether it is a key, or vouches for tokens."""
    return generation is not None and (key_id in generation.ring.ids or generation.tokens.knows(key_id))
