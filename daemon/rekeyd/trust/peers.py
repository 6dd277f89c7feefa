"""Who a peer of the cluster is by its certificate, and whether tunnels to and from it may be.

The rules. A certificate gets here only after OpenSSL verified it under `tls.ca_cert` and `tls.crl`,
whichever side showed it. It must be one of `cluster.p2p.allowed_peers`, or, where that is empty, one of those
that are expected behind `cluster.p2p.peers`: an authority that also vouches for clients makes no peers of
them. Whoever is connected to must besides be the one that is expected there. How names match is said in
`clients.py`; between nodes a wildcard certificate is good as well. Must not know: connections.
"""

from rekeyd.formats.pem import MaterialError
from rekeyd.settings import ClientPattern, Settings
from rekeyd.trust.certificates import Certificate
from rekeyd.trust.clients import ClientIdentity, is_allowed, is_revoked, loses_its_authority
from rekeyd.trust.generation import Generation


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
    if expected is not None and not _is_one_of(identity, (expected,)):
        return f"it is not {expected}"
    if not _is_one_of(identity, allowed):
        return "its certificate is not among cluster.p2p.allowed_peers"
    if before is not None and loses_its_authority(certificate, before, generation):
        return "the authority of its certificate is not believed any more"
    return None


def _is_one_of(identity: ClientIdentity, patterns: tuple[ClientPattern, ...]) -> bool:
    """An empty list is nobody here."""
    named = any(_covers(name, p.value) for p in patterns if p.kind == "dns" for name in identity.dns)
    return bool(patterns) and (named or is_allowed(identity, patterns))


def _covers(name: str, wanted: str) -> bool:
    """Nodes may share a certificate for `*.NAME`: it is good for each name in there (RFC 9525, 6.3), and a
    pattern of these very words means it."""
    name = name.lower()
    _, _, parent = wanted.partition(".")
    return name.startswith("*.") and (name == wanted or name.removeprefix("*.") == parent)


def name_of(der: bytes | None) -> str | None:
    """What to call it in the log; it may not be verified. None where there is nothing to read."""
    if der is None:
        return None
    try:
        return str(ClientIdentity.of_der(der))[:_LONGEST_NAME]
    except Exception:  # noqa: BLE001 - whatever a stranger shows, this is only for the log
        return None


_LONGEST_NAME = 256
"""Who is not let in chooses what is in its certificate."""
