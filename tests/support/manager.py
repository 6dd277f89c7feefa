"""A service manager, as far as a daemon sees one: it is told things, keeps descriptors, hands them over.

with ServiceManager(tmp_path / "notify.sock", room=2) as manager:
    daemon = await start_daemon(site.file, environ=manager.environ, descriptors=manager.kept)
    await manager.told(lambda message: "READY" in message)
"""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Self

from support.live import PATIENCE

Message = dict[str, str]


class ServiceManager:
    """One end of sd_notify(3); `room` is what `FileDescriptorStoreMax=` says. For a running event loop."""

    def __init__(self, path: Path, *, room: int = 0, watchdog: float = 0) -> None:
        """`watchdog` is what `WatchdogSec=` says, in seconds."""
        self.path = path
        self.room = room
        self.watchdog = watchdog
        self.messages: list[Message] = []
        """All that was told, in order."""
        self.kept: dict[str, int] = {}
        """What is in the descriptor store, by name."""
        self.least = 0
        """How many descriptors were kept at least, since the first one was."""
        self._read = 0
        self._news = asyncio.Event()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(path))
        self._socket.setblocking(False)

    def __enter__(self) -> Self:
        asyncio.get_running_loop().add_reader(self._socket, self._take)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()
        for descriptor in self.kept.values():
            os.close(descriptor)

    @property
    def environ(self) -> dict[str, str]:
        """What it tells a service of itself."""
        told = {"NOTIFY_SOCKET": str(self.path)}
        if self.room:
            told["FDSTORE"] = str(self.room)
        if self.watchdog:
            told["WATCHDOG_USEC"] = str(int(self.watchdog * 1e6))
        return told

    @property
    def seen(self) -> list[Message]:
        """The messages up to the one that `told` gave last."""
        return self.messages[: self._read]

    async def told(self, wanted: Callable[[Message], object]) -> Message:
        """The next message that is wanted; those before it are passed over."""
        async with asyncio.timeout(PATIENCE):
            while True:
                while self._read < len(self.messages):
                    message = self.messages[self._read]
                    self._read += 1
                    if wanted(message):
                        return message
                self._news.clear()
                await self._news.wait()

    def has_more(self) -> bool:
        """Whether anything came after what `told` gave last."""
        self._take()
        return self._read < len(self.messages)

    def _take(self) -> None:
        while True:
            try:
                data, descriptors, _, _ = socket.recv_fds(self._socket, 65536, 8)
            except BlockingIOError:
                return
            message = dict(line.split("=", 1) for line in data.decode().splitlines())
            self._keep(message, descriptors)
            self.messages.append(message)
            self._news.set()

    def _keep(self, message: Message, descriptors: list[int]) -> None:
        name = message.get("FDNAME", "stored")
        if "FDSTORE" in message and len(self.kept) < self.room:
            assert name not in self.kept, "systemd would keep both"
            self.kept[name] = descriptors.pop()
            self.least = self.least or 1
        if "FDSTOREREMOVE" in message and name in self.kept:
            os.close(self.kept.pop(name))
            self.least = min(self.least, len(self.kept))
        for descriptor in descriptors:
            os.close(descriptor)
