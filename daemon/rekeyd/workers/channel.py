"""What the supervisor and a worker say to each other: messages over a pair of unix sockets.

The rules: a message is one datagram that comes whole and in order, or the channel has ended; it is JSON, so
that neither side can make the other run anything; what is larger than `INLINE` lies in a sealed memfd that
comes along, and so may one descriptor, which is left out where the receiver has room for none. What is asked
is answered, once, by number. Nobody waits for a peer that does not read: what can't be sent yet is kept, in
its order, up to `KEPT` messages; more than that is taken for the end. So who has much to say that nobody
asked for waits for `all_sent`. When the channel ends, whoever waits for an answer is told
(`ChannelEndedError`).

Must not know: what is said.
"""

import asyncio
import contextlib
import json
import os
import socket
from array import array
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Any

import orjson

from rekeyd.errors import RekeydError
from rekeyd.system.sealed_memory import SealError, sealed, unsealed

INLINE = 32 * 1024
"""Bytes of a message that go with the datagram; the kernel takes about 200 KB at once."""
LARGEST = 256 << 20
"""Bytes of one that comes in a memfd: the use of 131,072 keys is a tenth of it."""
KEPT = 10_000
_TAKEN_AT_ONCE = 16
_ROOM = socket.CMSG_SPACE(2 * 4)
_ANSWER = ""


class ChannelEndedError(RekeydError):
    """The other side is gone, or speaks nonsense."""


@dataclass(frozen=True, slots=True)
class Message:
    """`number` is 0 where no answer is wanted. A `descriptor` is the receiver's, to be closed."""

    kind: str
    number: int = 0
    body: Any = None
    descriptor: int | None = None


class Channel:
    """One end. `heard` is called with each message that is no answer, `ended` once, at the end."""

    def __init__(
        self, end: socket.socket, *, heard: Callable[[Message], None], ended: Callable[[], None]
    ) -> None:
        self._end = end
        self._heard = heard
        self._ended = ended
        self._numbers = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._kept: deque[tuple[bytes, list[int]]] = deque()
        self._open = True
        self._none_kept = asyncio.Event()
        self._none_kept.set()
        self._loop = asyncio.get_running_loop()
        end.setblocking(False)
        self._loop.add_reader(end.fileno(), self._take)

    def tell(self, kind: str, body: Any = None) -> None:
        """Say something to which there is no answer. Never blocks. Raises OSError: there is no memory."""
        self._send(kind, 0, body)

    def answer(self, message: Message, body: Any = None) -> None:
        self._send(_ANSWER, message.number, body)

    async def all_sent(self) -> None:
        """Wait until nothing is kept: the other side has taken it, or there is none."""
        await self._none_kept.wait()

    async def ask(self, kind: str, body: Any = None, *, within: float, descriptor: int | None = None) -> Any:
        """Ask, and have the answer. `descriptor` stays the caller's. `within` is in seconds.

        Raises:
            ChannelEndedError: there will be none.
            TimeoutError: not yet.
            OSError: there is no memory or descriptor left to ask with.
        """
        number = next(self._numbers)
        answer = self._asked[number] = self._loop.create_future()
        try:
            self._send(kind, number, body, descriptor)
            async with asyncio.timeout(within):
                return await answer
        finally:
            del self._asked[number]

    def close(self) -> None:
        """End it, without a word to `ended`."""
        if not self._open:
            return
        self._open = False
        self._loop.remove_reader(self._end.fileno())
        self._loop.remove_writer(self._end.fileno())
        self._end.close()
        while self._kept:
            _close_all(self._kept.popleft()[1])
        self._none_kept.set()
        for answer in self._asked.values():
            if not answer.done():
                answer.set_exception(ChannelEndedError("the other process is gone"))
                answer.exception()  # who asked may have given up

    # Sending.

    def _send(self, kind: str, number: int, body: Any, descriptor: int | None = None) -> None:
        if not self._open:
            self._fail_later(number)
            return
        self._kept.append(_packed([kind, number, body], descriptor))
        if len(self._kept) == 1:
            self._flush()
        elif len(self._kept) > KEPT:
            self._lost()

    def _fail_later(self, number: int) -> None:
        answer = self._asked.get(number)
        if answer is not None:
            answer.set_exception(ChannelEndedError("the other process is gone"))

    def _flush(self) -> None:
        while self._kept:
            data, descriptors = self._kept[0]
            try:
                socket.send_fds(self._end, [data], descriptors)
            except BlockingIOError:
                self._none_kept.clear()
                self._loop.add_writer(self._end.fileno(), self._flush)
                return
            except OSError:
                self._lost()
                return
            self._kept.popleft()
            _close_all(descriptors)
        self._none_kept.set()
        self._loop.remove_writer(self._end.fileno())

    # Receiving.

    def _take(self) -> None:
        for _ in range(_TAKEN_AT_ONCE):
            try:
                data, control, flags, _ = self._end.recvmsg(INLINE + 4096, _ROOM, socket.MSG_CMSG_CLOEXEC)
            except BlockingIOError:
                return
            except OSError:
                self._lost()
                return
            descriptors = _descriptors_in(control)
            if not data or flags & socket.MSG_TRUNC:
                _close_all(descriptors)
                self._lost()
                return
            self._understand(data, descriptors)
            if not self._open:
                return

    def _understand(self, data: bytes, descriptors: list[int]) -> None:
        try:
            if data == b"*":
                aside = descriptors.pop(0)
                try:
                    data = unsealed(aside, LARGEST)
                finally:
                    os.close(aside)
            kind, number, body = _from_json(data)
            message = Message(str(kind), int(number), body, descriptors.pop(0) if descriptors else None)
        except (ValueError, TypeError, IndexError, RecursionError, SealError):
            _close_all(descriptors)
            self._lost()
            return
        _close_all(descriptors)
        if message.kind == _ANSWER:
            self._answered(message)
        else:
            self._heard(message)

    def _answered(self, message: Message) -> None:
        if message.descriptor is not None:
            os.close(message.descriptor)
        answer = self._asked.get(message.number)
        if answer is not None and not answer.done():
            answer.set_result(message.body)

    def _lost(self) -> None:
        if self._open:
            self.close()
            self._ended()


def _packed(message: list[Any], descriptor: int | None) -> tuple[bytes, list[int]]:
    """What goes with the datagram, and the descriptors that come along: where there are two, memory first."""
    data = _to_json(message)
    descriptors = [sealed("rekeyd message", [data])] if len(data) > INLINE else []
    if descriptors:
        data = b"*"
    try:
        if descriptor is not None:
            descriptors.append(os.dup(descriptor))
    except OSError:
        _close_all(descriptors)
        raise
    return data, descriptors


def _to_json(value: Any) -> bytes:
    """Also of text that is no UTF-8, as the names of files may be (lone surrogates), which orjson refuses."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value).encode("ascii")


def _from_json(data: bytes) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)


def _descriptors_in(control: list[tuple[int, int, bytes]]) -> list[int]:
    found = array("i")
    for level, kind, data in control:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            found.frombytes(data[: len(data) - len(data) % found.itemsize])
    return found.tolist()


def _close_all(descriptors: list[int]) -> None:
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    descriptors.clear()
