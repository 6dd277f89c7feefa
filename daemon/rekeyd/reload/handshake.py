"""A handshake in memory: what does this context show to a client?

The rule: the client believes everything and has no certificate of its own; it is there to look, not to judge.
Where client certificates are required its handshake can't succeed, but with TLS 1.3 it is through before the
server objects (RFC 8446, 2). Must not know: which certificate it should be.
"""

import hashlib
import ssl

from rekeyd.errors import RekeydError

_ROUNDS = 10  # a handshake takes three at most


class HandshakeError(RekeydError):
    """The handshake failed; the text is OpenSSL's reason."""


class UnbelievedError(HandshakeError):
    """One side does not believe the other's certificate."""


class Looker:
    """A client that may shake hands again and again.

    With `ciphers` it speaks TLS 1.2 and only those, and so sees only certificates with the kind of key that
    they stand for; without, TLS 1.3 where the server does.
    """

    def __init__(self, ciphers: str | None = None) -> None:
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self._context.check_hostname = False
        self._context.verify_mode = ssl.CERT_NONE
        self._context.set_alpn_protocols(["http/1.1"])
        self._context.set_ciphers(f"{ciphers or 'ALL'}:@SECLEVEL=0")
        if ciphers:
            self._context.maximum_version = ssl.TLSVersion.TLSv1_2

    def fingerprint_shown_by(self, context: ssl.SSLContext, server_name: str | None = None) -> str:
        """SHA-256 of the leaf's DER, lower-case hex, that a client sees which asks for `server_name`.

        Raises:
            HandshakeError: it fails.
        """
        to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        server = context.wrap_bio(to_server, to_client, server_side=True)
        client = self._context.wrap_bio(to_client, to_server, server_hostname=server_name)
        for _ in range(_ROUNDS):
            try:
                if _advance(client):
                    return hashlib.sha256(client.getpeercert(binary_form=True) or b"").hexdigest()
                _advance(server)
            except ssl.SSLError as error:
                raise HandshakeError(error.reason or "no reason given") from error
        raise HandshakeError("it does not end")


def fingerprints_shown_between(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[str, str]:
    """What the server shows to the client and the client to the server: SHA-256 of each leaf's DER.

    Raises:
        UnbelievedError: one of them does not believe the other.
        HandshakeError: it fails for another reason.
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = (
        client.wrap_bio(to_client, to_server),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    try:
        for _ in range(_ROUNDS):
            through = [_advance(side) for side in sides]
            if all(through):
                first, second = (side.getpeercert(binary_form=True) or b"" for side in sides)
                return hashlib.sha256(first).hexdigest(), hashlib.sha256(second).hexdigest()
    except ssl.SSLCertVerificationError as error:
        raise UnbelievedError(error.verify_message) from error
    except ssl.SSLError as error:
        raise HandshakeError(error.reason or "no reason given") from error
    raise HandshakeError("it does not end")


def _advance(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True
