"""One worker process without a supervisor: the test is the supervisor."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Serving
from rekeyd.reload.sealed import seal
from rekeyd.system.sockets import bind
from rekeyd.workers.channel import Message
from rekeyd.workers.member import Member
from support.generations import Site
from support.live import PATIENCE, configure
from support.waiting import eventually


class Hand:
    """A worker that has begun, and all that it said unasked."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.said: list[Message] = []
        self.ended = asyncio.Event()
        self.listening = bind("127.0.0.1", 0)
        self.port = int(self.listening.getsockname()[1])
        self.heard: Callable[[str, Any], None] = lambda _, __: None
        """Called with what it says unasked."""
        self.member = Member(1, heard=self._hear, ended=lambda _: self.ended.set())
        self.serving: Serving

    def _hear(self, _: Member, message: Message) -> None:
        self.said.append(message)
        self.heard(message.kind, message.body)

    async def ask(self, kind: str, body: Any = None, *, descriptor: int | None = None) -> Any:
        return await self.member.ask(kind, body, within=PATIENCE, descriptor=descriptor)

    async def begin(self) -> None:
        source = self.site.file.read_text()
        sockets = {"http": self.listening.fileno()}
        await self.ask("begin", {"file": str(self.site.file), "source": source, "sockets": sockets})

    async def prepare(self, number: int) -> None:
        """Hand over what the files say now."""
        generation = self.site.disk.load().generation(number)
        self.serving = serving_of(generation)
        snapshot = self.site.disk.take_snapshot()
        assert snapshot is not None
        descriptor = seal(snapshot, {}, number=number)
        try:
            await self.ask("prepare", {"number": number}, descriptor=descriptor)
        finally:
            os.close(descriptor)

    async def serve(self, number: int) -> None:
        """A generation, from the files to the clients."""
        await self.prepare(number)
        await self.ask("publish", {"number": number})

    async def says(self, kind: str) -> None:
        await eventually(lambda: any(message.kind == kind for message in self.said), what=kind)

    def signal(self, number: signal.Signals) -> None:
        os.kill(self.member.pid, number)


@contextlib.asynccontextmanager
async def hand(folder: Path, **sections: Any) -> AsyncIterator[Hand]:
    """A worker that serves nothing yet."""
    site = Site(folder)
    configure(site, **sections)
    hand = Hand(site)
    hand.member.start({"http": hand.listening})
    try:
        await hand.begin()
        yield hand
    finally:
        hand.member.kill()
        await hand.member.gone()
        hand.listening.close()
