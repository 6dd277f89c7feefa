"""The entries of a key file, out of plain values: each key with its limits and secrets.

The rules are those of `key_file`: a complaint names the place and never what stands there. An entry that has
something wrong gives no credential; the others are looked at all the same.

Must not know: YAML and JSON, lines, or the file.
"""

import difflib
import ipaddress
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from rekeyd.access.key_form import ID
from rekeyd.access.keys import Credential
from rekeyd.access.paths import is_normal
from rekeyd.access.rights import ANY, UNLIMITED, IPNetwork, Limits, Reach, Right
from rekeyd.formats.moments import FIX as MOMENT_FIX
from rekeyd.formats.moments import WANTED as MOMENT_WANTED
from rekeyd.formats.moments import MomentError, parse_moment
from rekeyd.settings.kinds import alternatives, name_of_type

_KEY = ("id", "right", "collections", "paths", "networks", "rate", "note", "secrets")
_LIMITS = ("collections", "paths", "networks", "rate")
_SECRET = ("digest", "not_before", "expires")
_PLAINTEXT = frozenset({"secret", "key", "api_key", "value", "token", "password", "plaintext"})
_DIGEST = re.compile(r"(hmac-sha256|sha256):([0-9A-Fa-f]{64})", re.ASCII)
_PEPPER = re.compile(r"[0-9a-f]{8}", re.ASCII)
_RIGHTS = {str(right): right for right in Right}
_REACHES = {reach.value: reach for reach in Reach}
_MOST_PER_SECOND = 1_000_000
_LONGEST_NOTE = 1000
_LONGEST_COLLECTION = 255
_SOUND_TEXT = "Put it in quotes, so that YAML leaves it as it is"


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong at a place such as `keys[3].right`, and the remedy."""

    place: str
    message: str
    fix: str


class _UnfitError(Exception):
    """A value that won't do; `place` continues that of whoever asked for it."""

    def __init__(self, message: str, fix: str, place: str = "") -> None:
        self.message = message
        self.fix = fix
        self.place = place
        super().__init__(message)


