"""Work that takes its time on the event loop, done a slice at a time, so that all else has its turn between.

The rules: in one turn of the loop at most `SLICE` seconds are spent, or as long as one piece of work takes.
Who waits is served in the order of coming among its own group, and the groups in turns: one that sends
thousands delays another's first by a single piece. Must not know: what the work is.
"""

import asyncio
import time
from collections import OrderedDict, deque
from collections.abc import Callable

SLICE = 0.001

Work = Callable[[], None]


class Turns:
    """A queue of work, by group. To be used in a running event loop."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[Work]] = OrderedDict()
        self._scheduled = False

    def add(self, group: str, work: Work) -> None:
        """Do it when its turn comes, soon."""
        line = self._waiting.get(group)
        if line is None:
            self._waiting[group] = deque((work,))
        else:
            line.append(work)
        if not self._scheduled:
            self._scheduled = True
            asyncio.get_running_loop().call_soon(self._run)

    def _run(self) -> None:
        """`_scheduled` holds meanwhile: what the work brings in needs no turn of its own."""
        until = time.monotonic() + SLICE  # uvloop's own clock goes by milliseconds
        try:
            while self._waiting:
                self._next()()
                if time.monotonic() >= until:
                    break
        finally:
            self._scheduled = bool(self._waiting)
            if self._scheduled:
                asyncio.get_running_loop().call_soon(self._run)

    def _next(self) -> Work:
        """The first of the group whose turn it is, which then goes to the end of the line."""
        group, line = self._waiting.popitem(last=False)
        work = line.popleft()
        if line:
            self._waiting[group] = line
        return work
