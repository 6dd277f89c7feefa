"""The event loop that tests run on: the one that `REKEYD_LOOP` names, else asyncio's own.

The rule: what a test leaves open fails that test, on every loop. uvloop warns of it in the middle of
`close()`, where a warning that is an error keeps it from closing that very connection, and then waits for its
end for ever: so its warnings are told when all is closed.

    timers = Timers(asyncio.get_running_loop())
"""

import asyncio
import os
import warnings
import weakref
from typing import Any

from rekeyd.system.event_loop import VARIABLE, loop_factory


def new_loop() -> asyncio.AbstractEventLoop:
    """As `asyncio.Runner` takes it for a `loop_factory`."""
    loop: Any = loop_factory({VARIABLE: os.environ.get(VARIABLE, "asyncio")})()
    close = loop.close

    def close_and_tell() -> None:
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter("always")
            close()
        for each in told:
            warnings.warn_explicit(each.message, each.category, each.filename, each.lineno)

    loop.close = close_and_tell
    return loop  # type: ignore[no-any-return]


class Timers:
    """The timers that are set on a loop from now on. uvloop shows nobody which it has."""

    def __init__(self, loop: Any) -> None:
        self._loop = loop
        self._set: dict[int, weakref.ref[asyncio.TimerHandle]] = {}
        self._call_later, self._call_at = loop.call_later, loop.call_at
        loop.call_later, loop.call_at = self._later, self._at

    def _later(self, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        return self._noted(self._call_later(*arguments, **options))

    def _at(self, *arguments: Any, **options: Any) -> asyncio.TimerHandle:
        return self._noted(self._call_at(*arguments, **options))

    def _noted(self, timer: asyncio.TimerHandle) -> asyncio.TimerHandle:
        if hasattr(timer, "when"):  # else it is due at once
            self._set[id(timer)] = weakref.ref(timer)
        return timer

    @property
    def kept(self) -> list[asyncio.TimerHandle]:
        """Those that something holds on to, cancelled or not."""
        return [timer for ref in self._set.values() if (timer := ref()) is not None]

    @property
    def waiting(self) -> list[asyncio.TimerHandle]:
        """Those that are neither cancelled nor due."""
        now = self._loop.time()
        return [timer for timer in self.kept if not timer.cancelled() and timer.when() > now]
