"""Who gets in: the one decision that every listener asks for.

The rule, in this order (README, "Who gets in"):

1. An open path is open, whatever credential comes along.
2. The same credential header twice is a bad request: two servers could read two different keys.
3. `api-key` is looked at first; only without it `Authorization`, whose scheme Bearer has no case (RFC 9110,
   11.1).
   An invalid `api-key` is not saved by a valid bearer token.
4. A path that is not in normal form needs the highest right, and with less is a bad request.
5. The policy says which right is needed.

Must not know: HTTP statuses or gRPC codes, which the listeners give to a reason.
"""

import enum
from collections.abc import Iterable
from dataclasses import dataclass

from rekeyd.trust.keys import Credential, KeyRing, Right
from rekeyd.trust.paths import is_normal
from rekeyd.trust.policy import Policy


class Reason(enum.StrEnum):
    """Why a request was let in or not, as the log says it."""

    OPEN = "open"
    KEY = "key"
    INSECURE = "insecure"
    NO_CREDENTIAL = "no_credential"
    UNKNOWN_KEY = "unknown_key"
    REPEATED_CREDENTIAL = "repeated_credential"
    PATH_NOT_NORMAL = "path_not_normal"
    RIGHT_TOO_SMALL = "right_too_small"


@dataclass(frozen=True, slots=True)
class Allowed:
    """Let in. `credential` is None where no key was needed."""

    reason: Reason
    credential: Credential | None = None
    needed: Right | None = None

    @property
    def key_id(self) -> str | None:
        return self.credential.id if self.credential is not None else None

    @property
    def right(self) -> Right | None:
        return self.credential.right if self.credential is not None else None


@dataclass(frozen=True, slots=True)
class Denied:
    """Not let in. `message` is for the client and names no secret."""

    reason: Reason
    message: str
    key_id: str | None = None
    needed: Right | None = None


@dataclass(frozen=True, slots=True)
class Presented:
    """The credentials of one request, as they came."""

    api_keys: tuple[bytes, ...] = ()
    authorizations: tuple[bytes, ...] = ()

    @classmethod
    def among(cls, fields: Iterable[tuple[bytes, bytes]]) -> "Presented":
        """Picked from header fields or gRPC metadata."""
        keys, authorizations = [], []
        for name, value in fields:
            match name.lower():
                case b"api-key":
                    keys.append(value)
                case b"authorization":
                    authorizations.append(value)
        return cls(tuple(keys), tuple(authorizations)) if keys or authorizations else _NOTHING

    @property
    def repeated(self) -> bool:
        return len(self.api_keys) > 1 or len(self.authorizations) > 1

    @property
    def secret(self) -> bytes | None:
        """The key or token to judge; None where none was presented."""
        if self.api_keys:
            return self.api_keys[0]
        if self.authorizations:
            scheme, _, token = self.authorizations[0].partition(b" ")
            if scheme.lower() == b"bearer":
                return token.strip(b" ")
        return None


_NOTHING = Presented()


def decide(
    method: bytes, path: bytes, presented: Presented, *, ring: KeyRing, policy: Policy, insecure: bool
) -> Allowed | Denied:
    """Whether `method` on `path` (the target's bytes up to `?`) is allowed with what was presented.

    `insecure` lets everybody in where the ring is empty, and has no effect where it isn't.
    """
    if policy.is_open(method, path):
        return Allowed(Reason.OPEN)
    if presented.repeated:
        return Denied(Reason.REPEATED_CREDENTIAL, "The same credential header came twice")
    if insecure and not ring:
        return Allowed(Reason.INSECURE)
    secret = presented.secret
    if secret is None:
        return Denied(Reason.NO_CREDENTIAL, "Must provide an API key or an Authorization bearer token")
    credential = ring.find(secret)
    if credential is None:
        return Denied(Reason.UNKNOWN_KEY, "Invalid API key or JWT")
    return _within(credential, method, path, policy)


def _within(credential: Credential, method: bytes, path: bytes, policy: Policy) -> Allowed | Denied:
    normal = is_normal(path)
    rule = policy.rule_for(method, path) if normal else None
    needed = rule.right if rule else Right.MANAGE
    if credential.right >= needed:
        return Allowed(Reason.KEY, credential, needed)
    if not normal:
        return Denied(Reason.PATH_NOT_NORMAL, "The path is not in normal form", credential.id, needed)
    return Denied(Reason.RIGHT_TOO_SMALL, f"Forbidden: {needed} access is required", credential.id, needed)
