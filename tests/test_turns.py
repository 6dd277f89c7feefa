"""Work in slices: what is due on the loop comes between, and no group waits for all of another's."""

import asyncio
import itertools
import logging
import time
from collections.abc import Callable

import pytest

from rekeyd.system.turns import SLICE, Turns
from support.waiting import eventually


def slow(done: list[str], name: str) -> Callable[[], None]:
    """A piece of work that takes a slice by itself."""

    def work() -> None:
        until = time.monotonic() + SLICE
        while time.monotonic() < until:
            pass
        done.append(name)

    return work


async def all_done(done: list[str], count: int) -> None:
    await eventually(lambda: len(done) >= count)


async def test_all_else_has_its_turn_between_two_slices() -> None:
    turns, done = Turns(), list[str]()
    for _ in range(20):
        turns.add("one", slow(done, "work"))
    seen = []
    while len(done) < 20:
        await asyncio.sleep(0)
        seen.append(len(done))
    assert all(after - before <= 1 for before, after in itertools.pairwise(seen))


async def test_what_is_quick_is_done_in_one_turn() -> None:
    turns, done = Turns(), list[str]()
    for name in "abc":
        turns.add("one", lambda name=name: done.append(name))  # type: ignore[misc]
    assert done == []
    await all_done(done, 3)
    assert done == ["a", "b", "c"]


async def test_a_group_that_brings_much_delays_another_by_one_piece() -> None:
    turns, done = Turns(), list[str]()
    for number in range(50):
        turns.add("flood", slow(done, f"flood {number}"))
    turns.add("phone", slow(done, "phone 0"))
    turns.add("phone", slow(done, "phone 1"))
    await all_done(done, 52)
    assert done[:4] == ["flood 0", "phone 0", "flood 1", "phone 1"]
    assert done[4:] == [f"flood {number}" for number in range(2, 50)]


async def test_work_that_fails_takes_nothing_else_along(caplog: pytest.LogCaptureFixture) -> None:
    turns, done = Turns(), list[str]()

    def fails() -> None:
        raise ValueError("on purpose")

    turns.add("one", fails)
    turns.add("one", slow(done, "after"))
    with caplog.at_level(logging.ERROR):
        await all_done(done, 1)
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["on purpose"]


async def test_work_may_bring_more() -> None:
    turns, done = Turns(), list[str]()
    turns.add("one", lambda: turns.add("one", lambda: done.append("more")))
    await all_done(done, 1)
