"""Buckets: so many at once, so many more with each second, and then it is enough."""

import pytest

from rekeyd.http2.frames import Code, ConnectionFault
from rekeyd.http2.guard import CONTROL, CONTROL_PER_SECOND, Bucket, Guard, Limits


def test_a_bucket_is_empty_after_its_most_and_fills_with_time() -> None:
    bucket = Bucket(3, 2)
    assert [bucket.take(0.0) for _ in range(4)] == [True, True, True, False]
    assert bucket.take(0.5)
    assert not bucket.take(0.5)
    assert [bucket.take(100.0) for _ in range(4)] == [True, True, True, False]


def test_who_sends_too_much_that_carries_nothing_is_asked_to_calm_down() -> None:
    guard = Guard(Limits())
    for _ in range(CONTROL):
        guard.control(1.0)
    with pytest.raises(ConnectionFault) as caught:
        guard.control(1.0)
    assert caught.value.code is Code.ENHANCE_YOUR_CALM
    for _ in range(CONTROL_PER_SECOND):
        guard.control(2.0)


def test_resets_have_the_bound_that_is_set_and_others_bounds_of_their_own() -> None:
    guard = Guard(Limits(resets=10))
    for _ in range(10):
        guard.reset(0.0)
        guard.window(0.0)
    with pytest.raises(ConnectionFault):
        guard.reset(0.0)
    guard.window(0.0)
    guard.reset(1.0)


def test_who_receives_an_answer_may_measure_it() -> None:
    guard = Guard(Limits())
    for _ in range(10 * CONTROL):
        guard.answered()
        guard.control(0.0)
    for _ in range(CONTROL - 1):
        guard.control(0.0)
    with pytest.raises(ConnectionFault):
        guard.control(0.0)
