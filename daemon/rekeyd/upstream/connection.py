"""One connection to the upstream, carrying one exchange at a time.

The rules: what arrives while no exchange runs makes the connection unusable (it would be the next client's
answer). A body that ends with the connection is whole only if the connection ended in order, over TLS with
close_notify (RFC 9112, 9.8). Reading stops while more than `HIGH_WATER` bytes wait for a slow client.
`read_timeout` runs between two signs of life of the upstream, and only while the upstream is the one that is
waited for.

Must not know: which request this is, where the connection leads.
"""

import asyncio
import select
import socket
import ssl
from typing import NamedTuple, Protocol, cast

from rekeyd.http1.response import BadResponseError, LastHead, ResponseHead, ResponseReader
from rekeyd.system.deadline import Deadline

HIGH_WATER = 64 * 1024
"""Bytes that may wait on either side of a connection."""
NOT_SENT = 128 * 1024
"""Bytes that the kernel may hold unsent. Without a bound it takes megabytes at a time, and a slow upstream
that reads all the while would seem to take nothing for minutes."""


class UpstreamError(Exception):
    """The upstream can't be reached or broke off. `cause` is a short word for logs and metrics."""

    def __init__(self, cause: str, message: str) -> None:
        super().__init__(message)
        self.cause = cause


class UpstreamTimeoutError(UpstreamError):
    """The upstream was too slow."""


class UpstreamStaleError(UpstreamError):
    """A kept-alive connection was closed by the upstream before the answer to this request began."""


class Hears(Protocol):
    """Who is told what happens to an exchange, where nobody waits for it."""

    def news(self) -> None:
        """There is more of the answer in `reader`, or an `error` ended it."""

    def room_again(self) -> None:
        """The upstream takes more of the body."""


class Homeward(NamedTuple):
    """`head`, as it goes to a client for an `answer`; `chunked`: so goes its body, which came otherwise."""

    answer: ResponseHead
    cors: bool
    head: bytes
    chunked: bool


