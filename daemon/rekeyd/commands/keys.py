"""`rekeyd keys`: make, list, rotate, retire, remove and recognise the keys of the key file.

The rules: a secret is told once, when it is made, on stdout alone, and after the file that has its digest is
on the disk. What an edit came to is told truthfully, also when the daemon refused it. Exit statuses: 0 done,
1 refused or not found, 2 settings or key file wrong (`SettingsError`, for the caller).

Must not know: how a file is edited, or how anything is printed.
"""

import datetime as dt
import json
import secrets
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekeyd.commands.key_edits import AddKey, AddSecret, Edit, EditError, EndSecret, NamePepper, RemoveKey
from rekeyd.commands.key_list import (
    FRESH,
    HEAD,
    NOTHING_KNOWN,
    Evidence,
    Key,
    keys_among,
    length,
    records,
    rows,
)
from rekeyd.commands.key_store import Store
from rekeyd.errors import RekeydError
from rekeyd.reload.keyring import Keys
from rekeyd.settings import Settings
from rekeyd.system.replacing import ReplaceError
from rekeyd.telemetry.console import safe
from rekeyd.trust.key_entries import Complaint, Entries
from rekeyd.trust.key_form import ID, SECRET_BYTES, make_key, weakness_of
from rekeyd.trust.key_words import may
from rekeyd.trust.keys import Credential, digest_of, peppered_digest_of
from rekeyd.trust.moments import MomentError, parse_duration, parse_moment, written
from rekeyd.trust.pepper import id_of

GOOD, BAD = 0, 1
_LONGEST_SECRET = 4096


class Refused(RekeydError):  # noqa: N818 - it says what is the matter
    """What was asked for is not done."""


@dataclass(frozen=True, slots=True)
class Told:
    """What to print: `out` on stdout, `err` on stderr; and the exit status.

    `after` is to be called once that is printed, so that no secret is lost while it waits: whether all is
    well, and what more there is to say on stderr.
    """

    status: int
    out: tuple[str, ...] = field(default=(), repr=False)
    err: tuple[str, ...] = ()
    after: Callable[[], tuple[bool, list[str]]] | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Wish:
    """What a command line asks of a key. Times are as they were typed."""

    id: str = ""
    right: str | None = None
    collections: Sequence[str] = ()
    paths: Sequence[str] = ()
    networks: Sequence[str] = ()
    rate: float | None = None
    note: str | None = None
    expires: str | None = None
    not_before: str | None = None
    overlap: str = "7d"
    at: str = "now"
    force: bool = False


def guarded(command: Callable[[], Told]) -> Told:
    """What a command tells, also where it is refused or can't be done."""
    try:
        return command()
    except (Refused, EditError, ReplaceError) as error:
        return Told(BAD, err=(str(error),))


def new(store: Store, wish: Wish, now: dt.datetime, given: bytes | None = None) -> Told:
    """Make a key; `given` is a secret of other making, which must be strong."""
    if ID.fullmatch(wish.id) is None:
        raise Refused(
            "an id is letters, digits, dots and dashes, at most 64, and begins with a letter or digit"
        )
    secret = make_key(wish.id, secrets.token_bytes(SECRET_BYTES)).encode() if given is None else given
    _check_secret(secret)
    begins = _moment(wish.not_before, now, "--not-before") or now
    ends = _moment(wish.expires, now, "--expires")
    _check_order(begins, ends, now)

    def change(keys: Keys) -> Iterable[Edit]:
        _check_unknown(keys, wish.id, secret)
        yield from _pepper_named(keys)
        yield AddKey({**_entry(wish), "secrets": [_secret_entry(keys, secret, begins, ends)]})

    store.change(change, create=True)
    return _after(store, f"key {wish.id} was added to {store.path}", secret if given is None else None)


def rotate(store: Store, wish: Wish, now: dt.datetime) -> Told:
    """A second secret; the older ones end after the overlap, and never later than they would have."""
    secret = make_key(_known_id(wish.id), secrets.token_bytes(SECRET_BYTES)).encode()
    overlap, ends = _duration(wish.overlap), _moment(wish.expires, now, "--expires")
    _check_order(now, ends, now)

    def change(keys: Keys) -> Iterable[Edit]:
        key = _key(keys, wish.id, now)
        yield from _pepper_named(keys)
        yield from _ended(key, now + overlap)
        yield AddSecret(wish.id, _secret_entry(keys, secret, now, ends))

    store.change(change)
    return _after(store, f"key {wish.id} has a new secret; older ones end {written(now + overlap)}", secret)


