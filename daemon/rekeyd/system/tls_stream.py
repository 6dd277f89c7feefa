"""TLS whose two directions end one at a time, over a plain TCP transport.

asyncio's own TLS transport can't half-close (it has no `write_eof`, and the peer's close_notify closes all),
closes a connection whose handshake failed without the alert that says why, and holds 256 KiB for each
connection, also for one that is idle. So here OpenSSL is driven in memory.

The rules: each direction ends with a close_notify of its own (RFC 8446, 6.1), after which the other goes on;
a connection that ends without one was cut off, which is an error and never an end, unless what is spoken
inside is `framed`. What was received is decrypted at once and never kept: who can't take more stops the
reading. What can't be sent waits in the transport below, whose marks are passed on. Where a handshake fails
the other end gets the alert.

Everything here belongs to one event loop's thread, so that one buffer is enough for all that is received.
Must not know: what is spoken inside.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Callable
from typing import Any, cast

from rekeyd.system.dialing import dial
from rekeyd.system.shown import ShownObject
from rekeyd.system.tls_session import Session

CHUNK = 128 * 1024
"""Bytes that are received, decrypted and passed on at once."""
FIRST = 8 * 1024
"""The same before the handshake is over: twice that may wait for its turn, in thousands of connections."""
CLOSE_TIMEOUT = 2.0
"""Seconds to take what is left when a connection is closed that is `framed`."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
received = memoryview(bytearray(CHUNK))
"""Where every connection of this thread receives: it is used up before the next one does."""
_first = received[:FIRST]

Factory = Callable[[], asyncio.Protocol]
Done = Callable[[Exception | None], None]


class HandshakeFailedError(OSError):
    """There is no connection. `cause` says why; `shown` is the other end's certificate (DER), unverified."""

    def __init__(self, cause: Exception, shown: bytes | None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.shown = shown


class TlsConnection(asyncio.BufferedProtocol):
    """The protocol of the plain transport below; the one inside is made when the handshake is over.

    `done` is told once how the handshake ended: None, or what went wrong. Each step of it is handed to
    `queue`, which does it now or soon. `framed`: what is spoken inside says itself where it ends, so that an
    end without a close_notify, which is how many clients of HTTP leave, is one; and who takes nothing has
    `CLOSE_TIMEOUT` for what is left.
    """

    __slots__ = (
        "_broken",
        "_done",
        "_ended_below",
        "_error",
        "_factory",
        "_held",
        "_inside",
        "_queue",
        "_queued",
        "framed",
        "raw",
        "session",
        "transport",
    )

    def __init__(
        self,
        session: Session,
        factory: Factory,
        done: Done,
        *,
        framed: bool = False,
        queue: Callable[[Callable[[], None]], None] = lambda step: step(),
    ) -> None:
        self.session = session
        self.framed = framed
        self._factory = factory
        self._done: Done | None = done
        self._queue = queue
        self._queued = False
        self._held = False
        self._ended_below = False
        self._inside: asyncio.Protocol | None = None
        self.transport: TlsTransport | None = None
        """That of the protocol inside, while there is one."""
        self._broken = False
        self._error: Exception | None = None
        self.raw: asyncio.Transport

    # What the transport below calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = cast(asyncio.Transport, transport)
        if not self.session.server_side:
            self._say(self.session.start)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return received if self.session.established else _first

    def buffer_updated(self, nbytes: int) -> None:
        session, inside = self.session, self._inside
        if inside is None:
            self._wait_for_turn(nbytes)
            return
        try:
            pieces = session.receive(received[:nbytes])
        except ssl.SSLError as error:
            self._fail(error)
            return
        if session.outgoing.pending:
            self._flush()
        if self._broken:
            return
        if len(pieces) == 1 and not session.ended:
            inside.data_received(pieces[0])
        else:
            self._pass_on(inside, pieces)

    def _wait_for_turn(self, nbytes: int) -> None:
        """What comes belongs to the handshake."""
        self.session.keep(received[:nbytes])
        if self._queued:
            self._held = True
            self.raw.pause_reading()  # it has said more than a handshake needs
        else:
            self._queued = True
            self._queue(self._step)

    def _step(self) -> None:
        self._queued = False
        if self.raw.is_closing():
            return
        if self._held:
            self._held = False
            self.raw.resume_reading()
        try:
            self._advance()
        except BaseException:
            self.raw.abort()  # what is inside failed to begin: nobody else would end it
            raise
        if self._ended_below:
            self.eof_received()

    def eof_received(self) -> bool:
        """A FIN. After a close_notify it says nothing new; without one it cuts off what was being said."""
        if self._queued:
            self._ended_below = True  # what was said before comes first
        elif self.framed and self._inside is not None and not self.session.ended:
            self.session.ended = True
            self._pass_on(self._inside, [])
        elif not self.session.ended:
            self._fail(ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "it ended without a close_notify"))
        return True

    def pause_writing(self) -> None:
        if self._inside is not None:
            self._inside.pause_writing()

    def resume_writing(self) -> None:
        if self._inside is not None:
            self._inside.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        self._broken, self.transport = True, None  # the ring is open, so that all of it is freed at once
        error = self._error or exc
        if self._inside is not None:
            self._inside.connection_lost(error)
            self._tell(None)
        else:
            self._tell(self._failed(error or ConnectionResetError("it was closed")))

    # What the protocol inside asks for, by its transport.

    def follow(self, protocol: asyncio.Protocol) -> None:
        """From now on `protocol` is the one inside."""
        self._inside = protocol

    @property
    def inside(self) -> asyncio.Protocol | None:
        return self._inside

    def send(self, data: bytes | bytearray | memoryview) -> None:
        session = self.session
        if self._broken or session.finished or not data:
            return
        try:
            session.tls.write(data)
        except ssl.SSLError as error:
            self._fail(error)
            return
        self.raw.write(session.outgoing.read())

    def finish(self) -> None:
        """Close our direction; the other goes on."""
        if not (self.raw.is_closing() or self.session.finished) and self._say(self.session.finish):
            with contextlib.suppress(OSError):  # it was reset, and that is about to be told
                self.raw.write_eof()

    def close(self) -> None:
        """Send what is left, say that it was all, and hear nothing more."""
        if self.raw.is_closing() or not self._say(self.session.finish):
            return
        self.raw.close()
        if self.framed and self.raw.get_write_buffer_size():
            asyncio.get_running_loop().call_later(CLOSE_TIMEOUT, self.raw.abort)

    def abort(self) -> None:
        """Break off, so that the other end can tell: RST, no close_notify."""
        self._broken = True
        reset(self.raw)

    # The pump.

    def _advance(self) -> None:
        """A step of the handshake; what the other end says right behind it may have come with it."""
        try:
            pieces = self.session.receive(b"")
        except ssl.SSLError as error:
            self._fail(error)
            return
        # Tickets, too: they carry the TCP acknowledgement that a client waits for, by Nagle's rule, to ask.
        self._flush()
        if self.session.established and self._inside is None:
            self._begin()
        if self._inside is not None:
            self._pass_on(self._inside, pieces)

    def _begin(self) -> None:
        self._inside = self._factory()
        self.transport = TlsTransport(self)
        self._inside.connection_made(self.transport)
        self._tell(None)

    def _tell(self, error: Exception | None) -> None:
        done, self._done = self._done, None
        if done is not None:
            done(error)

    def give_up(self, error: Exception) -> None:
        """The handshake has taken too long, or nobody waits for it any more."""
        if self._done is not None:
            self._tell(error)
            self.raw.abort()

    def _pass_on(self, inside: asyncio.Protocol, pieces: list[bytes]) -> None:
        if self._broken or self.raw.is_closing():
            return
        if pieces:
            inside.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
            if self.raw.is_closing():
                return
        if self.session.ended and not inside.eof_received():
            self.close()

    def _say(self, what: Callable[[], None]) -> bool:
        """Whether it could be said; else all is broken off, and who is inside hears of it."""
        try:
            what()
        except ssl.SSLError as error:
            self._fail(error)
            return False
        self._flush()
        return True

    def _flush(self) -> None:
        if pending := self.session.outgoing.read():
            self.raw.write(pending)

    def _fail(self, error: Exception) -> None:
        """During a handshake the alert is sent before the end; afterwards all is broken off."""
        self._error = error
        if self._inside is not None:
            self.abort()
            return
        self._tell(self._failed(error))
        self._flush()
        self.raw.close()

    def _failed(self, error: Exception) -> HandshakeFailedError:
        tls = self.session.tls
        return HandshakeFailedError(error, tls.shown if isinstance(tls, ShownObject) else None)


