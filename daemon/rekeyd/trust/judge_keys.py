"""What must hold of the keys before they may be believed.

The rules: an emptied key file is a mistake until somebody says otherwise; a daemon that nobody would get into
is of no use; and whatever is said of many keys is said once, with some of their ids. Must not know: how grave
a complaint is (`judge.py`).
"""

import datetime as dt
import stat
from collections.abc import Iterator, Sequence

from rekeyd.access.keys import Credential
from rekeyd.trust.case import Case, Complaint
from rekeyd.trust.generation import Part

NAMED = 5
"""Ids that a complaint names."""
SOON = dt.timedelta(days=14)


def emptied(case: Case) -> Iterator[Complaint]:
    """Keys that have expired are no loss."""
    key_file, current, now = case.candidate.key_file, case.current, case.now.timestamp()
    if key_file is None or key_file.credentials or current is None:
        return
    if any(key.named and (key.expires is None or key.expires > now) for key in current.ring):
        yield Complaint(
            f"{case.candidate.key_origin.file} has no keys any more, and had some that are good",
            "Put them back; if all are to go, set judge.keys_emptied to `warn` or remove access.keys_file",
        )


def nobody(case: Case) -> Iterator[Complaint]:
    """Without a key file the settings' own rule sees to it."""
    candidate = case.candidate
    if candidate.ring or candidate.tokens.signers or case.unread(Part.KEYS):
        return
    if candidate.settings.access.keys_file is not None:
        yield Complaint(
            "there is no key at all, so nobody would get in",
            "Make one with `rekeyd keys new ID --right manage`, or set service.api_key",
        )


def pepper_missing(case: Case) -> Iterator[Complaint]:
    if _wants_pepper(case) and case.candidate.key_origin.pepper is None:
        yield Complaint(
            f"{case.candidate.key_origin.file} has hmac-sha256 digests, and there is no pepper for them",
            "Set access.pepper_file to the file of the pepper that they were made with",
        )


def pepper_mismatch(case: Case) -> Iterator[Complaint]:
    key_file, origin = case.candidate.key_file, case.candidate.key_origin
    held = origin.pepper
    if key_file and _wants_pepper(case) and held is not None and held != key_file.pepper:
        yield Complaint(
            f"{origin.pepper_file} holds the pepper {held}; the digests in {origin.file} are under another",
            "Put the pepper back that they were made with; under another no key would be found",
        )


def expires_soon(case: Case) -> Iterator[Complaint]:
    now = case.now.timestamp()
    soon = _ended_by(case, now + SOON.total_seconds(), after=now)
    if soon:
        yield Complaint(
            f"{_listed(soon)} within {SOON.days} days",
            "Give out new secrets: `rekeyd keys rotate ID`",
        )


def expired(case: Case) -> Iterator[Complaint]:
    gone = _ended_by(case, case.now.timestamp())
    if gone:
        yield Complaint(
            f"{_ids(gone)} {_verb(gone, 'has', 'have')} expired and can be removed", "`rekeyd keys remove ID`"
        )


def file_writable(case: Case) -> Iterator[Complaint]:
    origin = case.candidate.key_origin
    if origin.mode & (stat.S_IWGRP | stat.S_IWOTH):
        yield Complaint(
            f"{origin.file} can be written by others than its owner, who could let themselves in",
            f"chmod go-w {origin.file}",
        )


def pepper_exposed(case: Case) -> Iterator[Complaint]:
    origin = case.candidate.key_origin
    if origin.pepper_mode & stat.S_IROTH:
        yield Complaint(
            f"{origin.pepper_file} can be read by every user of this machine",
            f"chmod o-r {origin.pepper_file}",
        )


def secrets_shadowed(case: Case) -> Iterator[Complaint]:
    for shadowed, first in case.candidate.ring.shadowed[:NAMED]:
        yield Complaint(
            f"the key {shadowed} has the same secret as {first}, so it is never the one that is found",
            "Give each key a secret of its own",
        )


def _wants_pepper(case: Case) -> bool:
    return case.candidate.key_file is not None and case.candidate.key_file.peppered


def _ended_by(case: Case, until: float, *, after: float = 0.0) -> list[str]:
    """Ids of the keys of the file whose last secret expires by then, and after that."""
    suspects = {c.id for c in _named(case) if c.expires is not None and after < c.expires <= until}
    if not suspects:
        return []
    lasting = {c.id for c in _named(case) if c.id in suspects and (c.expires is None or c.expires > until)}
    return [key for key in dict.fromkeys(c.id for c in _named(case)) if key in suspects - lasting]


def _named(case: Case) -> Sequence[Credential]:
    return case.candidate.key_file.credentials if case.candidate.key_file else ()


def _listed(ids: Sequence[str]) -> str:
    """`the key a expires`, `3 keys (a, b, c) expire`."""
    return f"{_ids(ids)} {_verb(ids, 'expires', 'expire')}"


def _ids(ids: Sequence[str]) -> str:
    if len(ids) == 1:
        return f"the key {ids[0]}"
    more = ", …" if len(ids) > NAMED else ""
    return f"{len(ids)} keys ({', '.join(ids[:NAMED])}{more})"


def _verb(ids: Sequence[str], of_one: str, of_many: str) -> str:
    return of_one if len(ids) == 1 else of_many
