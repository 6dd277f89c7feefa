"""Moments and durations as people write them."""

import datetime as dt

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.formats.moments import MomentError, parse_duration, parse_moment, written

UTC = dt.UTC


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2027-03-01", dt.datetime(2027, 3, 1, tzinfo=UTC)),
        ("2027-03-01T12:30:00Z", dt.datetime(2027, 3, 1, 12, 30, tzinfo=UTC)),
        ("2027-03-01 12:30Z", dt.datetime(2027, 3, 1, 12, 30, tzinfo=UTC)),
        ("2027-03-01T12:30:00+02:00", dt.datetime(2027, 3, 1, 10, 30, tzinfo=UTC)),
        ("2027-03-01T12:30:00.250000Z", dt.datetime(2027, 3, 1, 12, 30, 0, 250_000, tzinfo=UTC)),
    ],
)
def test_a_date_is_its_first_moment_and_a_time_has_a_zone(text: str, moment: dt.datetime) -> None:
    assert parse_moment(text) == moment


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("2027-03-01T12:30:00", "has no time zone"),
        ("2027-02-30", "is no day or time that there is"),
        ("2027-03-01T25:00:00Z", "is no day or time that there is"),
        ("0001-01-01T00:00:00+14:00", "is no day or time that there is"),
        ("20270301", "must be a date, or a time with its zone"),
        ("2027-W09-1", "must be a date, or a time with its zone"),
        ("2027-03-01T12:30:00 CET", "must be a date, or a time with its zone"),
        ("٢٠٢٧-03-01", "must be a date, or a time with its zone"),
        ("", "must be a date, or a time with its zone"),
    ],
)
def test_what_is_no_moment_is_said_without_repeating_it(text: str, message: str) -> None:
    with pytest.raises(MomentError) as caught:
        parse_moment(text)
    assert str(caught.value) == message


@given(st.text(max_size=30))
def test_whatever_is_written_is_a_moment_in_utc_or_refused(text: str) -> None:
    try:
        moment = parse_moment(text)
    except MomentError as error:
        assert not text.strip() or text not in str(error) or len(text) < 8  # noqa: PT017 - the words are ours
    else:
        assert moment.tzinfo is UTC


@given(st.datetimes(timezones=st.just(UTC)))
def test_what_is_written_is_read_back_to_the_second(moment: dt.datetime) -> None:
    if moment.year >= 1000:  # strftime does not pad years on every system
        assert parse_moment(written(moment)) == moment.replace(microsecond=0)


def test_durations_have_a_unit() -> None:
    assert [parse_duration(text) for text in ("30s", "10m", "2h", "90d", "4w")] == [
        dt.timedelta(seconds=30),
        dt.timedelta(minutes=10),
        dt.timedelta(hours=2),
        dt.timedelta(days=90),
        dt.timedelta(weeks=4),
    ]
    for text in ("", "90", "d", "-1d", "1.5d", "1y", "999999d", "1d "):
        with pytest.raises(MomentError, match="must be a number with s, m, h, d or w"):
            parse_duration(text)
