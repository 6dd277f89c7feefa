"""What `rekeyd keys list` tells, and which keys may go.

The rule of "safe to remove" (`RULE`): a key that can't be used any more, or that was not used for `IDLE` days
in which somebody watched. What is not known is called unknown, never safe.

Pure. Must not know: where the evidence of use is kept.
"""

import datetime as dt
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from rekeyd.access.key_words import by_id, last_expiry, may
from rekeyd.access.keys import Credential
from rekeyd.access.rights import Limits
from rekeyd.formats.moments import written
from rekeyd.telemetry.evidence import Usage

IDLE = dt.timedelta(days=30)
FRESH = dt.timedelta(days=7)
"""A key that was used within this time is not removed without `--force`."""
RULE = (
    "Safe to remove is a key whose secrets have all expired (after a rotation or `retire`: the overlap is "
    f"over), or one that was not used for {IDLE.days} days of which there is evidence."
)
HEAD = ("KEY", "MAY", "LAST USED", "IDLE FOR", "EXPIRES", "STATE", "SAFE TO REMOVE")


@dataclass(frozen=True, slots=True)
class Evidence:
    """When keys were last used, by id (None: never), and since when somebody watched (None: unknown).

    `complete`: of an id that is not among them it is known that it was never used. `busy` are the ids of keys
    on which something rests that is running now.
    """

    uses: Mapping[str, dt.datetime | None] = field(default_factory=dict)
    since: dt.datetime | None = None
    complete: bool = False
    busy: frozenset[str] = frozenset()

    @classmethod
    def in_status(cls, status: Mapping[str, Any]) -> "Evidence":
        """As a running daemon tells it."""
        keys = [entry for entry in status.get("keys", ()) if "last_used" in entry]
        uses = {str(entry["id"]): _time(entry["last_used"]) for entry in keys}
        busy = frozenset(str(entry["id"]) for entry in keys if entry.get("in_use"))
        return cls(uses, _time((status.get("evidence") or {}).get("since")), busy=busy)

    @classmethod
    def in_usage(cls, usage: Usage) -> "Evidence":
        """As a daemon left it behind."""
        uses = {key_id: _of_epoch(use.last_used) for key_id, use in usage.keys.items()}
        return cls(uses, _of_epoch(usage.since), complete=True)

    def knows_of(self, key_id: str) -> bool:
        return self.complete or key_id in self.uses


NOTHING_KNOWN = Evidence()


@dataclass(frozen=True, slots=True)
class Key:
    """A key of the key file with its secrets, at a moment."""

    id: str
    secrets: tuple[Credential, ...]
    now: dt.datetime

    @property
    def expires(self) -> dt.datetime | None:
        """When its last secret does; None: never."""
        return last_expiry(self.secrets)

    @property
    def expired(self) -> bool:
        return self.expires is not None and self.expires <= self.now

    @property
    def begins(self) -> dt.datetime | None:
        """When its latest secret begins to be valid; None: unknown."""
        begins = [secret.not_before for secret in self.secrets]
        return None if None in begins else _of_epoch(max(begin for begin in begins if begin is not None))

    @property
    def state(self) -> str:
        now = self.now.timestamp()
        valid = [s for s in self.secrets if (s.not_before or 0.0) <= now < (s.expires or float("inf"))]
        if self.expired:
            return "expired"
        if not valid:
            return "not valid yet"
        return f"{len(valid)} secrets" if len(valid) > 1 else "valid"

    def unused_for(self, evidence: Evidence) -> dt.timedelta | None:
        """For how long it is known to be unused; None where nothing is known."""
        if not evidence.knows_of(self.id):
            return None
        if self.id in evidence.busy:
            return dt.timedelta()
        last = evidence.uses.get(self.id)
        if last is not None:
            return self.now - last
        if evidence.since is None or self.begins is None:
            return None
        return self.now - max(evidence.since, self.begins)

    def safe_to_remove(self, evidence: Evidence) -> bool | None:
        """None: unknown."""
        if self.expired:
            return True
        unused = self.unused_for(evidence)
        return None if unused is None else unused >= IDLE


def keys_among(credentials: Iterable[Credential], now: dt.datetime) -> list[Key]:
    """In the order of the file."""
    return [Key(key_id, secrets, now) for key_id, secrets in by_id(credentials).items()]


def rows(keys: Iterable[Key], evidence: Evidence) -> Iterator[tuple[str, ...]]:
    """For a person; see `HEAD`."""
    for key in keys:
        last, unused = evidence.uses.get(key.id), key.unused_for(evidence)
        seen = evidence.knows_of(key.id)
        yield (
            key.id,
            may(key.secrets[0]),
            "now" if key.id in evidence.busy else written(last) if last else "never" if seen else "unknown",
            length(unused) if unused is not None else "unknown",
            written(key.expires) if key.expires else "never",
            key.state,
            {True: "yes", False: "no", None: "unknown"}[key.safe_to_remove(evidence)],
        )


def records(keys: Iterable[Key], evidence: Evidence, notes: Mapping[str, str]) -> list[dict[str, Any]]:
    """For a program: times are ISO 8601, durations seconds, null is unknown or none."""
    return [
        {
            "id": key.id,
            "right": None if key.secrets[0].limits.collections is not None else str(key.secrets[0].right),
            **limits_of(key.secrets[0].limits),
            "note": notes.get(key.id),
            "last_used": _iso(evidence.uses.get(key.id)),
            "unused_for": None if (unused := key.unused_for(evidence)) is None else unused.total_seconds(),
            "expires": _iso(key.expires),
            "state": key.state,
            "safe_to_remove": key.safe_to_remove(evidence),
            "secrets": [
                {"not_before": _iso(_of_epoch(s.not_before)), "expires": _iso(_of_epoch(s.expires))}
                for s in key.secrets
            ],
        }
        for key in keys
    ]


def limits_of(limits: Limits) -> dict[str, Any]:
    """As JSON."""
    named = limits.collections
    return {
        "collections": None if named is None else {name: reach.value for name, reach in named},
        "paths": [path.decode() for path in limits.paths],
        "networks": [str(network) for network in limits.networks],
        "rate": limits.rate,
    }


def length(duration: dt.timedelta) -> str:
    """`3d`, `5h`, `12m`."""
    seconds = max(0, int(duration.total_seconds()))
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def _of_epoch(seconds: float | None) -> Any:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC)


def _iso(moment: dt.datetime | None) -> str | None:
    return None if moment is None else written(moment)


def _time(value: object) -> dt.datetime | None:
    return dt.datetime.fromisoformat(value) if isinstance(value, str) else None
