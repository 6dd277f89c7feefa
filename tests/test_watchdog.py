"""Signs of life are sent after a proof, on an event loop that keeps time, and never else."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.system.watchdog import MOST_LAG, Watchdog, interval_in

INTERVAL = 0.6
Logs = list[Any]


@pytest.fixture
def logs() -> Iterator[Logs]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


class Watched:
    """A watchdog whose proofs are those of `prove`; `story` tells each look and each sign, in order."""

    def __init__(self, prove: Callable[[], Awaitable[str | None]]) -> None:
        self._prove = prove
        self.story: list[str] = []
        self._news = asyncio.Event()
        self.watchdog = Watchdog(INTERVAL, prove=self._look, sign=lambda: self._note("sign"))

    async def _look(self, _within: float) -> str | None:
        self._note("look")
        return await self._prove()

    def _note(self, what: str) -> None:
        self.story.append(what)
        self._news.set()

    async def until(self, story: list[str]) -> None:
        """The story begins so."""
        async with asyncio.timeout(30):
            while len(self.story) < len(story):
                self._news.clear()
                await self._news.wait()
        assert self.story[: len(story)] == story


@asynccontextmanager
async def watched(prove: Callable[[], Awaitable[str | None]]) -> AsyncIterator[Watched]:
    made = Watched(prove)
    running = asyncio.create_task(made.watchdog.run())
    yield made
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def nothing_to_doubt() -> str | None:
    return None


async def test_each_sign_comes_after_a_proof(logs: Logs) -> None:
    async with watched(nothing_to_doubt) as story:
        await story.until(["look", "sign"] * 4)
    assert logs == []


async def test_while_there_is_doubt_there_is_no_sign_and_it_is_told_once(logs: Logs) -> None:
    answers = iter([None, "it is gone", "it is gone", "still", None, None])

    async def prove() -> str | None:
        return next(answers, None)

    async with watched(prove) as story:
        await story.until(["look", "sign", "look", "look", "look", "look", "sign", "look", "sign"])

    assert [(line["event"], line["log_level"]) for line in logs] == [
        ("watchdog.withheld", "error"),
        ("watchdog.resumed", "info"),
    ]
    assert logs[0]["problem"] == "it is gone"


async def test_a_proof_that_does_not_end_is_none(logs: Logs) -> None:
    async with watched(asyncio.Event().wait) as story:  # type: ignore[arg-type]  # it never gives anything
        await story.until(["look"] * 3)
    assert "no proof within" in logs[0]["problem"]


async def test_a_proof_that_breaks_is_none_and_its_words_are_not_told(logs: Logs) -> None:
    async def prove() -> str | None:
        raise LookupError("a-made-up-secret")

    async with watched(prove) as story:
        await story.until(["look"] * 3)
    assert "LookupError" in logs[0]["problem"]
    assert "a-made-up-secret" not in str(logs)


async def test_a_loop_that_stood_still_gives_no_sign_until_it_keeps_time_again(logs: Logs) -> None:
    stalls = iter([False, True, False])

    async def prove() -> str | None:
        if next(stalls, False):
            threading.Event().wait(INTERVAL * (MOST_LAG + 0.2))
        return None

    async with watched(prove) as story:
        await story.until(["look", "sign", "look", "look", "sign"])
    assert "the event loop stood still for" in logs[0]["problem"]


async def test_when_it_is_cancelled_nothing_of_it_goes_on() -> None:
    async with watched(nothing_to_doubt) as story:
        await story.until(["look", "sign"])
    await asyncio.sleep(0)
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []


@pytest.mark.parametrize(
    ("environ", "interval"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "30000000"}, 30.0),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, 1.5),
        ({"WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "-1"}, None),
    ],
)
def test_whether_a_sign_is_wanted_of_this_process_is_in_the_environment(
    environ: dict[str, str], interval: float | None
) -> None:
    assert interval_in(environ, 7) == interval
