"""What every flood of lines has in common: the network it comes from, and when the rest of it is told.

A network is an IPv4 address or an IPv6 /64, since that is what one customer of a provider gets. What waits to
be told together with others is told when its time has come, whether or not more of it comes, and at the end.

Must not know: what is told, or which of it waits (a `Withholding` decides that, and has no clock).
"""

import asyncio
import functools
import ipaddress
import time
from collections.abc import Callable, Iterable
from typing import Generic, Protocol, TypeVar

SECOND = 1.0
NETWORKS = 4096
"""Networks remembered at once."""

T = TypeVar("T")


class Withholding(Protocol[T]):
    """Decides what is told now, each item with how many it stands for, and what waits.

    Times are in monotonic seconds.
    """

    waiting: bool
    """Whether something may wait to be told: ask `next_due`."""

    def add(self, item: T, now: float) -> Iterable[tuple[T, int]]:
        """What to tell now; empty where the item waits to be told together with others."""

    def due(self, now: float) -> Iterable[tuple[T, int]]:
        """What has waited long enough."""

    def next_due(self) -> float | None:
        """When `due` will have something to tell; None: nothing waits."""

    def flush(self) -> Iterable[tuple[T, int]]:
        """All that waits, and forget everything."""


class Telling(Generic[T]):
    """Calls `tell` with each item and its count when a `Withholding` says so. For a running event loop."""

    def __init__(
        self,
        withholding: Withholding[T],
        tell: Callable[[T, int], None],
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._withholding = withholding
        self._tell = tell
        self._clock = clock
        self._timer: asyncio.TimerHandle | None = None

    def add(self, item: T) -> None:
        """Tell it, now or later, alone or together with others."""
        self._tell_all(self._withholding.add(item, self._clock()))
        if self._withholding.waiting and self._timer is None:
            self._set_timer()

    def close(self) -> None:
        """Tell what still waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._tell_all(self._withholding.flush())

    def _set_timer(self) -> None:
        due = self._withholding.next_due()
        if due is not None:
            wait = max(0.0, due - self._clock())
            self._timer = asyncio.get_running_loop().call_later(wait, self._ring)

    def _ring(self) -> None:
        self._timer = None
        self._tell_all(self._withholding.due(self._clock()))
        self._set_timer()

    def _tell_all(self, told: Iterable[tuple[T, int]]) -> None:
        for item, count in told:
            self._tell(item, count)


@functools.lru_cache(maxsize=NETWORKS)
def network_of(client: str | None) -> str:
    """The network that a client's address stands for; what is no address stands for itself."""
    if client is None or ":" not in client:
        return client or ""
    try:
        address = ipaddress.IPv6Address(client)
    except ValueError:
        return client
    if address.ipv4_mapped is not None:
        return str(address.ipv4_mapped)
    return str(ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
