"""Evidence of use: for each key when it was first and last used, and what came of its requests.

The rules:

1. A *use* is a request that was let in by the key, or by a token that it vouches for, told when its answer
   is finished (a stream or WebSocket when it ends). A denial with a known key is counted for that key, by
   reason, and is no use. A path that is open to all is no use either, whatever key came along.
2. Only ids that a generation knows, or knew when they were first seen, are counted: nothing that a client
   sends makes an entry.
3. Memory is bounded: of more than `KEYS` ids the one that has asked least recently is forgotten first.
   `since` says from when on "never used" is certain, and moves to the last use of whatever is forgotten.
4. A clock that is set back makes no last use earlier: a key that is in use must not look idle.

Plain numbers, because this is done at every request; everything belongs to the event loop's thread, but `of`
may be asked from any. Pure: `now` is passed in, in seconds of the epoch. Must not know: where this is kept.
"""

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from rekeyd.access.verdict import Reason
from rekeyd.telemetry.decisions import Decision
from rekeyd.telemetry.tallies import OTHER
from rekeyd.trust.generation import Generation

KEYS = 131_072
"""Ids that are remembered."""
VERSION = 1
LARGEST = 128 << 20
"""Bytes of a file that may be one of ours: more than `KEYS` entries take."""

_REASONS = frozenset(map(str, Reason))
_PIECE = 100


class NotUsageError(Exception):
    """These bytes are no evidence that was kept."""


class NewerUsageError(Exception):
    """A later version has written these bytes: they are to be left alone."""


@dataclass(frozen=True, slots=True)
class KeyUse:
    """What is known of one key. Times are in seconds of the epoch; `denied` counts by reason."""

    first_used: float | None = None
    last_used: float | None = None
    allowed: int = 0
    denied: Mapping[str, int] = field(default_factory=dict)


UNUSED = KeyUse()


@dataclass(frozen=True, slots=True)
class Usage:
    """Evidence as it is kept: by key id, those that have asked least recently first.

    An id that is not in `keys` has not been used since `since` (seconds of the epoch), but for what a crash
    took.
    """

    since: float
    keys: Mapping[str, KeyUse]


class _Record:
    """`KeyUse` while it is counted. A tuple or a dict would be made anew for every request."""

    __slots__ = ("allowed", "denied", "first", "id", "last")

    def __init__(self, key_id: str, use: KeyUse = UNUSED) -> None:
        self.id = key_id
        self.first = use.first_used
        self.last = use.last_used
        self.allowed = use.allowed
        self.denied = dict(use.denied) if use.denied else None

    def add(self, use: KeyUse) -> None:
        self.first = min(filter(None, (self.first, use.first_used)), default=None)
        self.last = max(filter(None, (self.last, use.last_used)), default=None)
        self.allowed += use.allowed
        for reason, count in use.denied.items():
            self.denied = self.denied or {}
            self.denied[reason] = self.denied.get(reason, 0) + count

    def use(self) -> KeyUse:
        denied = self.denied
        return KeyUse(self.first, self.last, self.allowed, denied.copy() if denied else {})


class Evidence:
    """Counts decisions by key id. `since` is in seconds of the epoch: when counting began."""

    def __init__(
        self,
        generation: Callable[[], Generation | None],
        *,
        now: Callable[[], float],
        keys: int = KEYS,
    ) -> None:
        self._generation = generation
        self._now = now
        self._most = keys
        self._records: OrderedDict[str, _Record] = OrderedDict()
        self.since = now()
        self.changes = 0
        """Grows with each decision that is counted: the same number means that nothing is new."""

    def decided(self, decision: Decision) -> None:
        """A request was answered, or given up."""
        key_id = decision.key_id
        if key_id is None:
            return
        record = self._records.get(key_id)
        if record is None:
            record = self._first_seen(key_id)
            if record is None:
                return
        else:
            self._records.move_to_end(key_id)
        self.changes += 1
        if decision.decision == "allowed":
            record.allowed += 1
            now = self._now()
            if record.last is None or now > record.last:
                record.last = now
            if record.first is None:
                record.first = now
        else:
            _count(record, decision.reason)

    def of(self, key_id: str) -> KeyUse:
        """What is known of a key. May be asked from any thread."""
        record = self._records.get(key_id)
        return UNUSED if record is None else record.use()

    def last_used(self, key_id: str) -> float | None:
        """In seconds of the epoch."""
        record = self._records.get(key_id)
        return None if record is None else record.last

    def restore(self, usage: Usage) -> None:
        """Begin with what was kept, in the place of whatever has been counted so far."""
        self.since = usage.since
        self._records.clear()
        for key_id, use in usage.keys.items():
            self._records[key_id] = _Record(key_id, use)
        self._forget_the_oldest()

    def take(self) -> Usage:
        """What has been counted since it was last taken; another process adds it up (see `add`)."""
        usage = Usage(self.since, {record.id: record.use() for record in self._records.values()})
        self._records.clear()
        return usage

    def add(self, usage: Usage) -> None:
        """Count what another process has taken; of its ids those that asked most recently come last."""
        for key_id, use in usage.keys.items():
            record = self._records.pop(key_id, None) or _Record(key_id)
            self._records[key_id] = record
            record.add(use)
            self.changes += 1
        self._forget_the_oldest()

    def snapshot(self) -> Callable[[], Iterator[bytes]]:
        """Evidence as it is kept, to be rendered piece by piece in another thread while counting goes on."""
        since, records = self.since, list(self._records.values())
        return lambda: _rendered(since, records)

    def _first_seen(self, key_id: str) -> _Record | None:
        generation = self._generation()
        if generation is None or key_id not in generation.ring.ids:
            return None
        record = self._records[key_id] = _Record(key_id)
        self._forget_the_oldest()
        return record

    def _forget_the_oldest(self) -> None:
        while len(self._records) > self._most:
            _, forgotten = self._records.popitem(last=False)
            if forgotten.last is not None:
                self.since = max(self.since, forgotten.last)


