"""Expiry: one line for each certificate and threshold, in time and not again."""

import asyncio
import contextlib
import datetime as dt
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.reload import expiry
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.expiry import ExpiryWatch, next_change, notice
from rekeyd.trust.certificates import Certificate
from support.generations import candidate_of, settings_of
from support.pki import DAY, Authority, Leaf, now
from support.waiting import eventually

Logs = list[Any]
DAYS = (30, 14, 7, 3, 1)
CA = Authority()
BIRTH = dt.datetime(2030, 1, 1, tzinfo=dt.UTC)
DEATH = BIRTH + 90 * DAY


def certificate(life: dt.timedelta = DEATH - BIRTH) -> Certificate:
    leaf = CA.issue("db.example.org", not_before=BIRTH, not_after=BIRTH + life)
    return Certificate.from_der(leaf.der)


NINETY_DAYS = certificate()


@pytest.fixture
def logs() -> Iterator[Logs]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


def served(
    *leaves: Leaf, number: int = 1, current: Current | None = None, days: tuple[int, ...] = DAYS
) -> Current:
    current = current or Current()
    settings = settings_of(tls={"expiry_warnings": list(days)})
    generation = candidate_of(leaves[0], settings=settings).generation(number)
    current.publish(Serving(generation, None))
    return current


@pytest.mark.parametrize(
    ("left", "threshold"),
    [(90, 0), (30.01, 0), (30, 30), (14.01, 30), (14, 14), (6, 7), (2.5, 3), (1, 1), (0.01, 1), (0, 1)],
)
def test_the_tightest_threshold_that_was_crossed_is_told(left: float, threshold: int) -> None:
    found = notice(NINETY_DAYS, DAYS, DEATH - left * DAY)

    assert (found.threshold if found else 0) == threshold


def test_the_order_of_the_thresholds_does_not_matter() -> None:
    found = notice(NINETY_DAYS, sorted(DAYS), DEATH - 5 * DAY)

    assert found is not None
    assert found.threshold == 7


def test_an_expired_certificate_is_told_as_such_and_says_since_when() -> None:
    found = notice(NINETY_DAYS, DAYS, DEATH + 36 * dt.timedelta(hours=1))

    assert found is not None
    assert found.event == "cert.expired"
    assert found.fields()["days_left"] == -1.5


def test_without_thresholds_only_the_end_is_told() -> None:
    assert notice(NINETY_DAYS, (), DEATH - DAY / 2) is None
    assert notice(NINETY_DAYS, (), DEATH + DAY) is not None


def test_the_fields_are_those_that_are_promised() -> None:
    found = notice(NINETY_DAYS, DAYS, DEATH - 6.55 * DAY)

    assert found is not None
    assert found.event == "cert.expiring"
    assert found.fields() == {
        "names": ["db.example.org"],
        "serial": NINETY_DAYS.serial_hex,
        "not_after": "2030-04-01T00:00:00+00:00",
        "days_left": 6.5,
    }


@pytest.mark.parametrize(
    ("life", "thresholds"),
    [
        (90 * DAY - dt.timedelta(seconds=1), {30, 14, 7, 3, 1}),
        (47 * DAY, {14, 7, 3, 1}),
        (21 * DAY, {7, 3, 1}),
        (6 * DAY, {1}),
        (DAY, set()),
    ],
)
def test_a_short_life_is_always_near_its_end_and_that_is_no_news(
    life: dt.timedelta, thresholds: set[int]
) -> None:
    short = certificate(life)
    told = {
        found.threshold
        for hour in range(int(life / dt.timedelta(hours=1)) + 1)
        if (found := notice(short, DAYS, short.not_after - dt.timedelta(hours=hour)))
    }

    assert told == thresholds


def test_the_next_change_is_known_beforehand() -> None:
    moments = []
    at: dt.datetime | None = BIRTH
    while at is not None and (at := next_change(NINETY_DAYS, DAYS, at)):
        moments.append((DEATH - at) / DAY)

    assert moments == [30, 14, 7, 3, 1, 0]


def test_each_threshold_is_told_once(logs: Logs) -> None:
    leaf = CA.issue(not_before=BIRTH, not_after=DEATH)
    clock = [BIRTH]
    watch = ExpiryWatch(served(leaf), now=lambda: clock[0])

    for hour in range(91 * 24):
        clock[0] = BIRTH + hour * dt.timedelta(hours=1)
        watch.look()

    assert [(line["event"], line["log_level"], line["days_left"]) for line in logs] == [
        *(("cert.expiring", "warning", days) for days in DAYS),
        ("cert.expired", "error", -0.1),
    ]


def test_what_was_crossed_before_anybody_looked_is_told_once_for_the_tightest(logs: Logs) -> None:
    leaf = CA.issue(not_before=BIRTH, not_after=DEATH)
    watch = ExpiryWatch(served(leaf), now=lambda: DEATH - 2 * DAY)

    watch.look()
    watch.look()

    assert [line["days_left"] for line in logs] == [2]


def test_a_new_certificate_starts_anew(logs: Logs) -> None:
    one, two = (CA.issue(not_before=BIRTH, not_after=DEATH) for _ in range(2))
    current = served(one)
    watch = ExpiryWatch(current, now=lambda: DEATH - 2 * DAY)
    watch.look()

    served(two, number=2, current=current)
    watch.look()

    assert [int(line["serial"], 16) for line in logs] == [one.serial, two.serial]


def test_before_the_first_generation_there_is_nothing_to_tell(logs: Logs) -> None:
    ExpiryWatch(Current()).look()

    assert logs == []


async def test_the_task_tells_when_the_time_comes(logs: Logs) -> None:
    ends = now() + dt.timedelta(seconds=2)
    leaf = CA.issue(not_before=now() - 10 * DAY, not_after=ends)
    task = asyncio.create_task(ExpiryWatch(served(leaf)).run())

    await eventually(lambda: [line["event"] for line in logs] == ["cert.expiring", "cert.expired"])
    assert dt.datetime.now(dt.UTC) > ends

    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


def test_the_task_sleeps_until_something_changes_but_never_for_long() -> None:
    leaf = CA.issue(not_before=BIRTH, not_after=DEATH)
    clock = [BIRTH]
    watch = ExpiryWatch(served(leaf), now=lambda: clock[0])

    assert watch._pause() == expiry.LONGEST_SLEEP
    clock[0] = DEATH - dt.timedelta(seconds=5)
    assert watch._pause() == pytest.approx(5, abs=0.1)
    clock[0] = DEATH + DAY
    assert watch._pause() == expiry.LONGEST_SLEEP
