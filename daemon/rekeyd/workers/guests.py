"""The supervisor as its own guest: it comes in by a listener of the workers, and whichever takes it knows.

Must not know: what is proved by that.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from rekeyd.front import Place
from rekeyd.proof import Traffic
from rekeyd.reload.probe import Announce
from rekeyd.workers.member import Member, WorkerError

AskAll = Callable[[str, Any], Awaitable[list[tuple[Member, Any]]]]
"""Asks every worker; of one that can't answer the answer is a `WorkerError`."""


class Guests:
    """Connections of our own that are under way."""

    def __init__(self, ask_all: AskAll) -> None:
        self.ask_all = ask_all
        self._expected: dict[tuple[str, int], asyncio.Event] = {}

    def let_in(self, host: str, port: int) -> None:
        """A worker says that it let in who came from there."""
        if (host, port) in self._expected:
            self._expected[host, port].set()

    @contextlib.asynccontextmanager
    async def expecting(self, door: str) -> AsyncIterator[tuple[Announce, asyncio.Event]]:
        """See `proof.Way`."""
        let_in = asyncio.Event()
        addresses: list[tuple[str, int]] = []

        async def announce(address: tuple[str, int]) -> None:
            addresses.append(address)
            self._expected[address] = let_in
            await self.ask_all("expect", {"door": door, "address": address, "over": False})

        try:
            yield announce, let_in
        finally:
            for address in addresses:
                del self._expected[address]
                await self.ask_all("expect", {"door": door, "address": address, "over": True})


@dataclass(frozen=True, slots=True)
class CrewWay:
    """Where clients come in to any of the workers (`proof.Way`)."""

    place: Place
    address: tuple[str, int]
    guests: Guests

    @property
    def name(self) -> str:
        return self.place.name

    @property
    def tls(self) -> bool:
        return self.place.tls

    async def traffic(self) -> Traffic:
        """It is full where it is so for all that have opened it."""
        answers = await self.guests.ask_all("traffic", None)
        told = [
            answer[self.name]
            for _, answer in answers
            if not isinstance(answer, WorkerError) and self.name in answer
        ]
        return Traffic(bool(told) and all(full for full, _ in told), sum(let_in for _, let_in in told))

    def expecting(self) -> contextlib.AbstractAsyncContextManager[tuple[Announce, asyncio.Event]]:
        return self.guests.expecting(self.name)