class UpstreamConnection(asyncio.Protocol):
    """Lent by a pool for one exchange at a time: `begin`, and then either `head` and `piece`* are awaited, or
    whoever `hears` is told and looks at `reader` and `error`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self.reader: ResponseReader | None = None
        self.error: UpstreamError | None = None
        self._hears: Hears | None = None
        self._last_head = LastHead()
        self.homeward: Homeward | None = None
        """How a head last went to a client whose connection stays: for the next one that is the same."""
        self._poll: select.poll | None = None
        self._wake: asyncio.Future[None] | None = None
        self._writable: asyncio.Future[None] | None = None
        self._waiting_bytes = 0
        self._reading = True
        self._read_timeout = 0.0
        self._silence = Deadline(loop, self._due, self._too_late)
        self._full = False
        self._request_sent = False
        self._last_sign = 0.0
        self._upstream_owes = False
        self._used_before = False
        self._heard = False
        self._spoilt = False
        self.idle_since = loop.time()

    # For the pool.

    def is_usable(self, idle_for: float) -> bool:
        """Open, idle for no longer than that (seconds), and with nothing to read: neither its end nor bytes
        that nobody asked for."""
        if self._spoilt or self._transport is None or self._loop.time() - self.idle_since > idle_for:
            return False
        if self._poll is None:
            self._poll = select.poll()
            self._poll.register(self._transport.get_extra_info("socket").fileno(), select.POLLIN)
        return not self._poll.poll(0)

    def rest(self) -> bool:
        """Whether the exchange that ended, if there was one, left the connection clean; then it waits for the
        next one."""
        reader, transport = self.reader, self._transport
        if self._spoilt or self.error is not None or transport is None or transport.is_closing():
            return False
        if reader is not None and not (reader.complete and reader.keep_alive and not reader.excess):
            return False
        self.reader = None
        self._hears = None
        self._upstream_owes = False
        if not self._reading:
            self._read_on()  # whoever left in the middle of a large answer left it paused
        self._used_before = True
        self.idle_since = self._loop.time()
        return True

    def close(self) -> None:
        """Give up the connection; the upstream sees its request cancelled, if there is one."""
        self._spoilt = True
        self._silence.stop()
        if self._transport is None:
            return
        if self.reader is None and not self._transport.get_write_buffer_size():
            self._transport.close()  # in TLS with close_notify: nobody is to take it for broken
        else:
            self._transport.abort()

    # For an exchange.

    def begin(
        self, head: bytes, method: bytes, *, upgrades: bool, read_timeout: float, hears: Hears | None = None
    ) -> None:
        """Send a request's head and expect its answer. `read_timeout` in seconds.

        `hears` is not told of what is known when this returns.
        """
        self.reader = ResponseReader(method, upgrades=upgrades, last_head=self._last_head)
        self._request_sent = False
        self._read_timeout = read_timeout
        self._waiting_bytes = 0
        self._heard = False
        self._upstream_owes = False
        if self._transport is None or self._transport.is_closing():
            self._fail(self._lost("closed the connection"))
        else:
            self._transport.write(head)
        self._hears = hears

    def send(self, data: bytes) -> bool:
        """Send a piece of the body; whether there is room for more. If not, `room_again` will tell."""
        if self.error is None and self._transport is not None:
            self._transport.write(data)
        if self._full:
            self._owe(owes=True)
        return not self._full

    async def write(self, data: bytes) -> None:
        """Send a piece of the body; returns when there is room for more.

        Raises:
            UpstreamError: the connection is gone.
        """
        if self.error is not None:
            raise self.error
        if self._transport is None or self._transport.is_closing():
            raise self._lost("closed the connection")
        self._transport.write(data)
        if self._full:
            self._writable = self._loop.create_future()
            self._owe(owes=True)
            await self._writable
            self._owe(owes=False)

    def request_sent(self) -> None:
        """From now on it is the upstream's turn."""
        self._request_sent = True
        self._owe(owes=True)

    async def head(self) -> ResponseHead:
        """The head of the final answer.

        Raises:
            UpstreamError: there will be none.
        """
        reader = self._current()
        while reader.head is None:
            await self._sign()
        return reader.head

    async def piece(self) -> bytes:
        """Whatever of the body has arrived, at least a byte; empty at its end.

        Raises:
            UpstreamError: the rest will not come.
        """
        reader = self._current()
        while not reader.pieces:
            if reader.complete:
                return b""
            await self._sign()
        return self.taken()

    def taken(self) -> bytes:
        """What has arrived of the body; makes room for more."""
        reader = self.reader
        if reader is None:
            raise RuntimeError("no exchange was begun")
        pieces, reader.pieces = reader.pieces, []
        self._waiting_bytes = 0
        if not self._reading:
            self._read_on()
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def tunnel(self) -> None:
        """The answer was 101: bytes pass both ways now, and silence is no fault."""
        self._read_timeout = 0.0
        self._silence.stop()

    @property
    def has_whole_answer(self) -> bool:
        return self.reader is not None and self.reader.complete

    # What the transport calls back.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        sock = transport.get_extra_info("socket")
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOT_SENT)

    def data_received(self, data: bytes) -> None:
        reader = self.reader
        if reader is None:
            self.close()
            return
        self._heard = True
        self._last_sign = self._loop.time()
        try:
            reader.feed(data)
        except BadResponseError as error:
            self._fail(UpstreamError("protocol", f"the upstream {error}"))
            self.close()
            return
        if reader.pieces:  # else nobody will take anything, which is when reading goes on
            self._waiting_bytes += len(data)
        if self._waiting_bytes > HIGH_WATER and self._reading and self._transport is not None:
            self._reading = False
            self._transport.pause_reading()
        if self._hears is not None:
            self._hears.news()
        else:
            self._notify()

    def eof_received(self) -> bool:
        self._spoilt = True  # over TLS the socket may have nothing to read now, and is closed a moment later
        if self.reader is None:
            return False
        try:
            self.reader.end()
        except BadResponseError as error:
            self._fail(self._lost(str(error)))
        self._notify()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._poll = None
        self._silence.end()
        self._spoilt = True
        if self.reader is not None and not self.reader.complete:
            self._fail(self._lost(_how(exc)))
        self.resume_writing()
        self._notify()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        full, self._full = self._full, False
        if full and self._hears is not None and self.error is None:
            if not self._request_sent:
                self._owe(owes=False)
            self._hears.room_again()
        writable, self._writable = self._writable, None
        if writable is not None and not writable.done():
            if self.error is None:
                writable.set_result(None)
            else:
                writable.set_exception(self.error)

    # Inside.

    def _current(self) -> ResponseReader:
        if self.reader is None:
            raise RuntimeError("no exchange was begun")
        return self.reader

    def _lost(self, how: str) -> UpstreamError:
        kind = UpstreamStaleError if self._used_before and not self._heard else UpstreamError
        return kind("connection", f"the upstream {how}")

    async def _sign(self) -> None:
        """Wait for a sign of life; raise what ended the exchange."""
        if self.error is not None:
            raise self.error
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None
        if self.error is not None and not self._current().pieces:
            raise self.error

    def _notify(self) -> None:
        if self._hears is not None:
            self._hears.news()
        elif self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _fail(self, error: UpstreamError) -> None:
        if self.error is None:
            self.error = error
        self._silence.stop()
        self.resume_writing()
        self._notify()

    def _read_on(self) -> None:
        self._reading = True
        self._last_sign = self._loop.time()
        if self._transport is not None:
            self._transport.resume_reading()

    def _owe(self, *, owes: bool) -> None:
        self._upstream_owes = owes
        self._last_sign = now = self._loop.time()
        if owes and self._read_timeout:
            self._silence.expect(now + self._read_timeout)

    def _due(self) -> float | None:
        """When the silence has lasted too long. One timer outlives exchanges: setting one for each would cost
        more than most of them."""
        if self.reader is None or not self._read_timeout:
            return None
        waits = self._upstream_owes and self._reading
        return (self._last_sign if waits else self._loop.time()) + self._read_timeout

    def _too_late(self) -> None:
        self._fail(UpstreamTimeoutError("timeout", f"the upstream was silent for {self._read_timeout:g} s"))


def _how(error: Exception | None) -> str:
    """In which way a connection ended."""
    if isinstance(error, ssl.SSLEOFError):
        return "closed the connection without close_notify"  # which anybody on the way can make it look like
    return "closed the connection" if error is None else "broke the connection"
