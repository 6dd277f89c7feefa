"""Who gets in: the one decision that every listener asks for.

The rule, in this order (README, "Who gets in"):

1. An open path is open, whatever credential comes along.
2. The same credential header twice is a bad request: two servers could read two different keys.
3. `api-key` is looked at first; only without it `Authorization`, whose scheme Bearer has no case (RFC 9110,
   11.1).
   An invalid `api-key` is not saved by a valid bearer token.
4. What is no key may be a token. Either must be valid at this moment, and come from where it may.
5. A path that is not in normal form needs the highest right without limits, and with less is a bad request.
6. The policy says which right is needed. Who is limited to collections needs a rule that says which part of
   the path is one, or that the answer is for everybody who may read (`shared`).

Must not know: sockets, the clock (`now` is passed in), HTTP statuses or gRPC codes.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from rekeyd.access.key_form import weakness_of
from rekeyd.access.keys import Credential, KeyRing, digest_of
from rekeyd.access.lookups import UnjudgeableError, collections_named_in
from rekeyd.access.paths import layers
from rekeyd.access.policy import Policy, Reading, Rule
from rekeyd.access.rights import Right
from rekeyd.access.tokens import TokenRules
from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified


class Presented:
    """The credentials of one request, as they came.

    `repeated`: the same header came twice. `secret` is the key or token to judge, and `digest` what it may be
    known by; None where none was presented.
    """

    __slots__ = ("digest", "repeated", "secret")

    def __init__(self, api_keys: Sequence[bytes] = (), authorizations: Sequence[bytes] = ()) -> None:
        self.repeated = len(api_keys) > 1 or len(authorizations) > 1
        self.secret = secret = api_keys[0] if api_keys else _bearer_of(authorizations)
        self.digest = None if secret is None else digest_of(secret)

    def __repr__(self) -> str:
        return "Presented(…)"

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
        return cls(keys, authorizations) if keys or authorizations else NOTHING


def _bearer_of(authorizations: Sequence[bytes]) -> bytes | None:
    if not authorizations:
        return None
    scheme, _, token = authorizations[0].partition(b" ")
    return token.strip(b" ") if scheme.lower() == b"bearer" else None


NOTHING = Presented()


@dataclass(frozen=True, slots=True)
class Ask:
    """What is asked: `method` on `path` (the target's bytes up to `?`), by `client`, an address."""

    method: bytes
    path: bytes
    presented: Presented = NOTHING
    client: str = ""


class Grounds(Protocol):
    """What a decision rests on: a generation. `open_to_all`: no credential is configured, on purpose."""

    @property
    def ring(self) -> KeyRing: ...

    @property
    def tokens(self) -> TokenRules: ...

    @property
    def policy(self) -> Policy: ...

    @property
    def open_to_all(self) -> bool: ...


Verified = Mapping[bytes, Credential | Denied]
"""What came of verifying tokens, by `Unverified.digest`."""


_OPEN, _INSECURE = Allowed(Reason.OPEN), Allowed(Reason.INSECURE)
_REPEATED_CREDENTIAL = Denied(Reason.REPEATED_CREDENTIAL, "The same credential header came twice")
_NO_CREDENTIAL = Denied(Reason.NO_CREDENTIAL, "Must provide an API key or an Authorization bearer token")
_UNKNOWN_KEY = Denied(Reason.UNKNOWN_KEY, "Invalid API key or JWT")


def decide(ask: Ask, grounds: Grounds, now: float, verified: Verified) -> Allowed | Denied | Unverified:
    """Whether a request is allowed at `now`, in seconds of the epoch."""
    reading = grounds.policy.read(ask.method, ask.path)
    if reading.is_open:
        return _OPEN
    presented = ask.presented
    if presented.repeated:
        return _REPEATED_CREDENTIAL
    if grounds.open_to_all:
        return _INSECURE
    secret = presented.secret
    if secret is None:
        return _NO_CREDENTIAL
    credential = grounds.ring.find(secret, presented.digest)
    if credential is None:
        token = _token(presented, grounds.tokens, verified, now)
        return _admit(ask, token, reading, now) if isinstance(token, Credential) else token
    if credential.named and weakness_of(secret):
        return Denied(Reason.WEAK_SECRET, "Invalid API key or JWT", credential)
    return _admit(ask, credential, reading, now)


def _token(
    presented: Presented, tokens: TokenRules, verified: Verified, now: float
) -> Credential | Denied | Unverified:
    secret, digest = presented.secret or b"", presented.digest or b""
    known = verified.get(digest) or tokens.read(secret)
    if isinstance(known, Unverified) and known.expires is not None and now >= known.expires:
        return Denied(Reason.EXPIRED, "The token has expired")
    return known or _UNKNOWN_KEY


def admit(ask: Ask, credential: Credential, policy: Policy, now: float) -> Allowed | Denied:
    """Whether a credential that is known is enough for what is asked."""
    return _admit(ask, credential, policy.read(ask.method, ask.path), now)


def _admit(ask: Ask, credential: Credential, reading: Reading, now: float) -> Allowed | Denied:
    if credential.expires is not None and now >= credential.expires:
        return Denied(Reason.EXPIRED, f"The {_called(credential)} has expired", credential)
    if credential.not_before is not None and now < credential.not_before:
        return Denied(Reason.NOT_YET_VALID, f"The {_called(credential)} is not valid yet", credential)
    if credential.limits.networks and not credential.limits.admit_client(ask.client):
        message = f"Forbidden: the {_called(credential)} may not be used from this network"
        return Denied(Reason.NETWORK_NOT_ALLOWED, message, credential)
    return _within_its_reach(ask, credential, reading)


def _called(credential: Credential) -> str:
    return "token" if credential.is_token else "API key"


def _within_its_reach(ask: Ask, credential: Credential, reading: Reading) -> Allowed | Denied:
    _, normal, rule = reading
    needed = rule.right if rule else Right.MANAGE
    limits = credential.limits
    narrow = bool(limits.paths) or limits.collections is not None
    if not normal and (narrow or credential.right < Right.MANAGE):
        return Denied(Reason.PATH_NOT_NORMAL, "The path is not in normal form", credential, needed)
    if limits.paths and not limits.admit_path(ask.path):
        return Denied(Reason.PATH_NOT_ALLOWED, "Forbidden: not for this path", credential, needed)
    if credential.right < needed:
        message = f"Forbidden: {needed} access is required"
        return Denied(Reason.RIGHT_TOO_SMALL, message, credential, needed)
    if limits.collections is not None and not _reaches(ask.path, credential, rule):
        message = f"Forbidden: {needed} access to the collection is required"
        return Denied(Reason.COLLECTION_NOT_ALLOWED, message, credential, needed)
    reason = Reason.TOKEN if credential.is_token else Reason.KEY
    lookups = limits.collections is not None and rule is not None and rule.lookup
    return Allowed(reason, credential, needed, lookups)


def _reaches(path: bytes, credential: Credential, rule: Rule | None) -> bool:
    """Whether a credential that is limited to collections reaches what the rule speaks of."""
    if rule is None:
        return False
    collection = rule.collection_in(path)
    if collection is not None:
        return credential.limits.admit_collection(layers(collection), rule.right, of_points=rule.points)
    held = credential.limits.collections or ()
    return rule.shared and any(reach.covers(rule.right, of_points=rule.points) for _, reach in held)


def objection_to(ask: Ask, credential: Credential | None, grounds: Grounds, now: float) -> str | None:
    """Why what was let in before would not be now, by `grounds`; None where it would.

    `credential` is the one that let it in; None where none was needed, because `open_to_all`.
    """
    if credential is None:
        return None if grounds.open_to_all else "a key is needed now"
    if credential.is_token:
        called, known = f"token of {credential.id}", credential
        if not grounds.tokens.upholds(credential):
            return f"{called} is not accepted any more"
    else:
        found = grounds.ring.with_digest(credential.digest)
        if found is None:
            return f"key {credential.id} was removed"
        called, known = f"key {found.id}", found
    verdict = admit(ask, known, grounds.policy, now)
    return f"{called} is not enough any more: {verdict.reason}" if isinstance(verdict, Denied) else None


def judge_body(verdict: Allowed, body: bytes, policy: Policy) -> Allowed | Denied:
    """The verdict on a request that was let in depending on the collections that its body names."""
    credential = verdict.credential
    if not verdict.lookups or credential is None:
        return verdict
    try:
        named = collections_named_in(body, policy.lookups)
    except UnjudgeableError as error:
        return Denied(Reason.BODY_NOT_JUDGED, f"Forbidden: {error}", credential, verdict.needed)
    reached = (credential.limits.admit_collection((name,), Right.READ, of_points=True) for name in named)
    if all(reached):
        return verdict
    message = "Forbidden: read access to each collection that the body names is required"
    return Denied(Reason.COLLECTION_NOT_ALLOWED, message, credential, verdict.needed)
