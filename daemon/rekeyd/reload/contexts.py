"""A generation to `ssl.SSLContext`s, and the proof that they serve what was judged.

The rules: judged bytes are loaded, never a path on disk again; where OpenSSL takes only a path they go
through a `memfd` that is closed at once. Each generation has contexts of its own, so that a session ticket
never outlives the generation whose CA it rested on, and never are those of two generations mixed. There is
one for each choice of certificates (`trust/names.py`); connections begin with the default's, whose
`sni_callback` switches to another. OpenSSL takes the verify mode, the flags and the options of a connection
from the context that it began with, but the trusted CAs and CRLs from the one that it was switched to: so all
have the same. Before contexts are used they shake hands with themselves in memory, for every certificate, and
what is shown must be what was judged.

TLS as in Mozilla's "intermediate" profile: 1.2 with ephemeral keys and AEAD only, 1.3 preferred; between
equally good ciphers the client chooses, who knows whether it has AES in hardware. Where a name has an ECDSA
and an RSA certificate the order is ours, ECDSA first. Must not know: sockets.
"""

import _thread
import os
import ssl
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from rekeyd.errors import RekeydError
from rekeyd.reload.current import Serving
from rekeyd.reload.handshake import HandshakeError, Looker
from rekeyd.system.alerts import AlertingContext
from rekeyd.trust.certificates import Anchors, Material
from rekeyd.trust.generation import Generation, Part
from rekeyd.trust.names import Choice, Names, index
from rekeyd.trust.revocations import Revocations, covers_all

CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:"
    "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-RSA-AES256-GCM-SHA384:"
    "ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)
"""For TLS 1.2; all suites of TLS 1.3 are sound."""

HTTP, GRPC = ("http/1.1",), ("h2",)
"""What is spoken inside, as ALPN names it; both where they share a port. Clients of gRPC offer nothing but
h2, and those that offer both mean HTTP, which is served in 1.1."""

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
_VERIFY_MODES = {False: ssl.CERT_NONE, "optional": ssl.CERT_OPTIONAL, True: ssl.CERT_REQUIRED}
_PRIORITIZE_CHACHA = (
    0x00200000  # SSL_OP_PRIORITIZE_CHACHA: clients without AES in hardware still get ChaCha20
)
_WEAK = frozenset({"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"})

_Chooser = Callable[[ssl.SSLObject, str | None, ssl.SSLContext], int | None]


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
    """Build, probe, and give what may be published. Raises `ContextError` and its child `ProbeError`.

    It takes a millisecond or two for each certificate: call it in a thread.
    """
    service, grpc = generation.settings.service, generation.settings.upstream.grpc
    shared = service.single_port and grpc is not None
    contexts = [build(generation, HTTP + GRPC if shared else HTTP)]
    if service.grpc_port is not None and grpc is not None:
        contexts.append(build(generation, GRPC))
    for context in contexts:
        if context is not None:
            probe(context, generation)
    return Serving(generation, *contexts)


def build(generation: Generation, alpn: tuple[str, ...] = HTTP) -> ssl.SSLContext | None:
    """The context with which connections begin; None where TLS is off. Raises `ContextError`."""
    if not generation.settings.service.enable_tls:
        return None
    names = index(generation.certificates)
    if names.default is None:
        raise ContextError("TLS is on, but there is no certificate", "Set tls.cert and tls.key")
    mixed = any(len(choice) > 1 for choice in names.distinct())
    contexts = names.mapped(lambda choice: _context(generation, choice, alpn, mixed=mixed))
    return _switching(contexts, strict=generation.settings.tls.strict_sni)


def probe(context: ssl.SSLContext, generation: Generation) -> None:
    """Shake hands in memory, once for each choice, and compare the leaf that is shown with those judged.

    Raises:
        ProbeError: a handshake fails, or shows another certificate.
    """
    looker = Looker()
    strict = generation.settings.tls.strict_sni
    for name, choice in index(generation.certificates).examples(strict=strict):
        _compare(looker, context, choice, name)


