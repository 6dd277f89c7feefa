"""`rekeyd keys`: make, list, rotate, retire, remove and recognise the keys of the key file.

The rules: a secret is told once, when it is made, on stdout alone, and after the file that has its digest is
on the disk. What an edit came to is told truthfully, also when the daemon refused it. Exit statuses: 0 done,
1 refused or not found, 2 settings or key file wrong (`SettingsError`, for the caller).

Must not know: how a file is edited, or how anything is printed.
"""

import datetime as dt
import json
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from rekeyd.access.key_form import ID, SECRET_BYTES, make_key, weakness_of
from rekeyd.access.key_words import may
from rekeyd.access.keys import Credential, digest_of, peppered_digest_of
from rekeyd.access.pepper import id_of
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
from rekeyd.commands.key_wish import (
    Refused,
    Wish,
    check_order,
    check_secret,
    duration_of,
    entry_of,
    moment_of,
)
from rekeyd.formats.moments import written
from rekeyd.reload.keyring import Keys
from rekeyd.system.replacing import ReplaceError
from rekeyd.telemetry.console import safe
from rekeyd.telemetry.tables import table

GOOD, BAD = 0, 1


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
    check_secret(secret)
    begins = moment_of(wish.not_before, now, "--not-before") or now
    ends = moment_of(wish.expires, now, "--expires")
    check_order(begins, ends, now)

    def change(keys: Keys) -> Iterable[Edit]:
        _check_unknown(keys, wish.id, secret)
        yield from _pepper_named(keys)
        yield AddKey({**entry_of(wish), "secrets": [_secret_entry(keys, secret, begins, ends)]})

    store.change(change, create=True)
    return _after(store, f"key {wish.id} was added to {store.path}", secret if given is None else None)


def rotate(store: Store, wish: Wish, now: dt.datetime) -> Told:
    """A second secret; the older ones end after the overlap, and never later than they would have."""
    secret = make_key(_known_id(wish.id), secrets.token_bytes(SECRET_BYTES)).encode()
    overlap, ends = duration_of(wish.overlap), moment_of(wish.expires, now, "--expires")
    check_order(now, ends, now)

    def change(keys: Keys) -> Iterable[Edit]:
        key = _key(keys, wish.id, now)
        yield from _pepper_named(keys)
        yield from _ended(key, now + overlap)
        yield AddSecret(wish.id, _secret_entry(keys, secret, now, ends))

    store.change(change)
    return _after(store, f"key {wish.id} has a new secret; older ones end {written(now + overlap)}", secret)


def retire(store: Store, wish: Wish, now: dt.datetime) -> Told:
    """All secrets of the key expire at that moment, or before, where they would have."""
    at = moment_of(wish.at, now, "--at") or now

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
                raise Refused(
                    f"{wish.id} may be in use: unused for {length(unused)} only; `--force` removes it"
                )
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
    return Told(GOOD, tuple(map(safe, table(HEAD, list(rows(keys, evidence))))) if keys else ("no keys",))


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
    if told.uses:
        return told
    kept = store.usage()
    return NOTHING_KNOWN if kept is None else Evidence.in_usage(kept)


# What a key is made of


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


def _check_unknown(keys: Keys, key_id: str, secret: bytes) -> None:
    if any(credential.id == key_id for credential in _named(keys)):
        raise Refused(f"there is a key {key_id} already: `rekeyd keys rotate {key_id}` gives it a new secret")
    if (other := keys.ring.find(secret)) is not None:
        raise Refused(f"that is the secret of {other.id}")


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
