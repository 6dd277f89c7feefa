"""A transport over a socket that is connected already, at work from the moment it is made.

asyncio's way to one (`connect_accepted_socket`) takes a task, a future and four turns of the event loop: much
beside what OpenSSL takes for a handshake. The rules are asyncio's: what the kernel does not take is kept and
sent when it can be, the protocol is told when too much waits, `close` sends what is left first, and
`connection_lost` is called once, never from within another call.

Must not know: what is sent.
"""

import asyncio
import socket
from typing import Any

_HIGH = 64 * 1024
_NOBODY = asyncio.BufferedProtocol()


class SocketTransport(asyncio.Transport):
    """For a protocol that lends a buffer to receive into. `sock` is non-blocking, and the transport's now.

    Once the connection is lost it lets go of its protocol: neither waits for the garbage collector then.
    """

    __slots__ = (
        "_closing",
        "_ended",
        "_eof_follows",
        "_fd",
        "_high",
        "_loop",
        "_low",
        "_peername",
        "_protocol",
        "_reading",
        "_sock",
        "_told_to_pause",
        "_unsent",
    )

    def __init__(self, sock: socket.socket, protocol: asyncio.BufferedProtocol, peername: Any) -> None:
        self._loop = asyncio.get_running_loop()
        self._sock = sock
        self._fd = sock.fileno()
        self._protocol = protocol
        self._peername = peername
        self._unsent = bytearray()
        self._high, self._low = _HIGH, _HIGH // 4
        self._told_to_pause = False
        self._reading = True
        self._eof_follows = False
        self._closing = False
        self._ended = False
        protocol.connection_made(self)
        if not self._closing:
            self._loop.add_reader(self._fd, self._readable)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        match name:
            case "socket":
                return self._sock
            case "peername":
                return self._peername
            case "sockname":
                return self._sock.getsockname()
            case _:
                return default

    # Receiving.

    def is_reading(self) -> bool:
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        if self._reading and not self._closing:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        if not (self._reading or self._closing):
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        try:
            count = self._sock.recv_into(self._protocol.get_buffer(-1))
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        try:
            if count:
                self._protocol.buffer_updated(count)
            else:
                self._hear_the_end()
        except Exception as error:  # noqa: BLE001 - one connection's trouble is not to be the loop's
            self._loop.call_exception_handler(
                {"message": "a protocol failed", "exception": error, "transport": self}
            )
            self._end(error)

    def _hear_the_end(self) -> None:
        self.pause_reading()
        if not self._protocol.eof_received():
            self.close()

    # Sending.

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Sent before this returns, or copied: the bytes may be used again."""
        if self._closing or self._eof_follows:
            return
        if not self._unsent:
            try:
                sent = self._sock.send(data)
            except (BlockingIOError, InterruptedError):
                sent = 0
            except OSError as error:
                self._end(error)
                return
            if sent == len(data):
                return
            data = memoryview(data)[sent:]
            self._loop.add_writer(self._fd, self._writable)
        self._unsent += data
        if len(self._unsent) > self._high and not self._told_to_pause:
            self._told_to_pause = True
            self._protocol.pause_writing()

    def _writable(self) -> None:
        try:
            del self._unsent[: self._sock.send(self._unsent)]
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._end(error)
            return
        if self._told_to_pause and len(self._unsent) <= self._low:
            self._told_to_pause = False
            self._protocol.resume_writing()
        if not self._unsent:
            self._loop.remove_writer(self._fd)
            if self._eof_follows:
                self._shut_down()
            if self._closing:
                self._end(None)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        """Raises OSError where the connection is gone."""
        if not (self._eof_follows or self._closing):
            self._eof_follows = True
            if not self._unsent:
                self._sock.shutdown(socket.SHUT_WR)

    def _shut_down(self) -> None:
        try:
            self._sock.shutdown(socket.SHUT_WR)
        except OSError as error:
            self._end(error)

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        """As asyncio's: `low` is a quarter of `high` unless it is given."""
        self._high = high if high is not None else (4 * low if low is not None else _HIGH)
        self._low = low if low is not None else self._high // 4
        if len(self._unsent) > self._high and not self._told_to_pause:
            self._told_to_pause = True
            self._protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return len(self._unsent)

    # The end.

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        """Receive no more; end when all is sent."""
        if not self._closing:
            self.pause_reading()
            self._closing = True
            if not self._unsent:
                self._end(None)

    def abort(self) -> None:
        """End now; what waits is dropped."""
        self._end(None)

    def _end(self, error: Exception | None) -> None:
        if self._ended:
            return
        if not self._closing:
            self.pause_reading()
        if self._unsent:
            self._loop.remove_writer(self._fd)
            self._unsent.clear()
        self._closing = self._ended = True
        self._loop.call_soon(self._lost, error)

    def _lost(self, error: Exception | None) -> None:
        try:
            self._protocol.connection_lost(error)
        finally:
            self._sock.close()
            self._protocol = _NOBODY  # each holding the other, both would wait for the garbage collector
