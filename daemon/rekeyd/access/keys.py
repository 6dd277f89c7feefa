"""API keys as digests: which credential a presented secret is, if any.

The rule: a secret is hashed once, when it is read or presented; what is kept and compared is its SHA-256, or
its HMAC-SHA-256 under the pepper of `access.pepper_file`. A look-up costs the same for one key and for a
hundred thousand, and how long it takes says nothing about how much of a guess was right: the digest of a near
miss is as far away as any other. The final comparison is constant-time all the same (`hmac.compare_digest`),
so that this holds without trusting a dictionary.

Must not know: where secrets come from, or what a request is.
"""

import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from urllib.parse import quote

from rekeyd.access.pepper import id_of
from rekeyd.access.rights import UNLIMITED, Limits, Right

_AS_IT_IS = "".join(chr(code) for code in range(0x21, 0x7F)).replace("%", "")


@dataclass(frozen=True, slots=True)
class Credential:
    """A known key, or a token that one vouches for.

    `right` is the highest that it has anywhere. `digest` is that of the key's secret; of a token, that of the
    key which signed it. `not_before` and `expires` are in seconds of the epoch. `named`: it comes from the
    key file, so that its secret must be strong (`key_form`). `subject` and `token_id` are a token's `sub` and
    `jti`.
    """

    id: str
    right: Right
    digest: bytes = field(repr=False)
    limits: Limits = UNLIMITED
    not_before: float | None = None
    expires: float | None = None
    named: bool = False
    is_token: bool = False
    subject: str | None = None
    token_id: str | None = None

    @classmethod
    def of_secret(cls, key_id: str, right: Right, secret: str) -> "Credential":
        return cls(key_id, right, digest_of(secret.encode()))

    @property
    def told_subject(self) -> bytes | None:
        """The subject as the value of a field, percent-encoded but for visible ASCII (RFC 3986, 2.1).

        So no two are told alike: not one with a space before it either, which a reader would strip.
        """
        return None if self.subject is None else quote(self.subject, safe=_AS_IT_IS).encode()


def digest_of(secret: bytes) -> bytes:
    """SHA-256, which suits secrets of high entropy: no dictionary reaches them."""
    return sha256(secret).digest()


def peppered_digest_of(secret: bytes, pepper: bytes) -> bytes:
    """HMAC-SHA-256: who reads the key file alone can't even try a secret."""
    return hmac.digest(pepper, secret, "sha256")


class KeyRing:
    """All keys of one generation. Immutable once made.

    Where two have the same secret the one with the higher right is found, as in Qdrant, which asks for
    read-write keys first; `shadowed` names the others, so that the operator can be told. A key that is being
    rotated has several secrets, each a credential of its own with the same id.
    """

    __slots__ = ("_by_digest", "_pepper", "ids", "shadowed")

    def __init__(self, credentials: Iterable[Credential], *, pepper: bytes | None = None) -> None:
        self._by_digest: dict[bytes, Credential] = {}
        self._pepper = pepper
        shadowed = []
        ids: dict[str, None] = {}
        for credential in sorted(credentials, key=lambda c: c.right, reverse=True):
            first = self._by_digest.setdefault(credential.digest, credential)
            ids[credential.id] = None
            if first is not credential:
                shadowed.append((credential.id, first.id))
        self.shadowed: tuple[tuple[str, str], ...] = tuple(shadowed)
        self.ids = ids.keys()
        """Each key's id once; asking whether one is among them costs the same for any number."""

    def __len__(self) -> int:
        return len(self._by_digest)

    def __iter__(self) -> Iterator[Credential]:
        return iter(self._by_digest.values())

    @property
    def pepper_id(self) -> str | None:
        """Which pepper there is, if any."""
        return None if self._pepper is None else id_of(self._pepper)

    def with_digest(self, digest: bytes) -> Credential | None:
        """The key that has this digest here."""
        return self._by_digest.get(digest)

    def find(self, secret: bytes, digest: bytes | None = None) -> Credential | None:
        """The key whose secret this is, or None. Nothing is nobody's secret.

        `digest` is that of the secret, where it is known.
        """
        if not secret:
            return None
        found = self._known(digest or digest_of(secret))
        if self._pepper is None:
            return found
        peppered = self._known(peppered_digest_of(secret, self._pepper))
        return max(filter(None, (found, peppered)), key=lambda c: c.right, default=None)

    def _known(self, presented: bytes) -> Credential | None:
        credential = self._by_digest.get(presented)
        if credential is not None and hmac.compare_digest(credential.digest, presented):
            return credential
        return None
