"""What the claims of a token grant (RFC 7519, 4; Qdrant's `access`), or why they can't be judged.

The rules. `access` is `r`, `m`, or a list of `{collection, access: r | rw | prw}`. A claim that narrows a
token in a way that can't be seen from the outside (`value_exists`, `payload`), a word or a member that is not
known, a wrong type: the token is refused, never taken for less narrow than it is. A collection's name stands
for itself, so one with the `*` of our own limits in it is refused. Other claims that are not known are none
of ours (RFC 7519, 4). `null` is as good as absent, as in Qdrant, but for `access`.

Qdrant's own tokens need no claim at all; without `access` they may do everything, as in Qdrant. Those of an
issuer must say `iss`, `aud`, `exp` and `access`.

Must not know: signatures, or the clock: a grant says from when to when it holds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekeyd.access.rights import ANY, UNLIMITED, Limits, Reach, Right
from rekeyd.access.token_form import UnjudgeableTokenError

LEEWAY = 30.0
"""Seconds by which clocks may differ, as in Qdrant."""
LONGEST_NAME = 256
"""Characters of a subject, a token's id, a collection's name."""

_EVERYWHERE = {"r": Right.READ, "m": Right.MANAGE}
_REACHES = {"r": Reach.READ, "prw": Reach.POINTS, "rw": Reach.WRITE}
_OF_AN_ENTRY = frozenset({"collection", "access", "payload"})


@dataclass(frozen=True, slots=True)
class Terms:
    """What is asked of claims; `leeway` is in seconds. Without `issuer` and `audience` no token of an issuer
    is meant for us."""

    leeway: float = LEEWAY
    issuer: str | None = None
    audience: str | None = None


@dataclass(frozen=True, slots=True)
class Grant:
    """What claims grant, from `not_before` until `expires`: seconds of the epoch, the leeway included."""

    right: Right
    limits: Limits
    not_before: float | None
    expires: float | None
    subject: str | None
    token_id: str | None


def granted_by_issuer(claims: Mapping[str, Any], terms: Terms) -> Grant:
    """What an issuer's token grants, if the signature is good. Raises `UnjudgeableTokenError`."""
    _meant_for_us(claims, terms)
    return granted_by(claims, terms.leeway)


def granted_by(claims: Mapping[str, Any], leeway: float) -> Grant:
    """What one of Qdrant's own grants, if the signature is good. Raises `UnjudgeableTokenError`."""
    if claims.get("value_exists") is not None:
        raise UnjudgeableTokenError("the token's claim value_exists can't be judged here")
    _time(claims, "iat")  # a time, but RFC 7519, 4.1.6 draws no conclusion from it
    not_before, expires = _time(claims, "nbf"), _time(claims, "exp")
    right, limits = _access(claims["access"]) if "access" in claims else (Right.MANAGE, UNLIMITED)
    subject, sub = _name(claims, "subject"), _name(claims, "sub")
    return Grant(
        right,
        limits,
        None if not_before is None else not_before - leeway,
        None if expires is None else expires + leeway,
        subject if subject is not None else sub,
        _name(claims, "jti"),
    )


def _meant_for_us(claims: Mapping[str, Any], terms: Terms) -> None:
    if terms.issuer is None or claims.get("iss") != terms.issuer:
        raise UnjudgeableTokenError("the token is not from the issuer that is believed here")
    audience = claims.get("aud")
    audiences = audience if isinstance(audience, list) else [audience]
    if (
        terms.audience is None
        or terms.audience not in audiences
        or not all(isinstance(each, str) for each in audiences)
    ):
        raise UnjudgeableTokenError("the token is meant for another audience")
    for claim in ("exp", "access"):
        if claims.get(claim) is None:
            raise UnjudgeableTokenError(f"the token lacks the claim {claim}")


def _time(claims: Mapping[str, Any], claim: str) -> float | None:
    """A NumericDate (RFC 7519, 2)."""
    value = claims.get(claim)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnjudgeableTokenError(f"the token's claim {claim} is not a time")
    return float(value)


def _name(claims: Mapping[str, Any], claim: str) -> str | None:
    """A text that may be told: what would have to be changed for a log could be taken for another."""
    value = claims.get(claim)
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > LONGEST_NAME or not value.isprintable():
        raise UnjudgeableTokenError(f"the token's claim {claim} is not a short text")
    return value


def _access(access: Any) -> tuple[Right, Limits]:
    if isinstance(access, str) and access in _EVERYWHERE:
        return _EVERYWHERE[access], UNLIMITED
    if not isinstance(access, list):
        raise UnjudgeableTokenError("the token's claim access is not one that is known")
    reaches = dict(_entry(entry) for entry in access)
    if len(reaches) != len(access):
        raise UnjudgeableTokenError("the token's claim access names a collection twice")
    right = max((reach.right for reach in reaches.values()), default=Right.READ)
    return right, Limits(collections=tuple(reaches.items()))


def _entry(entry: Any) -> tuple[str, Reach]:
    if not isinstance(entry, dict) or not entry.keys() <= _OF_AN_ENTRY:
        raise UnjudgeableTokenError("the token's claim access has an entry of a form that is not known")
    if entry.get("payload") is not None:
        raise UnjudgeableTokenError(
            "the token's claim access has a payload filter, which can't be judged here"
        )
    collection, word = entry.get("collection"), entry.get("access")
    if not isinstance(word, str) or word not in _REACHES:
        raise UnjudgeableTokenError("the token's claim access has a word that is not known")
    if not isinstance(collection, str) or not _is_collection(collection):
        raise UnjudgeableTokenError("the token's claim access has a collection whose name can't be one")
    return collection, _REACHES[word]


def _is_collection(name: str) -> bool:
    return 0 < len(name) <= LONGEST_NAME and name.isprintable() and ANY not in name
