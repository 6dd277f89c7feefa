"""API keys as digests: which credential a presented secret is, if any.

The rule: a secret is hashed once, when it is read or presented; what is kept and compared is its SHA-256.
A look-up costs the same for one key and for a hundred thousand, and how long it takes says nothing about
how much of a guess was right: the digest of a near miss is as far away as any other. The final comparison
is constant-time all the same (`hmac.compare_digest`), so that this holds without trusting a dictionary.

Must not know: where secrets come from, or what a request is.
"""

import enum
import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field


class Right(enum.IntEnum):
    """What a credential may do; each right includes those below it."""

    READ = 1
    WRITE = 2
    MANAGE = 3

    def __str__(self) -> str:
        return self.name.lower()


@dataclass(frozen=True, slots=True)
class Credential:
    """A known key: what to call it, what it may do, and the SHA-256 of its secret."""

    id: str
    right: Right
    digest: bytes = field(repr=False)

    @classmethod
    def of_secret(cls, key_id: str, right: Right, secret: str) -> "Credential":
        return cls(key_id, right, digest_of(secret.encode()))


def digest_of(secret: bytes) -> bytes:
    """SHA-256, which suits secrets of high entropy: no dictionary reaches them."""
    return hashlib.sha256(secret).digest()


class KeyRing:
    """All credentials of one generation. Immutable once made.

    Where two credentials share a secret the one with the higher right is found, as in Qdrant, which asks for
    read-write keys first; `shadowed` names the others, so that the operator can be told.
    """

    __slots__ = ("_by_digest", "shadowed")

    def __init__(self, credentials: Iterable[Credential]) -> None:
        self._by_digest: dict[bytes, Credential] = {}
        shadowed = []
        for credential in sorted(credentials, key=lambda c: c.right, reverse=True):
            first = self._by_digest.setdefault(credential.digest, credential)
            if first is not credential:
                shadowed.append((credential.id, first.id))
        self.shadowed: tuple[tuple[str, str], ...] = tuple(shadowed)

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[Credential]:
        return iter(self._by_digest.values())

    def holds(self, credential: Credential) -> bool:
        """Whether a credential of another ring is good here too, with at least the right that it had."""
        known = self._by_digest.get(credential.digest)
        return known is not None and known.right >= credential.right

    def find(self, secret: bytes) -> Credential | None:
        """The credential whose secret this is, or None. Nothing is nobody's secret."""
        if not secret:
            return None
        presented = digest_of(secret)
        credential = self._by_digest.get(presented)
        if credential is not None and hmac.compare_digest(credential.digest, presented):
            return credential
        return None
