"""One end of a TLS connection in memory: bytes in, bytes out, and each direction ends by itself.

Must not know: sockets, the event loop, or what is spoken inside.
"""

import contextlib
import ssl

from rekeyd.system.shown import ShownObject

_RECORD = 16 * 1024  # what one record holds (RFC 8446, 5.1)


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

    def keep(self, data: bytes | memoryview) -> None:
        """Keep what the other end said for the next `receive`."""
        self._incoming.write(data)

    def receive(self, data: bytes | memoryview) -> list[bytes]:
        """What the other end said, decrypted; nothing more once it has ended (RFC 8446, 6.1).

        Raises `ssl.SSLError`, also for its alerts.
        """
        if self.ended:
            return []
        self.keep(data)
        if not self.established:
            self.start()
        return self._decrypted() if self.established else []

    def _decrypted(self) -> list[bytes]:
        pieces = []
        try:
            # OpenSSL reads no more than a record ahead: asked once more it would only raise.
            while self._incoming.pending or self.tls.pending():
                if not (piece := self.tls.read(_RECORD)):
                    self.ended = True
                    break
                pieces.append(piece)
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
