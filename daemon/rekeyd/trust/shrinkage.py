"""What trust in client certificates a new generation takes away, so that the connections which rest on it
can be ended. (What rests on keys is judged anew, see `admission.objection_to`.)

Must not know: connections, or how they end.
"""

from dataclasses import dataclass

from rekeyd.settings import Settings
from rekeyd.trust.certificates import Anchors
from rekeyd.trust.generation import Generation
from rekeyd.trust.revocations import Revocations, Revoked

_DEMANDS = (False, "optional", True)
"""What may be asked of a client (`service.verify_https_client_certificate`), the least first."""


@dataclass(frozen=True, slots=True)
class Shrinkage:
    """What trust one generation takes away that another gave. Connections that rest on it are to be ended.

    `authorities` are the SHA-256 of client CAs that are gone (see `clients.objection`); `revoked` newly
    revoked certificates. `narrowed`: certificates of clients or peers must meet more than before (they are
    required, or `tls.allowed_clients` or `cluster.p2p.allowed_peers` is another), so that each connection is
    to be looked at again.
    """

    authorities: frozenset[str] = frozenset()
    revoked: frozenset[Revoked] = frozenset()
    narrowed: bool = False

    def __bool__(self) -> bool:
        return bool(self.authorities or self.revoked or self.narrowed)


def shrinkage(old: Generation, new: Generation) -> Shrinkage:
    """What `old` trusted and `new` does not."""
    return Shrinkage(
        authorities=_authorities_lost(old.client_anchors, new.client_anchors),
        revoked=_newly_revoked(old.revocations, new.revocations),
        narrowed=_is_stricter(old.settings, new.settings) or _has_other_peers(old.settings, new.settings),
    )


def _authorities_lost(old: Anchors | None, new: Anchors | None) -> frozenset[str]:
    """An authority whose certificate was renewed, with the same name and key, is not lost."""
    believed = {(c.subject, c.public_key) for c in new.certificates} if new else set()
    gone = (c for c in (old.certificates if old else ()) if (c.subject, c.public_key) not in believed)
    return frozenset(c.sha256 for c in gone)


def _newly_revoked(old: Revocations | None, new: Revocations | None) -> frozenset[Revoked]:
    return frozenset(new.entries() if new else ()) - frozenset(old.entries() if old else ())


def _is_stricter(old: Settings, new: Settings) -> bool:
    before, after = (s.service.verify_https_client_certificate for s in (old, new))
    if after is False:
        return False
    were, are = frozenset(old.tls.allowed_clients), frozenset(new.tls.allowed_clients)
    fewer = bool(are) and not (were and were <= are)
    return fewer or _DEMANDS.index(after) > _DEMANDS.index(before)


def _has_other_peers(old: Settings, new: Settings) -> bool:
    return old.cluster.p2p.allowed_peers != new.cluster.p2p.allowed_peers
