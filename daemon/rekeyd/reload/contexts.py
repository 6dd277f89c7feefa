"""A generation to an `ssl.SSLContext`, and the proof that it serves what was judged.

The rules: judged bytes are loaded, never a path on disk again; `load_cert_chain` takes only a path, so they
go through a `memfd` that is closed at once. Each generation has a context of its own, so that a session
ticket never outlives the generation whose CA it rested on. Before a context is used it shakes hands with
itself in memory, and the certificate that it shows must be the one that was judged.

TLS as in Mozilla's "intermediate" profile: 1.2 with ephemeral keys and AEAD only, 1.3 preferred; between
equally good ciphers the client chooses, who knows whether it has AES in hardware. Must not know: sockets.
"""

import hashlib
import os
import ssl
from contextlib import closing

from rekeyd.errors import RekeydError
from rekeyd.reload.current import Serving
from rekeyd.trust.certificates import Anchors, Material
from rekeyd.trust.generation import Generation, Part

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""For TLS 1.2; all suites of TLS 1.3 are sound."""

ALPN = ("http/1.1",)

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY_MODES = {False: ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, True: ssl.CERT_REQUIRED}
_ROUNDS = 10  # a handshake takes three at most


class ContextError(RekeydError):
    """What was judged can't be served; `fix` says what to do, `part` what of it is at fault."""

    def __init__(self, message: str, fix: str, part: Part = Part.SERVER_CERTIFICATE) -> None:
        self.message = message
        self.fix = fix
        self.part = part
        super().__init__(f"{message}. {fix}.")


class ProbeError(ContextError):
    """The context does not serve the certificate that was judged, or does not serve at all."""


def serving_of(generation: Generation) -> Serving:
    """Build, probe, and give what may be published. Raises `ContextError` and its child `ProbeError`."""
    context = build(generation)
    if context is not None:
        probe(context, generation)
    return Serving(generation, context)


def build(generation: Generation) -> ssl.SSLContext | None:
    """The context of a generation; None where TLS is off. Raises `ContextError`."""
    if not generation.settings.service.enable_tls:
        return None
    if generation.server is None:
        raise ContextError("TLS is on, but there is no certificate", "Set tls.cert and tls.key")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _set_protocol(context, generation)
    _set_client_verification(context, generation)
    _load(context, generation.server)
    return context


def probe(context: ssl.SSLContext, generation: Generation) -> None:
    """Shake hands in memory, and compare the leaf that is shown with the one that was judged.

    Raises:
        ProbeError: the handshake fails, or shows another certificate.
    """
    if generation.server is None:
        raise ProbeError("there is no certificate to compare with", "Set tls.cert and tls.key")
    shown = hashlib.sha256(_certificate_shown_by(context)).hexdigest()
    judged = generation.server.leaf.sha256
    if shown != judged:
        raise ProbeError(
            f"a handshake with itself showed the certificate {shown} instead of {judged}",
            "Please report this: it should be impossible",
        )


def _set_protocol(context: ssl.SSLContext, generation: Generation) -> None:
    tls = generation.settings.tls
    context.minimum_version = _VERSIONS[tls.min_version]
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if tls.ciphers is None:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(ALPN))
    try:
        context.set_ciphers(tls.ciphers or CIPHERS)
    except ssl.SSLError as error:
        raise ContextError(
            "OpenSSL knows none of the ciphers in tls.ciphers",
            "Write them as `openssl ciphers -v` does, or leave the setting out",
        ) from error


def _set_client_verification(context: ssl.SSLContext, generation: Generation) -> None:
    mode = _VERIFY_MODES[generation.settings.service.verify_https_client_certificate]
    if mode is not ssl.CERT_NONE:
        _trust(context, generation.client_anchors)
    context.verify_mode = mode


def _trust(context: ssl.SSLContext, anchors: Anchors | None) -> None:
    if anchors is None:
        raise ContextError("there is no CA to verify client certificates with", "Set tls.ca_cert")
    try:
        context.load_verify_locations(cadata=anchors.der)
    except ssl.SSLError as error:
        raise ContextError(
            f"OpenSSL won't take the client CA file ({error.reason or 'no reason given'})",
            "Look at it with `openssl x509 -noout -text -in FILE`",
        ) from error


def _load(context: ssl.SSLContext, material: Material) -> None:
    memory = os.memfd_create("rekeyd-certificate", os.MFD_CLOEXEC)
    with closing(os.fdopen(memory, "wb")) as file:
        file.write(material.chain_pem + b"\n" + material.key_pem)
        file.flush()
        try:
            context.load_cert_chain(f"/proc/self/fd/{memory}", password=_never_asked)
        except (ssl.SSLError, ValueError) as error:
            reason = error.reason if isinstance(error, ssl.SSLError) else None
            raise ContextError(
                f"OpenSSL won't take the certificate and its key ({reason or 'no reason given'})",
                "Look at them with `openssl x509 -noout -text` and `openssl pkey -noout -check`",
            ) from error


def _never_asked() -> str:
    """Encrypted keys are refused when they are read; without this OpenSSL would ask on the terminal."""
    raise ValueError("the private key is encrypted")


def _certificate_shown_by(context: ssl.SSLContext) -> bytes:
    """The leaf's DER as a client sees it that has no certificate of its own and believes nobody.

    Where client certificates are required the handshake can't succeed; with TLS 1.3, which both ends of this
    one speak, the client is through before the server objects (RFC 8446, 2).
    """
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(to_server, to_client, server_side=True)
    client = _credulous_client().wrap_bio(to_client, to_server)
    for _ in range(_ROUNDS):
        try:
            if _advance(client):
                return client.getpeercert(binary_form=True) or b""
            _advance(server)
        except ssl.SSLError as error:
            raise _probe_failed(error.reason) from error
    raise _probe_failed("it does not end")


def _probe_failed(reason: str | None) -> ProbeError:
    return ProbeError(
        f"a handshake with itself fails ({reason or 'no reason given'})",
        "See that tls.ciphers and tls.min_version suit the certificate's kind of key",
    )


def _advance(side: ssl.SSLObject) -> bool:
    try:
        side.do_handshake()
    except ssl.SSLWantReadError:
        return False
    return True


def _credulous_client() -> ssl.SSLContext:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.set_alpn_protocols(list(ALPN))
    return client
