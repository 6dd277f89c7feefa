"""What a command line asks of a key, and what can't be meant.

The rules: what is asked for is measured by the parser of the key file itself; a secret of other making must
be strong and fit a header; a time is a moment, or a duration from now. No refusal repeats a secret.

Pure. Must not know: which keys there are.
"""

import datetime as dt
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rekeyd.access.key_entries import Complaint, Entries
from rekeyd.access.key_form import weakness_of
from rekeyd.errors import RekeydError
from rekeyd.formats.moments import MomentError, parse_duration, parse_moment

_LONGEST_SECRET = 4096


class Refused(RekeydError):  # noqa: N818 - it says what is the matter
    """What was asked for is not done."""


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


def entry_of(wish: Wish) -> dict[str, Any]:
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


def check_secret(secret: bytes) -> None:
    """Also that a header can carry it (RFC 9110, 5.5)."""
    text = secret.decode("ascii", "replace")
    if not secret.isascii() or not text.isprintable() or text != text.strip() or len(text) > _LONGEST_SECRET:
        raise Refused("the secret has what no header can carry: use visible ASCII characters, at most 4096")
    if weakness := weakness_of(secret):
        raise Refused(f"the secret {weakness}; without --stdin a strong one is made")


def check_order(begins: dt.datetime, ends: dt.datetime | None, now: dt.datetime) -> None:
    if ends is not None and ends <= max(begins, now):
        raise Refused("it would expire before it is valid")


def moment_of(text: str | None, now: dt.datetime, option: str) -> dt.datetime | None:
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


def duration_of(text: str) -> dt.timedelta:
    try:
        return parse_duration(text)
    except MomentError as error:
        raise Refused(f"--overlap {error}") from None
