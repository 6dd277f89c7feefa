"""What goes on beside all else: begun, called off or waited for, and told of if it breaks.

Must not know: what is done.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

import structlog

from rekeyd.errors import RekeydError

log = structlog.get_logger()

T = TypeVar("T")


class Background:
    """Tasks that nobody else holds."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()

    def begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Do it from now on. Whoever waits for it is told what it raises; so is the log, if that is a bug."""
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(_tell_if_it_broke)
        return task

    def call_off(self) -> None:
        """Cancel all that has begun; `over` waits for its end."""
        for task in self._tasks:
            task.cancel()

    async def over(self) -> None:
        """Wait for all that has begun."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


def _tell_if_it_broke(task: asyncio.Task[Any]) -> None:
    error = None if task.cancelled() else task.exception()
    if error is not None and not isinstance(error, RekeydError):  # which is an answer like any other
        log.error("worker.failed", problem=f"an unexpected {type(error).__name__}", exc_info=error)
