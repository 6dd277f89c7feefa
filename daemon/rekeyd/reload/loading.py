"""What goes into an `ssl.SSLContext`: a certificate with its key, the authorities, the lists of the revoked.

The rule: judged bytes are loaded, never a path on disk again; where OpenSSL takes only a path they go through
a `memfd` that is closed at once. Must not know: which context it is, or what a handshake does.
"""

import os
import ssl
from collections.abc import Iterator
from contextlib import contextmanager

from rekeyd.errors import RekeydError
from rekeyd.trust.certificates import Anchors, Material
from rekeyd.trust.generation import Part
from rekeyd.trust.revocations import Revocations, covers_all

_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})


class ContextError(RekeydError):
    """What was judged can't be served; `fix` says what to do, `part` what of it is at fault."""

    def __init__(self, message: str, fix: str, part: Part = Part.SERVER_CERTIFICATE) -> None:
        self.message = message
        self.fix = fix
        self.part = part
        super().__init__(f"{message}. {fix}.")


class ProbeError(ContextError):
    """The context does not serve the certificate that was judged, or does not serve at all."""


def trust(context: ssl.SSLContext, anchors: Anchors | None) -> None:
    if anchors is None:
        raise ContextError("there is no CA to verify client certificates with", "Set tls.ca_cert")
    try:
        context.load_verify_locations(cadata=anchors.der)
    except ssl.SSLError as error:
        raise ContextError(
            f"OpenSSL won't take the client CA file ({error.reason or 'no reason given'})",
            "Look at it with `openssl x509 -noout -text -in FILE`",
        ) from error


def distrust(context: ssl.SSLContext, revocations: Revocations, anchors: Anchors) -> None:
    """Check the whole chain where each CA has a list; else the client's own certificate.

    OpenSSL refuses what it has no list for. Checking chains where a root has none, as is common, would refuse
    every client; not checking them where it has one would overlook a revoked intermediate.
    """
    whole = covers_all(revocations, anchors)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_CHAIN if whole else ssl.VERIFY_CRL_CHECK_LEAF
    with _in_memory(revocations.pem) as path:
        try:
            # cadata takes no CRLs, and what is at this path is what was judged.
            context.load_verify_locations(cafile=path)
        except ssl.SSLError as error:
            raise ContextError(
                f"OpenSSL won't take the CRL file ({error.reason or 'no reason given'})",
                "Look at it with `openssl crl -noout -text -in FILE`",
            ) from error


def load(context: ssl.SSLContext, material: Material) -> None:
    with _in_memory(material.chain_pem + b"\n" + material.key_pem) as path:
        try:
            context.load_cert_chain(path, password=_never_asked)
        except (ssl.SSLError, ValueError) as error:
            raise _not_taken(material, error) from error


def _not_taken(material: Material, error: Exception) -> ContextError:
    reason = (error.reason if isinstance(error, ssl.SSLError) else None) or "no reason given"
    place = f"{material.origin.certificate}: " if material.origin.certificate else ""
    fix = "Look at them with `openssl x509 -noout -text` and `openssl pkey -noout -check`"
    if reason in _WEAK:
        fix = "Issue a stronger one, or lower OpenSSL's bound with `@SECLEVEL=0` at the end of tls.ciphers"
    return ContextError(f"{place}OpenSSL won't take the certificate and its key ({reason})", fix)


def _never_asked() -> str:
    """Keys are decrypted when they are read; without this OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted")


@contextmanager
def _in_memory(data: bytes) -> Iterator[str]:
    """A path to these bytes that nobody else can open (memfd_create(2)), for as long as it is needed."""
    memory = os.memfd_create("rekeyd", os.MFD_CLOEXEC)
    with os.fdopen(memory, "wb") as file:
        file.write(data)
        file.flush()
        yield f"/proc/self/fd/{memory}"
