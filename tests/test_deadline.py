import asyncio
import weakref

from rekeyd.system.deadline import Deadline


class Waiting:
    """Who waits until `due`."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.due: float | None = None
        self.late = asyncio.Event()
        self.looks = 0
        self.deadline = Deadline(self.loop, self.look, self.late.set)

    def look(self) -> float | None:
        self.looks += 1
        return self.due

    def wait_for(self, seconds: float) -> None:
        self.due = self.loop.time() + seconds
        self.deadline.expect(self.due)


async def test_what_does_not_come_is_late() -> None:
    waiting = Waiting()
    waiting.wait_for(0.01)
    await asyncio.wait_for(waiting.late.wait(), 5)


async def test_a_deadline_that_moves_on_is_looked_at_once_and_set_anew() -> None:
    waiting = Waiting()
    for _ in range(1000):
        waiting.wait_for(0.02)
    await asyncio.wait_for(waiting.late.wait(), 5)
    assert 1 <= waiting.looks <= 3


async def test_an_earlier_one_is_not_overslept() -> None:
    waiting = Waiting()
    waiting.wait_for(1000)
    waiting.wait_for(0.01)
    await asyncio.wait_for(waiting.late.wait(), 5)


async def test_where_nothing_is_waited_for_nothing_is_late() -> None:
    waiting = Waiting()
    waiting.wait_for(0.005)
    waiting.due = None
    while not waiting.looks:  # noqa: ASYNC110 - a timer has no event
        await asyncio.sleep(0.005)
    assert not waiting.late.is_set()


async def test_who_is_over_is_held_by_nobody() -> None:
    waiting = Waiting()
    gone = weakref.ref(waiting)
    waiting.wait_for(1000)
    waiting.deadline.end()
    del waiting
    assert gone() is None


async def test_who_stops_is_not_late() -> None:
    waiting, other = Waiting(), Waiting()
    waiting.wait_for(0.005)
    waiting.deadline.stop()
    other.wait_for(0.02)
    await asyncio.wait_for(other.late.wait(), 5)
    assert (waiting.looks, waiting.late.is_set()) == (0, False)
