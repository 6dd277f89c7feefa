"""All tunnels of this process: those that are open, what they carried, and how they end with the daemon.

Must not know: how a tunnel works.
"""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Protocol

from rekeyd.ledger import Ledger
from rekeyd.telemetry.tunnels import Carried


class Open(Protocol):
    """A tunnel, as far as it is dealt with here."""

    @property
    def carried(self) -> Carried: ...

    def finish(self) -> None: ...

    def cut(self, why: str) -> None: ...


class Tunnels:
    """`idle_timeout` is asked when it is needed: seconds, None for never."""

    def __init__(self, ledger: Ledger, idle_timeout: Callable[[], float | None]) -> None:
        self.ledger = ledger
        self.idle_timeout = idle_timeout
        self.ended: Counter[tuple[str, str]] = Counter()
        """How many ended, by direction and reason."""
        self._open: set[Open] = set()
        self._before: dict[tuple[str, str], Carried] = {}
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return len(self._open)

    def came(self, tunnel: Open) -> None:
        self._open.add(tunnel)
        self._emptied.clear()

    def went(self, tunnel: Open, reason: str) -> None:
        self._open.discard(tunnel)
        carried = tunnel.carried
        self.ended[carried.direction, reason] += 1
        self._before[carried.of] = self._sum(carried.of, [carried]).closed()
        if not self._open:
            self._emptied.set()

    def carried(self) -> Iterator[Carried]:
        """By direction and peer: how many are open, and what went through them and those before."""
        now: dict[tuple[str, str], list[Carried]] = {of: [] for of in self._before}
        for tunnel in self._open:
            now.setdefault(tunnel.carried.of, []).append(tunnel.carried)
        return (self._sum(of, each) for of, each in now.items())

    async def drain(self, within: float) -> int:
        """End all of them; how many had to be cut after `within` seconds."""
        for tunnel in tuple(self._open):
            tunnel.finish()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._emptied.wait()
        left = tuple(self._open)
        for tunnel in left:
            tunnel.cut("stopped")
        return len(left)

    def _sum(self, of: tuple[str, str], tunnels: list[Carried]) -> Carried:
        return sum(tunnels, self._before.get(of, Carried(*of)))