class TlsTransport(asyncio.Transport):
    """What the protocol inside writes to. `write_eof` closes one direction, as over TCP."""

    __slots__ = ("_connection",)

    def __init__(self, connection: TlsConnection) -> None:
        self._connection = connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._connection.session.tls
        return self._connection.raw.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._connection.follow(cast(asyncio.Protocol, protocol))

    def get_protocol(self) -> asyncio.BaseProtocol:
        return cast(asyncio.BaseProtocol, self._connection.inside)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypted before this returns: the bytes may be used again."""
        self._connection.send(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self._connection.finish()

    def close(self) -> None:
        self._connection.close()

    def abort(self) -> None:
        self._connection.abort()

    def is_closing(self) -> bool:
        return self._connection.raw.is_closing()

    def pause_reading(self) -> None:
        self._connection.raw.pause_reading()

    def resume_reading(self) -> None:
        self._connection.raw.resume_reading()

    def is_reading(self) -> bool:
        return self._connection.raw.is_reading()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self._connection.raw.set_write_buffer_limits(high, low)

    def get_write_buffer_size(self) -> int:
        return self._connection.raw.get_write_buffer_size()


async def connect(
    factory: Factory,
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    within: float | None,
    server_name: str | None = None,
) -> tuple[asyncio.Transport, asyncio.Protocol]:
    """Connect and shake hands; what `factory` then makes, and its transport. `within` is in seconds.

    Raises:
        HandshakeFailedError: the handshake fails.
        TimeoutError: all of it takes longer.
        OSError: nobody answers there.
    """
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def done(error: Exception | None) -> None:
        if not ready.done():
            ready.set_exception(error) if error is not None else ready.set_result(None)

    session = Session(context, server_side=False, server_hostname=server_name)
    connection = TlsConnection(session, factory, done)
    try:
        async with asyncio.timeout(within):
            await dial(lambda: connection, host, port)
            await ready
    except BaseException:
        if hasattr(connection, "raw") and not connection.raw.is_closing():
            connection.raw.abort()
        if not ready.cancel() and not ready.cancelled():
            ready.exception()  # looked at, or asyncio would tell of it
        raise
    return cast(tuple[asyncio.Transport, asyncio.Protocol], (connection.transport, connection.inside))


def reset(transport: asyncio.Transport) -> None:
    """Break a connection off so that the other end sees no end but an error: over TCP by RST. A unix socket
    has nothing of the kind."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError, ValueError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