@dataclass(slots=True)
class Entries:
    """What was read so far; `complain` hears what is wrong."""

    complain: Callable[[Complaint], None]
    credentials: list[Credential] = field(default_factory=list)
    notes: dict[str, str] = field(default_factory=dict)
    peppered: bool = False
    _ids: dict[str, int] = field(default_factory=dict)
    _alike: dict[Limits, Limits] = field(default_factory=dict)
    """Keys with the same limits share one value."""

    def keys(self, value: Any) -> None:
        """The list `keys`, or an iterator over it."""
        if value is None:
            return
        if isinstance(value, str | bytes | Mapping) or not hasattr(value, "__iter__"):
            message = f"must be a list of keys, not {name_of_type(value)}"
            self._say("keys", message, "Write `- id: NAME` below it")
            return
        for number, entry in enumerate(value, start=1):
            self._key(number, entry)

    def pepper(self, value: Any) -> str | None:
        if value is None:
            return None
        if isinstance(value, str) and _PEPPER.fullmatch(value):
            return value
        message = "must be the id of a pepper: 8 hex digits, in quotes"
        self._say("pepper", message, "`rekeyd keys new` writes it")
        return None

    def revoked_tokens(self, value: Any) -> frozenset[str]:
        if value is None:
            return frozenset()
        if isinstance(value, list) and all(isinstance(item, str) and item for item in value):
            return frozenset(value)
        self._say("revoked_tokens", "must be a list of token ids", 'Write `["ID"]`, each in quotes')
        return frozenset()

    def unknown(self, place: str, name: str, known: Sequence[str]) -> None:
        """A member that there is not. Its name is not repeated, unless it is a slip of a known one."""
        near = difflib.get_close_matches(name, known, n=1)
        if name in _PLAINTEXT and place:
            fix = "Remove it, take the secret for known, and make another one with `rekeyd keys rotate`"
            self._say(place, "holds a secret, where only its digest belongs", fix)
        elif near:
            here = f"{place}.{name}" if place else name
            self._say(here, "is unknown", f"The nearest known one is `{near[0]}`: correct it, or remove it")
        else:
            self._say(place, "has a member that is unknown", f"Use {alternatives(*known)}")

    def _say(self, place: str, message: str, fix: str) -> None:
        self.complain(Complaint(place, message, fix))

    # One key

    def _key(self, number: int, entry: Any) -> None:
        place = f"keys[{number}]"
        if type(entry) is not dict:
            message = f"must be a mapping, not {name_of_type(entry)}"
            self._say(place, message, f"Write {alternatives(*_KEY)} below it")
            return
        for name in entry.keys() - _KEY_SET:
            self.unknown(place, name, _KEY)
        key_id = self._id(number, entry)
        right, limits = self._attempt(place, "", _reach_of, entry) or (None, UNLIMITED)
        note = self._attempt(place, ".note", _note, entry.get("note"))
        secrets = self._secrets(place, entry.get("secrets"))
        if key_id is None or right is None:
            return
        if note:
            self.notes[key_id] = note
        limits = self._alike.setdefault(limits, limits)
        for digest, not_before, expires in secrets:
            self.credentials.append(
                Credential(key_id, right, digest, limits, not_before, expires, named=True)
            )

    def _id(self, number: int, entry: Mapping[str, Any]) -> str | None:
        place, value = f"keys[{number}].id", entry.get("id")
        if not isinstance(value, str) or ID.fullmatch(value) is None:
            fix = "Use letters, digits, dots and dashes, at most 64, beginning with a letter or digit"
            if isinstance(value, str | None):
                self._say(place, "must name the key", fix)
            else:
                self._say(place, f"must be text, not {name_of_type(value)}", _SOUND_TEXT)
            return None
        first = self._ids.setdefault(value, number)
        if first != number:
            self._say(place, f"is that of keys[{first}]", "Give each key an id of its own")
            return None
        return value

    def _secrets(self, place: str, value: Any) -> list[tuple[bytes, float | None, float | None]]:
        if type(value) is not list or not value:
            fix = "Write `- digest: sha256:…` below it, or remove the key"
            self._say(f"{place}.secrets", "must be a list with at least one secret", fix)
            return []
        found: dict[bytes, tuple[bytes, float | None, float | None]] = {}
        for number, item in enumerate(value, start=1):
            secret = self._secret(f"{place}.secrets[{number}]", item)
            if secret is not None and found.setdefault(secret[0], secret) is not secret:
                self._say(f"{place}.secrets[{number}].digest", "stands there twice", "Keep one")
        return list(found.values())

    def _secret(self, place: str, item: Any) -> tuple[bytes, float | None, float | None] | None:
        if type(item) is not dict:
            message = f"must be a mapping, not {name_of_type(item)}"
            self._say(place, message, "Write `digest: sha256:…`; a secret itself belongs in no file")
            return None
        for name in item.keys() - _SECRET_SET:
            self.unknown(place, name, _SECRET)
        digest = self._attempt(place, ".digest", _digest, item.get("digest"))
        begins = self._attempt(place, ".not_before", _moment, item.get("not_before"))
        ends = self._attempt(place, ".expires", _moment, item.get("expires"))
        if begins is not None and ends is not None and ends < begins:
            self._say(f"{place}.expires", "is before `not_before`", "Correct one of the two")
        if digest is None:
            return None
        self.peppered = self.peppered or digest[0]
        return digest[1], begins, ends

    def _attempt(self, place: str, name: str, read: Callable[[Any], Any], value: Any) -> Any:
        try:
            return read(value)
        except _UnfitError as unfit:
            self._say(f"{place}{name}{unfit.place}", unfit.message, unfit.fix)
            return None


_KEY_SET, _SECRET_SET = frozenset(_KEY), frozenset(_SECRET)


