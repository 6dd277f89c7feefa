"""One timer for a connection that waits now for this and now for that.

The rule: most deadlines never come, so that a later one costs nothing: the timer that is set already goes
off, looks when it is really due, and is set anew. Must not know: what is waited for.
"""

import asyncio
from collections.abc import Callable

EARLY = 0.001
"""Seconds by which a timer of uvloop may go off too early: set anew for what is left, it would at once."""


def _never() -> None:
    return None


def _nothing() -> None:
    """Nobody waits."""


class Deadline:
    """`due` says until when (in the loop's time) what is waited for must have come, None where nothing is;
    `late` is called when it has not."""

    __slots__ = ("_at", "_due", "_late", "_loop", "_timer")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, due: Callable[[], float | None], late: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._due = due
        self._late = late
        self._timer: asyncio.TimerHandle | None = None
        self._at = 0.0

    def expect(self, at: float) -> None:
        """Look at the clock at `at`, or before."""
        if self._timer is None or self._at > at:
            if self._timer is not None:
                self._timer.cancel()
            self._at = at
            self._timer = self._loop.call_at(at, self._look)

    def stop(self) -> None:
        """Look no more, until something is expected again."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def end(self) -> None:
        """Look never again, and hold on to nobody."""
        self.stop()
        self._due, self._late = _never, _nothing

    def _look(self) -> None:
        self._timer = None
        due = self._due()
        if due is None:
            return
        if self._loop.time() + EARLY < due:
            self.expect(due)
        else:
            self._late()
