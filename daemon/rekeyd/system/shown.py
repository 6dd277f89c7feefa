"""TLS contexts that remember which certificate the other end showed, also where it was not believed.

OpenSSL forgets a certificate that it does not believe, and who is turned away should be named all the same.
So its messages are listened to (`SSL_CTX_set_msg_callback`, which CPython has had as
`SSLContext._msg_callback` since 3.8) until the handshake is over: then `forget` puts a context in place that
listens to nothing, since a call for each record would cost as much as the encryption. A Python without that
hook names nobody.

What was shown is not verified: it is for the log and for nothing else. Must not know: why a handshake fails.
"""

import ssl
from typing import Any

from rekeyd.system.error_queue import TidyObject

_READ, _HANDSHAKE, _CERTIFICATE = "read", 22, 11
_DEAF = {True: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), False: ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)}


class ShownObject(TidyObject):
    """A connection that knows what was `shown` on it (DER); None where nothing was, yet."""

    shown: bytes | None = None

    def forget(self) -> None:
        """The handshake is over: listen no more."""
        self.context = _DEAF[self.server_side]


class ShowingContext(ssl.SSLContext):
    """A context for either side, for TLS 1.3."""

    sslobject_class = ShownObject

    def __init__(self, *_: Any) -> None:
        if hasattr(self, "_msg_callback"):
            self._msg_callback = _listen


def _listen(conn: object, direction: str, _version: int, content: int, message: int, data: bytes) -> None:
    told = direction == _READ and content == _HANDSHAKE and message == _CERTIFICATE
    if told and isinstance(conn, ShownObject):
        conn.shown = first_certificate(data)


def first_certificate(message: bytes) -> bytes | None:
    """The first entry of a Certificate message of TLS 1.3, with its header (RFC 8446, 4.4.2)."""
    context_length = message[4] if len(message) > 4 else 0  # noqa: PLR2004 - type 1, length 3, then this byte
    at = 5 + context_length + 3
    end = at + 3 + int.from_bytes(message[at : at + 3], "big")
    found = message[at + 3 : end]
    return found if found and end <= len(message) else None