def _reach_of(entry: Mapping[str, Any]) -> tuple[Right, Limits]:
    """The highest right that the key has anywhere, and what narrows it."""
    right = _right(entry)
    if not any(name in entry for name in _LIMITS):
        if right is None:
            raise _UnfitError("says neither `right` nor `collections`", "Add one of the two")
        return right, UNLIMITED
    collections = _collections(entry.get("collections"))
    if right is None and collections is None:
        raise _UnfitError("says neither `right` nor `collections`", "Add one of the two")
    if right is not None and collections is not None:
        fix = "Keep one: `right` holds for every collection"
        raise _UnfitError("says both `right` and `collections`", fix)
    limits = Limits(
        collections, _paths(entry.get("paths")), _networks(entry.get("networks")), _rate(entry.get("rate"))
    )
    return right or max(reach.right for _, reach in collections or ()), limits


def _right(entry: Mapping[str, Any]) -> Right | None:
    value = entry.get("right")
    right = _RIGHTS.get(value) if isinstance(value, str) else None
    if right is None and value is not None:
        raise _UnfitError("is no right", f"Write {alternatives(*_RIGHTS)}", ".right")
    return right


def _collections(value: Any) -> tuple[tuple[str, Reach], ...] | None:
    if value is None:
        return None
    fix = f"Write `{{NAME: read}}`; there are {alternatives(*_REACHES)}, and `NAME*` for all that begin so"
    if type(value) is not dict or not value:
        raise _UnfitError("must map names of collections to what may be done there", fix, ".collections")
    found = []
    for name, reach in value.items():
        if not 0 < len(name) <= _LONGEST_COLLECTION or ANY in name[:-1] or not name.isprintable():
            raise _UnfitError("has a name that no collection has", fix, ".collections")
        if not isinstance(reach, str) or reach not in _REACHES:
            raise _UnfitError("allows what can't be had for one collection", fix, ".collections")
        found.append((name, _REACHES[reach]))
    return tuple(found)


def _paths(value: Any) -> tuple[bytes, ...]:
    if value is None:
        return ()
    items = value if type(value) is list else []
    sound = all(isinstance(p, str) and p.isascii() and is_normal(p.encode()) for p in items)
    if not (items and sound):
        fix = "Write `[/collections/books]`, each as requests have it and in normal form"
        raise _UnfitError("must be a list of paths", fix, ".paths")
    return tuple(path.encode() for path in items)


def _networks(value: Any) -> tuple[IPNetwork, ...]:
    if value is None:
        return ()
    wrong = _UnfitError(
        "must be a list of networks",
        'Write `["10.0.0.0/8", "::1"]`; 10.1.2.3/8 belongs to `10.0.0.0/8`',
        ".networks",
    )
    if type(value) is not list or not value or not all(isinstance(item, str) for item in value):
        raise wrong
    try:
        return tuple(map(_network, value))
    except ValueError:
        raise wrong from None


@lru_cache(maxsize=1024)
def _network(text: str) -> IPNetwork:
    """Many keys come from the same few."""
    return ipaddress.ip_network(text)


def _rate(value: Any) -> float | None:
    if value is None:
        return None
    if type(value) not in (int, float) or not 0 < value <= _MOST_PER_SECOND:
        message = f"must be a number of requests per second, more than 0 and at most {_MOST_PER_SECOND}"
        raise _UnfitError(message, "Write a number, without quotes", ".rate")
    return float(value)


def _note(value: Any) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str) or len(value) > _LONGEST_NOTE:
        raise _UnfitError(f"must be text of at most {_LONGEST_NOTE} characters", _SOUND_TEXT)
    return value


def _digest(value: Any) -> tuple[bool, bytes]:
    """Whether it is peppered, and the digest."""
    found = _DIGEST.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        fix = "Write `sha256:` or `hmac-sha256:` and 64 hex digits; a secret itself belongs in no file"
        raise _UnfitError("is no digest", fix)
    return found[1] != "sha256", bytes.fromhex(found[2])


def _moment(value: Any) -> float | None:
    if value is None:
        return None
    if not isinstance(value, str):
        raise _UnfitError(f"must be {MOMENT_WANTED}", MOMENT_FIX)
    try:
        return _seconds(value)
    except MomentError as error:
        raise _UnfitError(str(error), MOMENT_FIX) from None


@lru_cache(maxsize=1024)
def _seconds(text: str) -> float:
    """Many keys end at the same moment."""
    return parse_moment(text).timestamp()
