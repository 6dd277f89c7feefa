"""One worker process, as the supervisor sees it: started, asked, ended.

The rules: a worker is started anew, not forked, so that it shares nothing with the supervisor but its
listening sockets, its log and one end of a channel; in a process group of its own, so that what a terminal
sends reaches the supervisor alone. What is told to the service manager is the supervisor's business: a worker
doesn't know where. Whoever doesn't answer in time is killed.

Must not know: how many others there are, and what follows when one ends.
"""

import asyncio
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rekeyd.errors import RekeydError
from rekeyd.workers.channel import Channel, ChannelEndedError, Message

_OF_THE_SUPERVISOR = frozenset({"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "LISTEN_PID", "LISTEN_FDS"})
_END, _SUDDEN_END = 10.0, 1.0
"""Seconds for a process to be gone once its channel has ended: where it was told so, and where not."""


class WorkerError(RekeydError):
    """A worker can't do what it was asked; the words are its own."""


class Member:
    """A worker in the place `number`. `heard` gets what it says unasked; `ended` is called at its end."""

    def __init__(
        self,
        number: int,
        *,
        heard: Callable[["Member", Message], None],
        ended: Callable[["Member"], None],
    ) -> None:
        self.number = number
        self.leaving = False
        """Whether its end is wanted."""
        self.connections = 0
        self._ended = ended
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._theirs: socket.socket | None = theirs
        self.since = asyncio.get_running_loop().time()
        self._channel = Channel(
            ours, heard=lambda message: heard(self, message), ended=lambda: self._ended(self)
        )
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, sockets: Mapping[str, socket.socket]) -> None:
        """Begin; the first that it is told should be where its sockets are (see `begin`)."""
        if self._theirs is None:
            raise RuntimeError("a worker is started once")
        descriptor = self._theirs.fileno()
        with self._theirs:
            self._process = subprocess.Popen(  # noqa: S603 - ourselves
                [sys.executable, "-P", "-m", "rekeyd", "worker", str(descriptor)],
                stdin=subprocess.DEVNULL,
                env={name: value for name, value in os.environ.items() if name not in _OF_THE_SUPERVISOR},
                pass_fds=[descriptor, *(each.fileno() for each in sockets.values())],
                process_group=0,
            )
        self._theirs = None

    @property
    def pid(self) -> int:
        return self._process.pid if self._process is not None else 0

    async def ask(self, kind: str, body: Any = None, *, within: float, descriptor: int | None = None) -> Any:
        """Ask, and have the answer.

        Raises:
            WorkerError: it can't, or it is gone; one that is too slow (`within`, in seconds) is killed.
        """
        try:
            answer = await self._channel.ask(kind, body, within=within, descriptor=descriptor)
        except TimeoutError:
            self.kill()
            raise WorkerError(f"worker {self.number} did not answer within {within:g} s") from None
        except ChannelEndedError:
            raise WorkerError(f"worker {self.number} is gone") from None
        except OSError as error:
            raise WorkerError(f"worker {self.number} can't be asked ({error.strerror})") from None
        if isinstance(answer, dict) and "problem" in answer:
            raise WorkerError(str(answer["problem"]))
        return answer

    def tell(self, kind: str, body: Any = None) -> None:
        self._channel.tell(kind, body)

    def kill(self) -> None:
        """End it now; its channel will say so."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()

    async def gone(self) -> str:
        """Wait for the process; how it ended. One that hangs at its end is killed."""
        process = self._process
        self._channel.close()
        if process is None:
            if self._theirs is not None:
                self._theirs.close()
            return "it was never started"
        try:
            status = await asyncio.to_thread(process.wait, _END if self.leaving else _SUDDEN_END)
        except subprocess.TimeoutExpired:
            process.kill()
            status = await asyncio.to_thread(process.wait)
        return signal.Signals(-status).name if status < 0 else f"exit status {status}"
