"""A generation to `ssl.SSLContext`s, and the proof that they serve what was judged.

The rules: judged bytes are loaded, never a path on disk again (`loading.py`). Each generation has contexts of
its own, so that a session ticket never outlives the generation whose CA it rested on, and never are those of
two generations mixed. That holds where nothing of TLS has changed, too: a key file that is replaced every
hour costs a client one full handshake an hour, and keys that seal tickets grow no older than a generation.

There is one context for each choice of certificates (`trust/names.py`); connections begin with the default's,
whose `sni_callback` switches to another. OpenSSL takes the verify mode, the flags and the options of a
connection from the context that it began with, but the trusted CAs and CRLs from the one that it was switched
to: so all have the same. Before contexts are used they shake hands with themselves in memory, for every
certificate, and what is shown must be what was judged.

TLS as in Mozilla's "intermediate" profile: 1.2 with ephemeral keys and AEAD only, 1.3 preferred; between
equally good ciphers the client chooses, who knows whether it has AES in hardware. Where a name has an ECDSA
and an RSA certificate the order is ours, ECDSA first.

Within a generation sessions resume (RFC 8446, 2.2), client certificates included, by the keys of the context
that a connection began with: so all names resume each other's, which believe the same clients. A ticket
costs about as much CPU as a resumption with ECDSA saves, so that there is one for a connection; where a
certificate is RSA, whose signature costs several times that, there are two, for clients that use each once
(RFC 8446, C.4) and open several connections. Must not know: sockets.
"""

import _thread
import ssl
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from rekeyd.reload.current import Serving
from rekeyd.reload.handshake import HandshakeError, Looker
from rekeyd.reload.loading import ContextError, ProbeError, distrust, load, trust
from rekeyd.reload.peer_contexts import peers_of
from rekeyd.system.error_queue import tidy
from rekeyd.trust.generation import Generation
from rekeyd.trust.names import Choice, Names, index

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

__all__ = ["ContextError", "ProbeError", "build", "probe", "serving_of"]

_Chooser = Callable[[ssl.SSLObject, str | None, ssl.SSLContext], int | None]


def serving_of(generation: Generation) -> Serving:
    """Build, probe, and give what may be published. Raises `ContextError` and its child `ProbeError`.

    It takes a millisecond or two for each certificate: call it in a thread.
    """
    service, grpc = generation.settings.service, generation.settings.upstream.grpc
    shared = service.single_port and grpc is not None
    context = _proved(generation, HTTP + GRPC if shared else HTTP)
    apart = service.grpc_port is not None and grpc is not None
    return Serving(generation, context, peers_of(generation), _proved(generation, GRPC) if apart else None)


def _proved(generation: Generation, alpn: tuple[str, ...]) -> ssl.SSLContext | None:
    context = build(generation, alpn)
    if context is not None:
        probe(context, generation)
    return context


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
    context = tidy(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    context.num_tickets = 2 if any(each.leaf.kind == "RSA" for each in generation.certificates) else 1
    _set_protocol(context, generation, alpn)
    if mixed:
        context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | _PRIORITIZE_CHACHA
    for material in choice:
        load(context, material)
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
        trust(context, generation.client_anchors)
        if generation.revocations is not None and generation.client_anchors is not None:
            distrust(context, generation.revocations, generation.client_anchors)
    context.verify_mode = mode
