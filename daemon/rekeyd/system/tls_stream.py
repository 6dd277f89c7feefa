"""TLS whose two directions end one at a time, over a plain TCP transport.

asyncio's own TLS transport can't half-close: it has no `write_eof`, and the peer's close_notify closes all.
Between peers one side may have said all and still want to hear the rest, so here OpenSSL is driven in memory.

The rules: each direction ends with a close_notify of its own (RFC 8446, 6.1), after which the other goes on;
a connection that ends without one was cut off, which is an error and never an end. What was received is
decrypted at once and never kept: who can't take more stops the reading. What can't be sent waits in the
transport below, whose marks are passed on. Where a handshake fails the other end gets the alert.

Everything here belongs to one event loop's thread, so that one buffer is enough for all that is received.
Must not know: what is spoken inside.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable
from typing import Any, cast

from rekeyd.system.shown import ShownObject

CHUNK = 128 * 1024
"""Bytes that are received, decrypted and passed on at once."""
_RECORD = 16 * 1024  # what one record holds (RFC 8446, 5.1)
NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a name is tried, beside one that does not answer (RFC 8305, 5)."""
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
received = memoryview(bytearray(CHUNK))
"""Where every connection of this thread receives: it is used up before the next one does."""

Factory = Callable[[], asyncio.Protocol]


class HandshakeFailedError(OSError):
    """There is no connection. `cause` says why; `shown` is the other end's certificate (DER), unverified."""

    def __init__(self, cause: Exception, shown: bytes | None) -> None:
        super().__init__(str(cause))
        self.cause = cause
        self.shown = shown


class Session:
    """One end of a TLS connection, sans I/O: bytes in, bytes out."""

    def __init__(
        self, context: ssl.SSLContext, *, server_side: bool, server_hostname: str | None = None
    ) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self._incoming, self._outgoing, server_side=server_side, server_hostname=server_hostname
        )
        self.established = False
        self.ended = False
        """The other end has said all: its close_notify came."""
        self.finished = False
        """We have: ours is among the bytes to send."""

    def start(self) -> None:
        """Begin the handshake. Raises `ssl.SSLError`."""
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        self.established = True
        if isinstance(self.tls, ShownObject):
            self.tls.forget()

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """What the other end said, decrypted; nothing more once it has ended (RFC 8446, 6.1).

        Raises `ssl.SSLError`, also for its alerts.
        """
        if self.ended:
            return []
        self._incoming.write(data)
        if not self.established:
            self.start()
        return self._decrypted() if self.established else []

    def _decrypted(self) -> list[bytes]:
        pieces = []
        try:
            while piece := self.tls.read(_RECORD):
                pieces.append(piece)
            self.ended = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLZeroReturnError:  # what OpenSSL says instead once both have ended
            self.ended = True
        return pieces

    def send(self, data: bytes | memoryview) -> None:
        """Encrypt; before the handshake is over there is nothing to encrypt with. Raises `ssl.SSLError`."""
        if data:
            self.tls.write(data)

    def finish(self) -> None:
        """Say that this was all. All that came was decrypted, so OpenSSL has nothing to stumble over while
        it looks for the other's close_notify."""
        if not self.finished:
            self.finished = True
            # What it wants to read is the other end's, which may come whenever that is ready.
            with contextlib.suppress(ssl.SSLWantReadError, ssl.SSLZeroReturnError):
                self.tls.unwrap()

    def pending(self) -> bytes:
        """What is to be sent, once."""
        return self._outgoing.read()


