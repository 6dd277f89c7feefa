"""How long to wait before another worker begins in a place where one ended too soon.

The rules: after one that lived for `LIVED` seconds the next begins at once. After one that did not, or that
could not even begin, it comes ever later, for as long as that goes on: what kills each of them at once (a
request that is repeated, a machine without memory) is not to be fed with new ones.

Must not know: why one ended.
"""

from collections import Counter

LIVED = 10.0
PAUSES = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
"""Seconds, by how many in a row ended too soon."""


class Pauses:
    """Those of all places, by number."""

    def __init__(self) -> None:
        self._in_a_row: Counter[int] = Counter()

    def after(self, number: int, lived: float) -> float:
        """Seconds to wait after one that lived so many; 0 for one that never began."""
        self._in_a_row[number] = 0 if lived >= LIVED else self._in_a_row[number] + 1
        return PAUSES[min(self._in_a_row[number], len(PAUSES) - 1)]