def _count(record: _Record, reason: str | None) -> None:
    known = str(reason) if reason in _REASONS else OTHER
    if record.denied is None:
        record.denied = {known: 1}
    else:
        record.denied[known] = record.denied.get(known, 0) + 1


# As it is kept


def usage_as_kept(usage: Usage) -> bytes:
    """The bytes that `usage_in` reads."""
    return b"".join(_rendered(usage.since, [_Record(key_id, use) for key_id, use in usage.keys.items()]))


def _rendered(since: float, records: Iterable[_Record]) -> Iterator[bytes]:
    """In pieces: orjson holds the interpreter while it works, so that all at once would hold up requests, and
    so would the garbage collector, which looks at everything when many objects have been made at once."""
    yield b'{"version":%d,"since":%b,"keys":{' % (VERSION, orjson.dumps(_milliseconds(since)))
    piece: dict[str, dict[str, Any]] = {}
    begun = False
    for record in records:
        piece[record.id] = _entry(record.use())
        if len(piece) == _PIECE:
            yield (b",\n" if begun else b"\n") + orjson.dumps(piece)[1:-1]
            piece, begun = {}, True
    if piece:
        yield (b",\n" if begun else b"\n") + orjson.dumps(piece)[1:-1]
    yield b"\n}}\n"


def _entry(use: KeyUse) -> dict[str, Any]:
    return {
        "first_used": _milliseconds(use.first_used),
        "last_used": _milliseconds(use.last_used),
        "allowed": use.allowed,
        "denied": use.denied,
    }


def _milliseconds(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


def usage_in(source: bytes) -> Usage:
    """Read what was kept. Of more than `KEYS` entries those that have asked most recently count.

    Raises:
        NewerUsageError: a later version has written it.
        NotUsageError: it is torn, or something else.
    """
    if len(source) > LARGEST:
        raise NotUsageError("it is too large")
    try:
        tree = orjson.loads(source)
    except orjson.JSONDecodeError:
        raise NotUsageError("it is no JSON, or not all of it is there") from None
    version = tree.get("version") if isinstance(tree, dict) else None
    if type(version) is not int or version < 1:
        raise NotUsageError("it has no version")
    if version > VERSION:
        raise NewerUsageError(f"it has version {version}, and this rekeyd knows {VERSION}")
    keys = tree.get("keys")
    if not isinstance(keys, dict):
        raise NotUsageError("it has no keys")
    # Without a moment it would claim to know everything from the beginning of time.
    since = _moment(tree.get("since"), "since")
    if since is None:
        raise NotUsageError("since is missing")
    recent = list(keys.items())[-KEYS:]
    return Usage(since, {key_id: _use_in(entry) for key_id, entry in recent})


def _use_in(entry: object) -> KeyUse:
    if not isinstance(entry, dict):
        raise NotUsageError("an entry is no mapping")
    denied = entry.get("denied", {})
    if not isinstance(denied, dict):
        raise NotUsageError("denied is no mapping")
    counts: Counter[str] = Counter()
    for reason, count in denied.items():
        counts[reason if reason in _REASONS else OTHER] += _count_in(count, "denied")
    return KeyUse(
        _moment(entry.get("first_used"), "first_used"),
        _moment(entry.get("last_used"), "last_used"),
        _count_in(entry.get("allowed"), "allowed"),
        dict(counts),
    )


def _moment(value: object, name: str) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _LAST:
        raise NotUsageError(f"{name} is no time")
    return float(value)


_LAST = 253_402_300_800.0
"""The end of year 9999, beyond which a time has no ISO 8601 form of ours."""


_MOST_COUNTED = 1 << 53
"""What a number in JSON can say exactly to everybody (RFC 8259, 6)."""


def _count_in(value: object, name: str) -> int:
    if type(value) is not int or not 0 <= value < _MOST_COUNTED:
        raise NotUsageError(f"{name} is no count")
    return value
