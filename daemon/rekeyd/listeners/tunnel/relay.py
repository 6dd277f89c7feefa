"""Two connections as one: each gets what the other says, at the pace that it can take.

The rules: what one end can't take stops the reading of the other, so that a tunnel holds `HIGH_WATER` and
one piece in each direction and no more. An end of one direction is passed on as such, and the other direction
goes on. Whatever is no such end (a reset, a cut, a stream that breaks off) resets the other side too, after
what was said until then: nobody may take half of something for the whole. A tunnel without a byte for long
ends so as well, and one whose peer is gone without a word is found by TCP keepalive.

Must not know: TLS, who is at an end, or how an end is reached.
"""

import asyncio
import fcntl
import socket
import termios
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, cast

from rekeyd.system.tls_stream import received, reset

HIGH_WATER = 64 * 1024
NOT_SENT = 128 * 1024
"""Bytes that the kernel may hold unsent (tcp(7), TCP_NOTSENT_LOWAT)."""
KEEPALIVE = {socket.TCP_KEEPIDLE: 30, socket.TCP_KEEPINTVL: 10, socket.TCP_KEEPCNT: 3}
"""A silent end is asked after 30 seconds, and given up after as many more."""


class Side(Protocol):
    """Whoever has an end, told what becomes of it."""

    def made(self, end: "End") -> None: ...

    def heard(self, end: "End") -> None: ...

    def ended(self, end: "End") -> None: ...

    def lost(self, end: "End", error: Exception | None) -> None: ...


class End(asyncio.BufferedProtocol, asyncio.Protocol):
    """One of the two connections. `taken` counts the bytes that came in here."""

    turned_away = False
    """For the door: whether this one was let in by nobody."""

    def __init__(self, side: Side) -> None:
        self._side = side
        self.other: End | None = None
        self.transport: asyncio.Transport | None = None
        self.taken = 0
        self.ended = False
        """It has said all."""
        self.lost = False
        self.error: Exception | None = None
        """Why it was lost, unless it was an orderly end."""
        self._held = bytearray()
        self._paused = False
        self._secure = False

    @property
    def certificate(self) -> bytes | None:
        """What the other side of a TLS connection showed, verified; DER."""
        tls = self.transport.get_extra_info("ssl_object") if self.transport is not None else None
        found: bytes | None = tls.getpeercert(binary_form=True) if tls is not None else None
        return found

    @property
    def has_spoken(self) -> bool:
        return bool(self.taken) or self.ended

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=HIGH_WATER)
        self._secure = transport.get_extra_info("ssl_object") is not None
        _keep_alive(transport.get_extra_info("socket"))
        self._side.made(self)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return received

    def buffer_updated(self, nbytes: int) -> None:
        self.data_received(received[:nbytes])

    def data_received(self, data: bytes | memoryview) -> None:
        """`data` may be used again after this returns."""
        self.taken += len(data)
        self._side.heard(self)
        if self.other is not None:
            self.other.give(data)
        else:
            self._held += data
            if len(self._held) >= HIGH_WATER:
                self.pause()

    def eof_received(self) -> bool:
        if not self.ended:
            self.ended = True
            if self.other is not None:
                self.other.finish()
            self._side.ended(self)
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self.lost, self.error = True, exc
        self._side.lost(self, exc)

    def pause_writing(self) -> None:
        if self.other is not None:
            self.other.pause()

    def resume_writing(self) -> None:
        if self.other is not None:
            self.other.resume()

    # What is done to it.

    def join(self, other: "End") -> None:
        """From now on the two are one tunnel; what this one said meanwhile goes first."""
        self.other, other.other = other, self
        self.resume()
        if self._held:
            other.give(self._held)  # which may pause it again
            self._held = bytearray()
        if self.ended:
            other.finish()

    def give(self, data: bytes | bytearray | memoryview) -> None:
        """Send. What isn't encrypted on the spot is copied: a plain transport may keep what it is given."""
        if self.transport is not None and not self.transport.is_closing():
            self.transport.write(data if self._secure else bytes(data))

    def finish(self) -> None:
        """Nothing more comes from the other."""
        if self.transport is not None and not self.transport.is_closing():
            try:
                self.transport.write_eof()
            except OSError:  # it was reset, and that is about to be told
                self.reset()

    def pause(self) -> None:
        if self.transport is not None and not (self._paused or self.ended or self.transport.is_closing()):
            self._paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        if self._paused and self.transport is not None:
            self._paused = False
            if not (self.ended or self.transport.is_closing()):
                self.transport.resume_reading()

    @property
    def has_unsent(self) -> bool:
        """Whether what was given to it has yet to arrive, as far as the kernel knows (tcp(7), SIOCOUTQ)."""
        if self.transport is None or self.transport.is_closing():
            return False
        sock = self.transport.get_extra_info("socket")
        below = bytearray(4)
        fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, below)
        return bool(self.transport.get_write_buffer_size() or any(below))

    def close(self) -> None:
        """Send what is left, and end."""
        if self.transport is not None:
            self.transport.close()

    def reset(self) -> None:
        """End so that the other side can tell it from an end."""
        if self.transport is not None:
            reset(self.transport)


@dataclass(slots=True)
class Idleness:
    """Calls `expired` when nothing was heard for `limit()` seconds (None: it may last)."""

    limit: Callable[[], float | None]
    expired: Callable[[], None]
    _last: float = 0.0
    _timer: asyncio.TimerHandle | None = None

    def begin(self) -> None:
        self.heard()
        self._look_again(self.limit())

    def heard(self) -> None:
        self._last = asyncio.get_running_loop().time()

    def end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def _look(self) -> None:
        limit = self.limit()
        left = None if limit is None else self._last + limit - asyncio.get_running_loop().time()
        if left is not None and left <= 0:
            self.expired()
        else:
            self._look_again(left)

    def _look_again(self, wait: float | None) -> None:
        """A limit that is set later is found within `_LOOKS`."""
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(_LOOKS if wait is None else min(wait, _LOOKS), self._look)


_LOOKS = 30.0


def _keep_alive(sock: socket.socket | None) -> None:
    if sock is None or sock.family == socket.AF_UNIX:
        return
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in KEEPALIVE.items():
        sock.setsockopt(socket.IPPROTO_TCP, option, value)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)
