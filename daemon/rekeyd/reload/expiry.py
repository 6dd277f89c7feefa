"""Tells that the served certificates come near their end: `cert.expiring`, and `cert.expired`.

The rules: one line for each certificate and threshold (`tls.expiry_warnings`, in days), when it is crossed;
where several were crossed before anybody looked, only for the tightest. A threshold counts for certificates
that live three times as long: what is renewed every few days is always near its end. The clock on the wall
decides, which may be set and does not run while a machine sleeps, so it is looked at every minute.

Must not know: how a certificate is renewed, or how things are logged.
"""

import asyncio
import datetime as dt
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import structlog

from rekeyd.reload.current import Current
from rekeyd.trust.certificates import Certificate

LONGEST_SLEEP = 60.0
"""Seconds between two looks at the clock."""

_DAY = dt.timedelta(days=1)
_SHARE_OF_LIFE = 3
_EXPIRED = -1

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Notice:
    """What is to be told of a certificate; `threshold` in days is None where it has expired."""

    certificate: Certificate
    threshold: int | None
    left: dt.timedelta

    @property
    def event(self) -> str:
        return "cert.expired" if self.threshold is None else "cert.expiring"

    def fields(self) -> dict[str, object]:
        """`days_left` is rounded down to a tenth, and below zero once it has expired."""
        return {
            "names": list(self.certificate.names),
            "serial": self.certificate.serial_hex,
            "not_after": self.certificate.not_after.isoformat(),
            "days_left": math.floor(self.left / _DAY * 10) / 10,
        }


def notice(certificate: Certificate, thresholds: Iterable[int], now: dt.datetime) -> Notice | None:
    """What is to be said of a certificate at `now`: of the tightest threshold it crossed. None: nothing."""
    left = certificate.not_after - now
    if left < dt.timedelta(0):
        return Notice(certificate, None, left)
    crossed = [days for days in _that_count(certificate, thresholds) if left <= days * _DAY]
    return Notice(certificate, min(crossed), left) if crossed else None


def next_change(certificate: Certificate, thresholds: Iterable[int], now: dt.datetime) -> dt.datetime | None:
    """When there will be something else to say; None once it has expired."""
    moments = [certificate.not_after - days * _DAY for days in _that_count(certificate, thresholds)]
    return min((moment for moment in (*moments, certificate.not_after) if moment > now), default=None)


def _that_count(certificate: Certificate, thresholds: Iterable[int]) -> list[int]:
    """Whole days of life, rounded up: what is issued for 90 days often lives a second less."""
    life = math.ceil((certificate.not_after - certificate.not_before) / _DAY)
    return [days for days in thresholds if days * _SHARE_OF_LIFE <= life]


def _utc_now() -> dt.datetime:
    return dt.datetime.now(dt.UTC)


class ExpiryWatch:
    """Looks at what `current` serves. `look` may be called at any time, as after a reload; `run` looks on."""

    def __init__(self, current: Current, now: Callable[[], dt.datetime] = _utc_now) -> None:
        self._current = current
        self._now = now
        self._told: dict[str, int] = {}

    async def run(self) -> None:
        """Tell what is to be told when its time comes, until cancelled."""
        while True:
            self.look()
            await asyncio.sleep(self._pause())

    def look(self) -> None:
        """Tell what has not been told yet."""
        served, thresholds = self._served()
        notices = [found for each in served if (found := notice(each, thresholds, self._now()))]
        told = self._told
        self._told = {}
        for each in notices:
            name = each.certificate.sha256
            tightest = _EXPIRED if each.threshold is None else each.threshold
            if tightest < told.get(name, tightest + 1):
                (log.error if each.threshold is None else log.warning)(each.event, **each.fields())
            self._told[name] = min(tightest, told.get(name, tightest))

    def _pause(self) -> float:
        served, thresholds = self._served()
        now = self._now()
        changes = [change for each in served if (change := next_change(each, thresholds, now))]
        # A moment more, for `left < 0` and a clock that is read in another unit than the timer's.
        ahead = [(change - now).total_seconds() + 0.01 for change in changes]
        return min(LONGEST_SLEEP, *ahead) if ahead else LONGEST_SLEEP

    def _served(self) -> tuple[list[Certificate], tuple[int, ...]]:
        generation = self._current.generation
        if generation is None:
            return [], ()
        leaves = {material.leaf.sha256: material.leaf for material in generation.certificates}
        return list(leaves.values()), tuple(generation.settings.tls.expiry_warnings)
