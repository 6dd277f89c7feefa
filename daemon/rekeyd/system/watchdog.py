"""The service manager's watchdog: a sign of life, sent after a proof of it (sd_watchdog_enabled(3)).

The rules: a sign is never sent on faith. Before each one `prove` has just found nothing to doubt, and the
event loop has kept time since the one before: no beat came later than `MOST_LAG` of the interval. There are
up to four signs in an interval. Where one is withheld the next look follows soon, so that what passes
costs nothing; what lasts ends in silence, and the service manager starts us anew. It is told once when signs
are withheld, and once when they are sent again. A loop that stands still tells nothing: nothing of this runs.

Must not know: what is proved, or how a sign is sent.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping

import structlog

MOST_LAG = 0.5
"""Of the interval: how late a beat may come. Later, half of what is ours to serve in was lost."""

_PAUSE, _PATIENCE, _BEAT = 1 / 4, 1 / 4, 1 / 24
"""Of the interval: from a sign to the next look, for a look, between two looks at the clock."""
_GRACE = 1.2
"""A proof says better itself why it takes too long."""

Prove = Callable[[float], Awaitable[str | None]]
"""Why there is doubt, found out within so many seconds; None where there is none."""

log = structlog.get_logger()


def interval_in(environ: Mapping[str, str], pid: int) -> float | None:
    """Seconds in which the service manager wants a sign of life of this process; None where it wants none."""
    told, of = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID") or str(pid)
    return int(told) / 1e6 if told.isdecimal() and int(told) and of == str(pid) else None


class Watchdog:
    """Sends signs of life for as long as it `run`s. `interval` in seconds."""

    def __init__(self, interval: float, *, prove: Prove, sign: Callable[[], object]) -> None:
        self._interval = interval
        self._prove = prove
        self._sign = sign
        self._lag = 0.0
        self._due = time.monotonic()
        self._withheld = False

    async def run(self) -> None:
        """Until cancelled. The first sign is due at once."""
        beats = asyncio.create_task(self._keep_time(), name="watchdog-beats")
        try:
            while True:
                reason = await self._reason_for_doubt()
                self._tell(reason)
                if reason is None:
                    self._sign()
                await asyncio.sleep(self._interval * (_PAUSE if reason is None else _BEAT))
        finally:
            beats.cancel()

    async def _keep_time(self) -> None:
        while True:
            self._due = time.monotonic() + self._interval * _BEAT
            await asyncio.sleep(self._interval * _BEAT)
            self._lag = max(self._lag, time.monotonic() - self._due)

    def _take_lag(self) -> float:
        """How many seconds late a beat was at worst since the last look; one that is due counts already."""
        now = time.monotonic()
        lag, self._lag = max(self._lag, now - self._due), 0.0
        self._due = max(self._due, now)
        return lag

    async def _reason_for_doubt(self) -> str | None:
        within = self._interval * _PATIENCE
        try:
            async with asyncio.timeout(within * _GRACE):
                reason = await self._prove(within)
        except TimeoutError:
            return f"there is no proof within {within:g} seconds"
        except Exception as error:  # noqa: BLE001 - a proof that breaks proves nothing, and the next is tried
            return f"there is no proof, for an unexpected {type(error).__name__}"
        if (lag := self._take_lag()) > self._interval * MOST_LAG:
            return f"the event loop stood still for {lag:.1f} seconds"
        return reason

    def _tell(self, reason: str | None) -> None:
        if (reason is not None) == self._withheld:
            return
        self._withheld = reason is not None
        if reason is None:
            log.info("watchdog.resumed")
        else:
            fix = "If it lasts, the service manager starts the service anew"
            log.error("watchdog.withheld", problem=reason, fix=fix)