def retire(store: Store, wish: Wish, now: dt.datetime) -> Told:
    """All secrets of the key expire at that moment, or before, where they would have."""
    at = _moment(wish.at, now, "--at") or now

    def change(keys: Keys) -> Iterable[Edit]:
        yield from _ended(_key(keys, wish.id, now), at)

    store.change(change)
    return _after(store, f"key {wish.id} ends {written(at)}")


def remove(store: Store, wish: Wish, now: dt.datetime, evidence: Evidence) -> Told:
    """Delete the entry of a key that is known to be unused, or of any with `force`."""

    def change(keys: Keys) -> Iterable[Edit]:
        key = _key(keys, wish.id, now)
        unused = key.unused_for(evidence)
        if not (wish.force or key.expired):
            if unused is None:
                raise Refused(f"whether {wish.id} is in use is not known; `--force` removes it all the same")
            if unused < FRESH:
                raise Refused(f"{wish.id} was used {length(unused)} ago; `--force` removes it all the same")
        yield RemoveKey(wish.id)

    store.change(change)
    return _after(store, f"key {wish.id} was removed from {store.path}")


def list_keys(store: Store, now: dt.datetime, evidence: Evidence, *, as_json: bool) -> Told:
    """A table, or JSON."""
    key_file = store.read().key_file
    keys = keys_among(key_file.credentials if key_file else (), now)
    if as_json:
        return Told(
            GOOD, (json.dumps(records(keys, evidence, key_file.notes if key_file else {}), indent=2),)
        )
    return Told(GOOD, tuple(map(safe, _table(HEAD, list(rows(keys, evidence))))) if keys else ("no keys",))


def verify(store: Store, now: dt.datetime, given: bytes) -> Told:
    """Which key it is whose secret was given."""
    found = store.read().ring.find(given)
    if found is None:
        return Told(BAD, ("no key has this secret",))
    at = now.timestamp()
    lines = [f"key        {found.id}", f"may        {may(found)}"]
    if found.not_before is not None:
        lines.append(f"not before {written(dt.datetime.fromtimestamp(found.not_before, dt.UTC))}")
    if found.expires is not None:
        lines.append(f"expires    {written(dt.datetime.fromtimestamp(found.expires, dt.UTC))}")
    against = _objection(found, given, at)
    lines.append(f"verdict    {against or 'good'}")
    return Told(BAD if against else GOOD, tuple(map(safe, lines)))


def evidence_for(store: Store) -> Evidence:
    """What is known of the use of keys: from a daemon that runs, else from what one left behind."""
    told = Evidence.in_status(store.status())
    return told if told.uses else kept_evidence(store.parsed.settings)


def kept_evidence(_settings: Settings) -> Evidence:
    """What the state directory holds. Nothing is kept there yet."""
    return NOTHING_KNOWN


# What a key is made of


def _entry(wish: Wish) -> dict[str, Any]:
    if (wish.right is None) == (not wish.collections):
        raise Refused("give either --right or --collection")
    collections = dict(_pair(text) for text in wish.collections)
    wanted = {
        "id": wish.id,
        "right": wish.right,
        "collections": collections or None,
        "paths": list(wish.paths) or None,
        "networks": list(wish.networks) or None,
        "rate": _number(wish.rate),
        "note": wish.note,
    }
    entry = {name: value for name, value in wanted.items() if value is not None}
    _check_entry(entry)
    return entry


def _number(rate: float | None) -> float | None:
    """50 is written as 50."""
    return int(rate) if rate is not None and float(rate).is_integer() else rate


def _check_entry(entry: Mapping[str, Any]) -> None:
    """What the parser would not take, in its own words."""
    heard: list[Complaint] = []
    Entries(heard.append).keys([{**entry, "secrets": [{"digest": f"sha256:{'0' * 64}"}]}])
    if heard:
        said = (f"{each.place.removeprefix('keys[1].')} {each.message}. {each.fix}" for each in heard)
        raise Refused("; ".join(said))


