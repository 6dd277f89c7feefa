"""How often, by a made-up clock: bursts, the wait, and that waiting helps."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.limiter import Buckets, Pace, Taken, quota, whole_seconds

PACE = Pace(burst=3, interval=10.0)


def test_a_burst_is_granted_and_the_next_waits_for_one_interval() -> None:
    buckets = Buckets()
    assert [buckets.take("a", PACE, 0.0).remaining for _ in range(3)] == [2, 1, 0]
    assert buckets.take("a", PACE, 0.0) == Taken(wait=10.0, remaining=0, reset=30.0)
    assert buckets.take("a", PACE, 4.0).wait == 6.0
    assert buckets.take("a", PACE, 10.0) == Taken(wait=0.0, remaining=0, reset=30.0)


def test_what_comes_too_early_is_not_counted_so_that_waiting_helps() -> None:
    buckets = Buckets()
    for _ in range(1000):
        buckets.take("a", PACE, 0.0)
    assert buckets.take("a", PACE, 10.0).wait == 0.0


def test_all_is_had_again_after_the_reset() -> None:
    buckets = Buckets()
    for _ in range(3):
        reset = buckets.take("a", PACE, 5.0).reset
    assert [buckets.take("a", PACE, 5.0 + reset).wait for _ in range(4)] == [0.0, 0.0, 0.0, 10.0]


def test_names_have_nothing_to_do_with_one_another() -> None:
    buckets = Buckets()
    for _ in range(4):
        buckets.take("a", PACE, 0.0)
    assert buckets.take("b", PACE, 0.0) == Taken(0.0, 2, 10.0)


def test_to_ask_for_the_wait_takes_nothing() -> None:
    buckets = Buckets()
    assert [buckets.wait("a", PACE, 0.0) for _ in range(9)] == [0.0] * 9
    for _ in range(3):
        buckets.take("a", PACE, 0.0)
    assert buckets.wait("a", PACE, 1.0) == 9.0


def test_the_least_recent_name_is_forgotten_first() -> None:
    buckets = Buckets(most=2)
    for name in ("a", "b", "a", "c"):
        buckets.take(name, PACE, 0.0)
    assert len(buckets) == 2
    assert buckets.take("a", PACE, 0.0).remaining == 0
    assert buckets.take("b", PACE, 0.0).remaining == 2


@pytest.mark.parametrize(
    ("pace", "burst", "interval"),
    [
        (Pace.per_second(50), 50, 0.02),
        (Pace.per_second(0.5), 1, 2.0),
        (Pace.per_second(1.5), 1, 2 / 3),
        (Pace.per_minute(60), 60, 1.0),
        (Pace.per_minute(1), 1, 60.0),
    ],
)
def test_a_rate_is_a_burst_and_an_interval(pace: Pace, burst: int, interval: float) -> None:
    assert pace.burst == burst
    assert pace.interval == pytest.approx(interval)


@given(
    st.floats(0.1, 500),
    st.lists(st.floats(0, 3), min_size=1, max_size=200),
)
def test_never_more_than_the_rate_and_one_burst(rate: float, steps: list[float]) -> None:
    buckets, pace, now, granted = Buckets(), Pace.per_second(rate), 1000.0, 0
    for step in steps:
        now += step
        taken = buckets.take("a", pace, now)
        granted += not taken.wait
        assert 0 <= taken.remaining <= pace.burst
        assert taken.reset <= pace.burst * pace.interval * 1.001
    assert granted <= pace.burst + (now - 1000.0) * rate + 1


def test_what_a_client_is_told() -> None:
    told = quota(50, Taken(wait=0.3, remaining=0, reset=1.0))
    assert (told.limit, told.remaining, told.reset, told.retry_after) == (50, 0, 1.0, 0.3)
    assert [whole_seconds(s) for s in (0.0, 0.01, 1.0, 1.01, 59.2)] == [1, 1, 1, 2, 60]
