"""What is asked of a key, and what can't be meant."""

import datetime as dt

import pytest

from rekeyd.commands.key_wish import (
    Refused,
    Wish,
    check_order,
    check_secret,
    duration_of,
    entry_of,
    moment_of,
)
from support.key_files import secret_of

NOW = dt.datetime(2027, 1, 1, 12, tzinfo=dt.UTC)
HOUR = dt.timedelta(hours=1)


def test_an_entry_has_what_was_asked_for_and_nothing_else() -> None:
    assert entry_of(Wish("a", "read")) == {"id": "a", "right": "read"}
    asked = Wish("a", None, ["b=c=read"], ["/x"], ["::1"], 2.5, "n")
    assert entry_of(asked) == {
        "id": "a",
        "collections": {"b=c": "read"},
        "paths": ["/x"],
        "networks": ["::1"],
        "rate": 2.5,
        "note": "n",
    }
    rate = entry_of(Wish("a", "read", rate=50.0))["rate"]
    assert (rate, type(rate)) == (50, int)


def test_what_the_parser_would_not_take_is_refused_in_its_words() -> None:
    with pytest.raises(Refused, match=r"^paths must be a list of paths\. Write "):
        entry_of(Wish("a", "read", paths=["x"]))
    with pytest.raises(Refused, match=r"^rate must be a number of requests per second"):
        entry_of(Wish("a", "read", rate=float("inf")))
    with pytest.raises(Refused, match="give either --right or --collection"):
        entry_of(Wish("a"))


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        (None, None),
        ("now", NOW),
        ("2h", NOW + 2 * HOUR),
        ("2027-03-01", dt.datetime(2027, 3, 1, tzinfo=dt.UTC)),
        ("2027-03-01T01:00:00+01:00", dt.datetime(2027, 3, 1, tzinfo=dt.UTC)),
    ],
)
def test_a_time_is_a_moment_or_a_duration_from_now(text: str | None, moment: dt.datetime | None) -> None:
    assert moment_of(text, NOW, "--at") == moment


def test_what_is_no_time_is_refused_by_the_option_s_name() -> None:
    with pytest.raises(Refused, match=r"^--at has no time zone; or a duration such as `90d`$"):
        moment_of("2027-03-01T01:00", NOW, "--at")
    with pytest.raises(Refused, match=r"^--overlap must be a number with s, m, h, d or w"):
        duration_of("soon")
    assert duration_of("7d") == 168 * HOUR


def test_nothing_expires_before_it_is_valid() -> None:
    check_order(NOW, None, NOW)
    check_order(NOW, NOW + HOUR, NOW)
    for begins, ends in ((NOW, NOW), (NOW + HOUR, NOW + HOUR), (NOW - HOUR, NOW)):
        with pytest.raises(Refused, match="before it is valid"):
            check_order(begins, ends, NOW)


def test_a_secret_is_strong_and_fits_a_header() -> None:
    check_secret(secret_of("a").encode())
    for weak in (b"", b"hunter2", b"a" * 64, "ü".encode() * 40, b"x" * 5000, secret_of("a").encode() + b"\n"):
        with pytest.raises(Refused) as caught:
            check_secret(weak)
        assert not weak or weak.decode() not in str(caught.value)