class TlsConnection(asyncio.BufferedProtocol):
    """The protocol of the plain transport below; the one inside is made when the handshake is over."""

    def __init__(self, session: Session, factory: Factory) -> None:
        self.session = session
        self._factory = factory
        self._inside: asyncio.Protocol | None = None
        self._error: Exception | None = None
        self.ready: asyncio.Future[asyncio.Protocol] = asyncio.get_running_loop().create_future()
        self.raw: asyncio.Transport

    # What the transport below calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.raw = cast(asyncio.Transport, transport)
        self._advance(b"")

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - asyncio's signature
        return received

    def buffer_updated(self, nbytes: int) -> None:
        self._advance(received[:nbytes])

    def eof_received(self) -> bool:
        """A FIN. After a close_notify it says nothing new; without one it cuts off what was being said."""
        if not self.session.ended:
            self._fail(ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "it ended without a close_notify"))
        return True

    def pause_writing(self) -> None:
        if self._inside is not None:
            self._inside.pause_writing()

    def resume_writing(self) -> None:
        if self._inside is not None:
            self._inside.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        error = self._error or exc
        if self._inside is not None:
            self._inside.connection_lost(error)
        elif not self.ready.done():
            self.ready.set_exception(self._failed(error or ConnectionResetError("it was closed")))

    # What the protocol inside asks for, by its transport.

    def send(self, data: bytes | memoryview) -> None:
        if not (self.raw.is_closing() or self.session.finished):
            self.session.send(data)
            self._flush()

    def finish(self) -> None:
        """Close our direction; the other goes on."""
        if not (self.raw.is_closing() or self.session.finished):
            self.session.finish()
            self._flush()
            with contextlib.suppress(OSError):  # it was reset, and that is about to be told
                self.raw.write_eof()

    def close(self) -> None:
        """Send what is left, say that it was all, and hear nothing more."""
        self.finish()
        self.raw.close()

    def abort(self) -> None:
        """Break off, so that the other end can tell: RST, no close_notify."""
        reset(self.raw)

    # The pump.

    def _advance(self, data: bytes | memoryview) -> None:
        before = self.session.established
        try:
            pieces = self.session.receive(data)
        except ssl.SSLError as error:
            self._fail(error)
            return
        self._flush()
        if self.session.established and not before:
            self._begin()
        if self._inside is not None:
            self._pass_on(self._inside, pieces)

    def _begin(self) -> None:
        self._inside = self._factory()
        self._inside.connection_made(TlsTransport(self))
        if not self.ready.done():
            self.ready.set_result(self._inside)

    def _pass_on(self, inside: asyncio.Protocol, pieces: list[bytes]) -> None:
        if pieces and not self.raw.is_closing():
            inside.data_received(pieces[0] if len(pieces) == 1 else b"".join(pieces))
        if self.session.ended and not self.raw.is_closing() and not inside.eof_received():
            self.close()

    def _flush(self) -> None:
        if pending := self.session.pending():
            self.raw.write(pending)

    def _fail(self, error: Exception) -> None:
        """During a handshake the alert is sent before the end; afterwards all is broken off."""
        self._error = error
        if self._inside is not None:
            self.abort()
            return
        if not self.ready.done():
            self.ready.set_exception(self._failed(error))
        self._flush()
        self.raw.close()

    def _failed(self, error: Exception) -> HandshakeFailedError:
        tls = self.session.tls
        return HandshakeFailedError(error, tls.shown if isinstance(tls, ShownObject) else None)


class TlsTransport(asyncio.Transport):
    """What the protocol inside writes to. `write_eof` closes one direction, as over TCP."""

    def __init__(self, connection: TlsConnection) -> None:
        super().__init__()
        self._connection = connection

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        if name == "ssl_object":
            return self._connection.session.tls
        return self._connection.raw.get_extra_info(name, default)

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypted before this returns: the bytes may be used again."""
        self._connection.send(data if isinstance(data, bytes) else memoryview(data))

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


async def accept(
    factory: Factory, sock: socket.socket, context: ssl.SSLContext, within: float
) -> asyncio.Protocol:
    """Shake hands with who came in on `sock`; what `factory` then makes. `within` is in seconds.

    Raises:
        HandshakeFailedError: it fails.
        TimeoutError: it takes longer.
    """
    loop = asyncio.get_running_loop()
    connection = TlsConnection(Session(context, server_side=True), factory)
    return await _established(connection, loop.connect_accepted_socket(lambda: connection, sock), within)


async def connect(
    factory: Factory,
    host: str,
    port: int,
    context: ssl.SSLContext,
    *,
    within: float,
    server_name: str | None = None,
) -> asyncio.Protocol:
    """Connect and shake hands; what `factory` then makes. `within` is in seconds.

    Raises:
        HandshakeFailedError: the handshake fails.
        TimeoutError: all of it takes longer.
        OSError: nobody answers there.
    """
    loop = asyncio.get_running_loop()
    session = Session(context, server_side=False, server_hostname=server_name)
    connection = TlsConnection(session, factory)
    opening = loop.create_connection(lambda: connection, host, port, happy_eyeballs_delay=NEXT_ADDRESS)
    return await _established(connection, opening, within)


async def _established(
    connection: TlsConnection, opening: Awaitable[object], within: float
) -> asyncio.Protocol:
    try:
        async with asyncio.timeout(within):
            await opening
            return await connection.ready
    except BaseException:
        if hasattr(connection, "raw") and not connection.raw.is_closing():
            connection.raw.abort()
        if not connection.ready.cancel() and not connection.ready.cancelled():
            connection.ready.exception()  # looked at, or asyncio would tell of it
        raise


def reset(transport: asyncio.Transport) -> None:
    """Break a connection off so that the other end sees no end but an error: over TCP by RST. A unix socket
    has nothing of the kind."""
    sock = transport.get_extra_info("socket")
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    transport.abort()
