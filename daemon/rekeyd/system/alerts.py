"""TLS contexts whose failed handshakes tell the client why.

asyncio closes a connection whose handshake failed without sending what OpenSSL wrote last, which is the alert
(RFC 8446, 6.2): clients then see a bare end of file. So the alert is sent here, at the moment of the failure,
on the socket that whoever accepted it has left in `ACCEPTED`. Event loops that don't carry context variables
into their callbacks send none.

Must not know: why a handshake fails.
"""

import contextlib
import socket
import ssl
from contextvars import ContextVar
from typing import Any

from rekeyd.system.error_queue import TidyObject

ACCEPTED: ContextVar[socket.socket | None] = ContextVar("ACCEPTED", default=None)
"""The socket of the handshake that is about to begin."""


class _Handshake(TidyObject):
    outgoing: ssl.MemoryBIO | None = None
    accepted: socket.socket | None = None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError:
            self._send_alert()
            raise

    def _send_alert(self) -> None:
        if self.outgoing is None or self.accepted is None:
            return
        with contextlib.suppress(OSError):  # the client may be gone, or not reading
            self.accepted.send(self.outgoing.read(), socket.MSG_DONTWAIT)


class AlertingContext(ssl.SSLContext):
    """A server's context."""

    sslobject_class = _Handshake

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *rest: Any, **named: Any
    ) -> ssl.SSLObject:
        wrapped = super().wrap_bio(incoming, outgoing, *rest, **named)
        if isinstance(wrapped, _Handshake):
            wrapped.outgoing, wrapped.accepted = outgoing, ACCEPTED.get()
        return wrapped
