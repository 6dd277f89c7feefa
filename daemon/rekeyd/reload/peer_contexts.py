"""A generation to the contexts of its tunnels, and the proof that they serve what was judged.

The rules. Both sides show the default certificate, and believe `tls.ca_cert` less `tls.crl` and nothing else;
names are matched afterwards (`trust/peers.py`), since there is more than DNS names to match. TLS 1.3 and
nothing older: only there can one direction end before the other (RFC 8446, 6.1). There are no tickets, so
that no session ever resumes past an authority that was removed. Each generation has contexts of its own, two,
whatever the number of peers. Must not know: sockets, or who is expected.
"""

import ssl

from rekeyd.reload.current import PeerContexts
from rekeyd.reload.handshake import HandshakeError, Looker, UnbelievedError, fingerprints_shown_between
from rekeyd.reload.loading import ContextError, ProbeError, distrust, load, trust
from rekeyd.system.shown import ShowingContext
from rekeyd.trust.generation import Generation


def peers_of(generation: Generation) -> PeerContexts | None:
    """None where peers have no TLS. Raises `ContextError` and its child `ProbeError`."""
    if not generation.settings.cluster.p2p.enable_tls:
        return None
    contexts = PeerContexts(
        accepting=_context(ssl.PROTOCOL_TLS_SERVER, generation),
        connecting=_context(ssl.PROTOCOL_TLS_CLIENT, generation),
    )
    _probe(contexts, generation)
    return contexts


def _context(side: int, generation: Generation) -> ssl.SSLContext:
    material = generation.default
    if material is None:
        raise ContextError("peers have TLS, but there is no certificate", "Set tls.cert and tls.key")
    context = ShowingContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.options |= ssl.OP_NO_TICKET
    if side == ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0
    context.check_hostname = False  # `trust/peers.py` does, for names of every kind
    load(context, material)
    trust(context, generation.client_anchors)
    if generation.revocations is not None and generation.client_anchors is not None:
        distrust(context, generation.revocations, generation.client_anchors)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _probe(contexts: PeerContexts, generation: Generation) -> None:
    """The two shake hands with each other in memory; what each shows must be what was judged.

    Whether they believe it is the judge's to say (`trust/judge_peers.py`): where they don't, only what those
    see who connect is looked at.
    """
    judged = generation.default.leaf.sha256 if generation.default else ""
    try:
        shown = _shown(contexts)
    except HandshakeError as error:
        raise ProbeError(
            f"a handshake between peers with itself fails ({error})",
            "See that the key is sound (`openssl pkey -noout -check -in FILE`)",
        ) from error
    if shown != {judged}:
        raise ProbeError(
            f"a handshake between peers with itself showed {' and '.join(shown)} instead of {judged}",
            "Please report this: it should be impossible",
        )


def _shown(contexts: PeerContexts) -> set[str]:
    try:
        return set(fingerprints_shown_between(contexts.accepting, contexts.connecting))
    except UnbelievedError:
        return {Looker().fingerprint_shown_by(contexts.accepting)}