def _compare(looker: Looker, context: ssl.SSLContext, choice: Choice, name: str | None = None) -> None:
    asked = f" that asks for {name}" if name else ""
    try:
        shown = looker.fingerprint_shown_by(context, name)
    except HandshakeError as error:
        raise ProbeError(
            f"a handshake with itself{asked} fails ({error})",
            "See that tls.ciphers and tls.min_version suit the certificate's kind of key, and that the key "
            "is sound (`openssl pkey -noout -check -in FILE`)",
        ) from error
    judged = [material.leaf.sha256 for material in choice]
    if shown not in judged:
        raise ProbeError(
            f"a handshake with itself{asked} showed the certificate {shown} instead of {' or '.join(judged)}",
            "Please report this: it should be impossible",
        )


# The context of a choice.


def _context(generation: Generation, choice: Choice, alpn: tuple[str, ...], *, mixed: bool) -> ssl.SSLContext:
    """`mixed`: the generation has names with several kinds of keys."""
    context = AlertingContext(ssl.PROTOCOL_TLS_SERVER)
    _set_protocol(context, generation, alpn)
    if mixed:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | _PRIORITIZE_CHACHA
    for material in choice:
        _load(context, material)
    if len(choice) > 1:
        _probe_each_kind(context, choice)
    context.minimum_version = _VERSIONS[generation.settings.tls.min_version]
    _set_client_verification(context, generation)
    return context


def _probe_each_kind(context: ssl.SSLContext, choice: Choice) -> None:
    """With TLS 1.2, in which a client's ciphers say which kind of key it can do with.

    What is set last (the oldest version, the verification of clients) does not concern the certificates.
    """
    for kind, is_rsa in (("auth-rsa", True), ("auth-ecdsa", False)):
        ciphers = [c["name"] for c in context.get_ciphers() if c["auth"] == kind]
        wanted = tuple(material for material in choice if (material.leaf.kind == "RSA") is is_rsa)
        if ciphers and wanted:
            _compare(Looker(":".join(ciphers)), context, wanted)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a name leads: to a context, or to stay with the one that the connection began with.

    The default context must not be reached from its own callback, or it would outlive its generation until
    the garbage collector comes by.
    """

    context: ssl.SSLContext | None


def _free_slowly(owner: object, contexts: list[ssl.SSLContext]) -> None:
    """When `owner` is gone free these in a thread: a thousand take 50 ms, and the event loop is not to wait.

    Nor is it to wait for the thread to begin, as it would with `threading.Thread`.
    """

    def free() -> None:
        while contexts:
            contexts.pop()

    def free_beside() -> None:
        with suppress(RuntimeError):  # the interpreter ends, and takes everything along
            _thread.start_new_thread(free, ())

    weakref.finalize(owner, free_beside).atexit = False


def _switching(contexts: Names[ssl.SSLContext], *, strict: bool) -> ssl.SSLContext:
    default = contexts.default
    if default is None:
        raise ValueError("there is no default context")
    if strict or next(contexts.others(), None) is not None:
        targets = contexts.mapped(lambda context: _Target(None if context is default else context))
        chooser = default.sni_callback = _chooser(targets, strict=strict)
        _free_slowly(chooser, list(contexts.others()))
    return default


def _chooser(targets: Names[_Target], *, strict: bool) -> _Chooser:
    def choose(connection: ssl.SSLObject, server_name: str | None, _: ssl.SSLContext) -> int | None:
        target = targets.find(server_name, strict=strict)
        if target is None:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME  # RFC 6066, 3
        if target.context is not None:
            connection.context = target.context
        return None

    return choose


def _set_protocol(context: ssl.SSLContext, generation: Generation, alpn: tuple[str, ...]) -> None:
    tls = generation.settings.tls
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    if tls.ciphers is None:
        context.options &= ~ssl.OP_CIPHER_SERVER_PREFERENCE
    context.set_alpn_protocols(list(alpn))
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
        if generation.revocations is not None and generation.client_anchors is not None:
            _distrust(context, generation.revocations, generation.client_anchors)
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


def _distrust(context: ssl.SSLContext, revocations: Revocations, anchors: Anchors) -> None:
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


def _load(context: ssl.SSLContext, material: Material) -> None:
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