def _pair(text: str) -> tuple[str, str]:
    name, equals, reach = text.rpartition("=")
    if not (name and equals):
        raise Refused("write --collection NAME=read, NAME=points or NAME=write")
    return name, reach


def _secret_entry(keys: Keys, secret: bytes, begins: dt.datetime, ends: dt.datetime | None) -> dict[str, str]:
    """`not_before` also says since when there is the key, from which its idleness is counted."""
    if keys.pepper is None:
        digest = f"sha256:{digest_of(secret).hex()}"
    else:
        digest = f"hmac-sha256:{peppered_digest_of(secret, keys.pepper).hex()}"
    entry = {"digest": digest, "not_before": written(begins)}
    return entry if ends is None else {**entry, "expires": written(ends)}


def _pepper_named(keys: Keys) -> Iterable[Edit]:
    if keys.pepper is not None and keys.key_file is not None and keys.key_file.pepper is None:
        yield NamePepper(id_of(keys.pepper))


def _ended(key: Key, at: dt.datetime) -> Iterable[Edit]:
    """A secret that would begin after that ends when it begins."""
    for number, secret in enumerate(key.secrets):
        ends = max(at.timestamp(), secret.not_before or 0.0)
        if secret.expires is None or secret.expires > ends:
            yield EndSecret(key.id, number, written(dt.datetime.fromtimestamp(ends, dt.UTC)))


def _check_secret(secret: bytes) -> None:
    """Also that a header can carry it (RFC 9110, 5.5)."""
    text = secret.decode("ascii", "replace")
    if not secret.isascii() or not text.isprintable() or text != text.strip() or len(text) > _LONGEST_SECRET:
        raise Refused("the secret has what no header can carry: use visible ASCII characters, at most 4096")
    if weakness := weakness_of(secret):
        raise Refused(f"the secret {weakness}; without --stdin a strong one is made")


def _check_order(begins: dt.datetime, ends: dt.datetime | None, now: dt.datetime) -> None:
    if ends is not None and ends <= max(begins, now):
        raise Refused("it would expire before it is valid")


def _check_unknown(keys: Keys, key_id: str, secret: bytes) -> None:
    if any(credential.id == key_id for credential in _named(keys)):
        raise Refused(f"there is a key {key_id} already: `rekeyd keys rotate {key_id}` gives it a new secret")
    if (other := keys.ring.find(secret)) is not None:
        raise Refused(f"that is the secret of {other.id}")


# What was asked for


def _moment(text: str | None, now: dt.datetime, option: str) -> dt.datetime | None:
    """`now`, a duration from now, or a moment."""
    if text is None:
        return None
    if text == "now":
        return now
    try:
        return now + parse_duration(text)
    except MomentError:
        pass
    try:
        return parse_moment(text)
    except MomentError as error:
        raise Refused(f"{option} {error}; or a duration such as `90d`") from None


def _duration(text: str) -> dt.timedelta:
    try:
        return parse_duration(text)
    except MomentError as error:
        raise Refused(f"--overlap {error}") from None


def _known_id(key_id: str) -> str:
    if ID.fullmatch(key_id) is None:
        raise Refused("there is no key of that name")
    return key_id


def _key(keys: Keys, key_id: str, now: dt.datetime) -> Key:
    for key in keys_among((c for c in _named(keys) if c.id == key_id), now):
        return key
    raise Refused("there is no key of that name; `rekeyd keys list` has them all")


def _named(keys: Keys) -> Sequence[Credential]:
    return keys.key_file.credentials if keys.key_file else ()


def _objection(found: Credential, secret: bytes, now: float) -> str | None:
    if found.named and (weakness := weakness_of(secret)):
        return f"refused, because the secret {weakness}"
    if found.expires is not None and now >= found.expires:
        return "expired"
    if found.not_before is not None and now < found.not_before:
        return "not valid yet"
    return None


def _after(store: Store, done: str, secret: bytes | None = None) -> Told:
    """The secret alone on stdout; for people, what was done and then what the daemon made of it."""
    return Told(GOOD, () if secret is None else (secret.decode(),), (done,), store.reload)


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> Iterable[str]:
    widths = [max(map(len, column)) for column in zip(head, *body, strict=True)]
    for row in (head, *body):
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
