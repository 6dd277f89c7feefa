"""What asks for a reload by itself: a timer, and a watch over the files.

The rules: directories are watched, never files, for a file that is replaced takes its watch along. An event
is only a hint and its absence proves nothing, so the files' metadata is looked at twice a second as well;
that finds what no event tells (a directory that was recreated, a mount without inotify, a queue that ran
over). Where a watch can't be had polling goes on alone, and `watch.degraded` says so once.

What the bytes say is the reloader's business: a reload too many is harmless, one too few is not. Must not
know: what a reload does.
"""

import asyncio
import os
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Iterable
from contextlib import aclosing
from pathlib import Path

import structlog
import watchfiles

from rekeyd.reload.trail import Survey, survey

POLL = 0.5  # seconds
SHARE = 0.05
"""Of the time, at most, that polling takes: where thousands of files are watched it is rarer."""

BURST = 50  # milliseconds in which events count as one
RETRY = 60.0  # seconds until a watch that could not be had is tried again

Reload = Callable[[str], Awaitable[object]]
Changes = set[tuple[watchfiles.Change, str]]
Events = Callable[[Collection[Path]], AsyncGenerator[Changes, None]]

log = structlog.get_logger()


async def run_timer(seconds: float, reload: Reload) -> None:
    """Ask for a reload every so many seconds (`tls.cert_ttl`), until cancelled."""
    while True:
        await asyncio.sleep(seconds)
        await reload("ttl")


def directory_events(directories: Collection[Path]) -> AsyncGenerator[Changes, None]:
    """Changes directly in these directories; an empty set when there was none for `POLL` seconds."""
    return watchfiles.awatch(
        *directories,
        watch_filter=None,
        debounce=BURST,
        step=BURST,
        rust_timeout=int(POLL * 1000),
        yield_on_timeout=True,
        recursive=False,
        force_polling=False,
    )


class Watch:
    """Asks for a reload whenever one of the files may have changed.

    `paths` gives the files; after a reload it may give others.
    """

    def __init__(
        self,
        paths: Callable[[], Iterable[Path]],
        reload: Reload,
        *,
        events: Events = directory_events,
    ) -> None:
        self._paths = paths
        self._reload = reload
        self._events = events
        self._degraded: str | None = None
        self._rested = 0.0

    async def run(self) -> None:
        """Watch until cancelled. The first look asks for a reload: what came before it was not seen."""
        seen = await self._look(None, set())
        while True:
            seen = await self._follow(seen)

    async def _follow(self, seen: Survey) -> Survey:
        """Until other directories are to be watched, or the same ones anew."""
        async with aclosing(self._hints(seen.directories)) as hints:
            async for changed in hints:
                if not changed and time.monotonic() < self._rested:
                    continue
                watched = seen.directories
                seen = await self._look(seen, changed)
                if seen.directories != watched or not changed.isdisjoint(map(str, watched)):
                    break
        return seen

    async def _look(self, before: Survey | None, changed: set[str]) -> Survey:
        """What is there counts as seen before the reload reads it, so that what comes later is seen again."""
        began = time.monotonic()
        now = await asyncio.to_thread(survey, tuple(self._paths()))
        self._rested = began + (time.monotonic() - began) / SHARE
        if (
            before is None
            or before.racy
            or before.files != now.files
            or not changed.isdisjoint(before.hops | now.hops)
        ):
            await self._reload("watch")
        return now

    async def _hints(self, directories: Collection[Path]) -> AsyncGenerator[set[str], None]:
        """Paths that changed, and an empty set at least every `POLL` seconds; it ends when to be renewed."""
        readable = [directory for directory in directories if _can_be_watched(directory)]
        try:
            async with aclosing(self._events(readable)) as events:
                async for changes in events:
                    self._say_how_it_goes([d for d in directories if d not in readable], "permission denied")
                    yield {path for _, path in changes}
        except FileNotFoundError:
            await asyncio.sleep(POLL)  # a directory went away just now; the next look finds what to watch
            return
        except (OSError, RuntimeError) as error:
            self._say_how_it_goes(list(directories), _reason(error))
        for _ in range(int(RETRY / POLL)):
            await asyncio.sleep(POLL)
            yield set()

    def _say_how_it_goes(self, unwatched: list[Path], reason: str) -> None:
        """Once, when the watch loses directories to polling, and once when it has them all again."""
        state = f"{reason}: {unwatched}" if unwatched else None
        if state == self._degraded:
            return
        self._degraded = state
        if unwatched:
            names = [str(directory) for directory in unwatched]
            log.warning("watch.degraded", reason=reason, directories=names, polling=POLL)
        else:
            log.info("watch.restored")


def _can_be_watched(directory: Path) -> bool:
    """inotify_add_watch(2) wants the right to read the directory."""
    return os.access(directory, os.R_OK, effective_ids=True)


def _reason(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
