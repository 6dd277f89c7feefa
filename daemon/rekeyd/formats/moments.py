"""Moments and durations as people write them: ISO 8601 with a zone, `90d`.

The rules: a date alone is its first moment in UTC; a time without a zone is refused, for nobody knows whose
clock was meant. Must not know: what time it is.
"""

import datetime as dt
import re

_MOMENT = re.compile(
    r"\d{4}-\d\d-\d\d(?:[T ](?P<time>\d\d:\d\d(?::\d\d(?:\.\d{1,6})?)?)(?P<zone>Z|[+-]\d\d:\d\d)?)?", re.ASCII
)
_DURATION = re.compile(r"(\d{1,5})([smhdw])", re.ASCII)
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
WANTED = "a date, or a time with its zone"
FIX = "Write `2027-03-01` or `2027-03-01T12:00:00Z`"


class MomentError(ValueError):
    """It is no moment. The words do not repeat it."""


def parse_moment(text: str) -> dt.datetime:
    """The moment in UTC. Raises `MomentError`, to complete "expires …"."""
    found = _MOMENT.fullmatch(text)
    if found is None:
        raise MomentError(f"must be {WANTED}")
    if found["time"] and not found["zone"]:
        raise MomentError("has no time zone")
    try:
        moment = dt.datetime.fromisoformat(text)
        return moment.astimezone(dt.UTC) if moment.tzinfo else moment.replace(tzinfo=dt.UTC)
    except (ValueError, OverflowError):
        raise MomentError("is no day or time that there is") from None


def parse_duration(text: str) -> dt.timedelta:
    """`30s`, `10m`, `2h`, `90d` or `4w`. Raises `MomentError`."""
    found = _DURATION.fullmatch(text)
    if found is None:
        raise MomentError("must be a number with s, m, h, d or w, such as `90d`")
    return dt.timedelta(**{_UNITS[found[2]]: int(found[1])})


def written(moment: dt.datetime) -> str:
    """As files and messages have it: in UTC, to the second."""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
