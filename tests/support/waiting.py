"""Waiting for what gives no event: a file, a number in /proc, another process's state."""

import asyncio
import time
from collections.abc import Callable
from typing import TypeVar

INTERVAL = 0.02
T = TypeVar("T")


async def eventually(
    predicate: Callable[[], T],
    *,
    timeout: float = 5.0,  # noqa: ASYNC109 - what was waited for is told here
    what: str = "",
) -> T:
    """The first true value of `predicate`, asked every 20 ms; AssertionError after `timeout` seconds.

    Only where no event exists: what the daemon says is awaited with `Daemon.event`.
    """
    deadline = time.monotonic() + timeout
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout:g} s: {what or predicate}")
        await asyncio.sleep(INTERVAL)
    return value
