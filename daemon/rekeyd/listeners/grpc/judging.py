"""The decision about one call, as this listener asks for it, and its statuses in gRPC.

The rule: who gets in is decided by the same function as for HTTP (`trust/access.py`), what a method needs by
the same policy; a method that it does not name needs the highest right. Must not know: frames.
"""

import importlib.resources
from collections.abc import Awaitable
from dataclasses import dataclass
from functools import lru_cache

from rekeyd.http2.fields import Fields
from rekeyd.trust.access import Allowed, Denied, Presented, Reason, decide
from rekeyd.trust.generation import Generation
from rekeyd.trust.policy import Policy, parse_policy

_STATUS_OF = {
    Reason.NO_CREDENTIAL: 16,
    Reason.UNKNOWN_KEY: 16,
    Reason.REPEATED_CREDENTIAL: 3,
    Reason.PATH_NOT_NORMAL: 3,
    Reason.RIGHT_TOO_SMALL: 7,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked, by whom. `method` is a full name as `qdrant.Points/Search`; `client` an address;
    `collection` the name in the message, where it was asked for and `read`."""

    method: str
    fields: Fields
    client: str
    collection: bytes | None = None
    read: bool = False


@dataclass(frozen=True, slots=True)
class NeedsCollection:
    """It depends on the collection that this field of the message names."""

    field: int = 1


Judgement = Allowed | Denied | NeedsCollection


def judge(asked: Asked, generation: Generation) -> Judgement | Awaitable[Judgement]:
    """Whether a call is let in; what is awaited comes later, and other calls go on meanwhile."""
    policy, path = _policy(generation), b"/" + asked.method.encode()
    if path in policy.open_paths:
        return Allowed(Reason.OPEN)
    return decide(
        b"POST",
        path,
        Presented.among(asked.fields),
        ring=generation.ring,
        policy=policy,
        insecure=generation.settings.service.insecure,
    )


def status_of(denied: Denied) -> int:
    """The status of gRPC (README, "Who gets in")."""
    return _STATUS_OF.get(denied.reason, 7)


@lru_cache
def _shipped() -> Policy:
    source = importlib.resources.files("rekeyd") / "policies" / "qdrant_grpc.yaml"
    return parse_policy(source.read_bytes(), file="qdrant_grpc")


_NOTHING = Policy.of("", (), ())


def _policy(generation: Generation) -> Policy:
    return _shipped() if generation.settings.access.policy == "qdrant" else _NOTHING
