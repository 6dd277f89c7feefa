"""What comes of a decision: let in, not let in, or not known before a token's signature was looked at.

Must not know: how a decision is made (`access`), or the HTTP statuses and gRPC codes that listeners give to
a reason.
"""

import enum
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Right


class Reason(enum.StrEnum):
    """Why a request was let in or not, as the log says it."""

    OPEN = "open"
    KEY = "key"
    TOKEN = "token"  # noqa: S105 - a word of the log
    INSECURE = "insecure"
    NO_CREDENTIAL = "no_credential"
    UNKNOWN_KEY = "unknown_key"
    REPEATED_CREDENTIAL = "repeated_credential"
    WEAK_SECRET = "weak_secret"  # noqa: S105 - a word of the log
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    BAD_SIGNATURE = "bad_signature"
    WRONG_ALGORITHM = "wrong_algorithm"
    CLAIMS_NOT_JUDGED = "claims_not_judged"
    TOKEN_REVOKED = "token_revoked"  # noqa: S105 - a word of the log
    NETWORK_NOT_ALLOWED = "network_not_allowed"
    PATH_NOT_NORMAL = "path_not_normal"
    PATH_NOT_ALLOWED = "path_not_allowed"
    RIGHT_TOO_SMALL = "right_too_small"
    COLLECTION_NOT_ALLOWED = "collection_not_allowed"
    BODY_NOT_JUDGED = "body_not_judged"
    TOO_MANY_FAILURES = "too_many_failures"
    TOO_MANY_WAITING = "too_many_waiting"
    RATE_LIMITED = "rate_limited"


GUESSES = frozenset({Reason.UNKNOWN_KEY, Reason.WEAK_SECRET, Reason.BAD_SIGNATURE, Reason.WRONG_ALGORITHM})
"""What somebody who tries secrets is told: so many of these, and a network has to wait."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What a key has left of its rate: `limit` requests per second, `remaining` at once, whole again after
    `reset` seconds. `retry_after` is in seconds, where the request came too early."""

    limit: float
    remaining: int
    reset: float
    retry_after: float = 0.0


class Allowed(NamedTuple):
    """Let in. `credential` is None where no key was needed.

    `lookups`: only if the body names no collection that the credential does not reach, see
    `admission.judge_body`. A tuple, because one is made for every request.
    """

    reason: Reason
    credential: Credential | None = None
    needed: Right | None = None
    lookups: bool = False
    quota: Quota | None = None

    @property
    def key_id(self) -> str | None:
        return self.credential.id if self.credential is not None else None

    @property
    def right(self) -> Right | None:
        return self.credential.right if self.credential is not None else None


@dataclass(frozen=True, slots=True)
class Denied:
    """Not let in. `message` is for the client and names no secret; `retry_after` is in seconds.

    `credential` is what was presented, where it is known; it is not enough.
    """

    reason: Reason
    message: str
    credential: Credential | None = None
    needed: Right | None = None
    retry_after: float | None = None
    quota: Quota | None = None

    @property
    def key_id(self) -> str | None:
        return self.credential.id if self.credential is not None else None


@dataclass(frozen=True, slots=True)
class Unverified:
    """A token whose signature takes too long to verify beside everything else.

    `verify` does so, in any thread: the credential that it is, or why it is none. The answer is good for as
    long as the generation's rules for tokens are; `digest` is what it is remembered by. `expires` is in
    seconds of the epoch: a token that is over by its own account needs no verification.
    """

    digest: bytes = field(repr=False)
    verify: Callable[[], Credential | Denied] = field(repr=False)
    expires: float | None = None
