"""A key in a few words, the same in `rekeyd check` and in `rekeyd keys`: what it may do, and until when.

Must not know: who is told.
"""

import datetime as dt
from collections.abc import Iterable, Sequence

from rekeyd.access.keys import Credential

_NAMED = 3
"""Collections, paths and networks that are named one by one."""


def by_id(credentials: Iterable[Credential]) -> dict[str, tuple[Credential, ...]]:
    """Each key with its secrets, in the order in which they come."""
    found: dict[str, list[Credential]] = {}
    for credential in credentials:
        found.setdefault(credential.id, []).append(credential)
    return {key_id: tuple(secrets) for key_id, secrets in found.items()}


def may(credential: Credential) -> str:
    """What a key may do: `read`, `books=read,logs-*=points from 10.0.0.0/8 50/s`."""
    limits = credential.limits
    named = limits.collections
    parts = [str(credential.right)] if named is None else [_some([f"{n}={r.value}" for n, r in named])]
    if limits.paths:
        parts.append(f"below {_some([path.decode() for path in limits.paths])}")
    if limits.networks:
        parts.append(f"from {_some([str(network) for network in limits.networks])}")
    if limits.rate is not None:
        parts.append(f"{limits.rate:g}/s")
    return " ".join(parts)


def last_expiry(secrets: Iterable[Credential]) -> dt.datetime | None:
    """When the last secret of a key expires; None: never."""
    ends = [float("inf") if secret.expires is None else secret.expires for secret in secrets]
    last = max(ends)
    return None if last == float("inf") else dt.datetime.fromtimestamp(last, dt.UTC)


def _some(names: Sequence[str]) -> str:
    return ",".join(names[:_NAMED]) + (f",+{len(names) - _NAMED}" if len(names) > _NAMED else "")
