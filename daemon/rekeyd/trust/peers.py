"""Who a peer of the cluster is by its certificate, and whether tunnels to and from it may be.

The rules. A certificate gets here only after OpenSSL verified it under `tls.ca_cert` and `tls.crl`,
whichever side showed it. It must be one of `cluster.p2p.allowed_peers`, or, where that is empty, one of those
that are expected behind `cluster.p2p.peers`: an authority that also vouches for clients makes no peers of
them. Whoever is connected to must besides be the one that is expected there. How names match is said in
`clients.py`. Must not know: connections.
"""

from rekeyd.settings import ClientPattern, Settings
from rekeyd.trust.certificates import Certificate
from rekeyd.trust.clients import ClientIdentity, is_allowed, is_revoked, loses_its_authority
from rekeyd.trust.generation import Generation
from rekeyd.trust.pem import MaterialError


def allowed_peers(settings: Settings) -> tuple[ClientPattern, ...]:
    """Who may be a peer; never empty where peers have TLS (`settings/rules.py`)."""
    p2p = settings.cluster.p2p
    return p2p.allowed_peers or tuple(peer.expect for peer in p2p.peers)


def peer_objection(
    generation: Generation,
    der: bytes | None,
    before: Generation | None = None,
    expected: ClientPattern | None = None,
) -> str | None:
    """Why the peer with this certificate has no place in `generation`; None where it has.

    OpenSSL verified the certificate, under `before` where that is given, else under this very generation.
    `expected` is who must answer where we connected to.
    """
    if der is None:
        return "it has no certificate"
    try:
        certificate = Certificate.from_der(der)
    except MaterialError:
        return "its certificate can't be read"
    identity = ClientIdentity.of(certificate)
    allowed = allowed_peers(generation.settings)
    if is_revoked(identity, generation.revocations):
        return "its certificate is revoked"
    if expected is not None and not is_allowed(identity, (expected,)):
        return f"it is not {expected}"
    if not allowed or not is_allowed(identity, allowed):
        return "its certificate is not among cluster.p2p.allowed_peers"
    if before is not None and loses_its_authority(certificate, before, generation):
        return "the authority of its certificate is not believed any more"
    return None


def name_of(der: bytes | None) -> str | None:
    """What to call it in the log; it may not be verified. None where there is nothing to read."""
    if der is None:
        return None
    try:
        return str(ClientIdentity.of_der(der))[:_LONGEST_NAME]
    except MaterialError:
        return None


_LONGEST_NAME = 256
"""Who is not let in chooses what is in its certificate."""
