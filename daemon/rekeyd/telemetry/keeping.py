"""Evidence across restarts: a file in the state folder.

The rules:

1. What is new is written at most once in `EVERY` seconds, and at a clean stop. So a crash takes the last 30
   seconds, and with them perhaps a first use.
2. The file is replaced whole (`system/replacing.py`), by a thread.
3. A file that is torn, or something else, is set aside as `usage.json.damaged`; one by a later version is
   left alone, and nothing is kept over it. Both are a warning, and never keep the daemon from starting.
4. A folder that can't be written costs what is not kept, and nothing else: it is told once, and tried again.

Must not know: what is counted.
"""

import asyncio
import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path

import structlog

from rekeyd.errors import SettingsError
from rekeyd.settings import State
from rekeyd.system.replacing import replace_file
from rekeyd.system.state import StateFolder, folder_named_by, take
from rekeyd.telemetry.evidence import LARGEST, Evidence, NewerUsageError, NotUsageError, usage_in

FILE = "usage.json"
EVERY = 30.0
"""Seconds between two writings at least, and what a crash may take."""

log = structlog.get_logger()


async def keep(evidence: Evidence, setting: State, environ: Mapping[str, str]) -> "Keeper | None":
    """Go on with what was kept, and keep it from now on; None, after saying so, where it can't be.

    To be awaited before the first decision is counted. Raises SettingsError for a folder that was asked for.
    """
    path = folder_named_by(setting, environ)
    if path is None:
        return None
    try:
        folder = take(path, make=not setting.directory_is_default)
    except SettingsError as error:
        if not setting.directory_is_default:
            raise
        (problem,) = error.problems
        log.warning("state.off", problem=f"{problem.file} {problem.message}", fix=problem.fix)
        return None
    keeper = Keeper(evidence, folder)
    await asyncio.to_thread(keeper.restore)
    keeper.start()
    return keeper


class Keeper:
    """Keeps `evidence` in a folder: `restore` it, then `start`; `close` writes what is new and leaves."""

    def __init__(self, evidence: Evidence, folder: StateFolder, *, every: float = EVERY) -> None:
        self._state = folder
        self._file = folder.path / FILE
        self._evidence = evidence
        self._every = every
        self._written: int | None = None  # the count of changes that the file has
        self._told = False
        self._left_alone = False
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def kept_in(self) -> Path | None:
        """The folder; None where a file in it is to be left alone."""
        return None if self._left_alone else self._state.path

    def restore(self) -> None:
        """Go on with what the file says, if it says anything. Blocks; never raises for what is in it."""
        try:
            source = _read(self._file)
        except FileNotFoundError:
            return  # the first start: evidence begins now, which the first writing notes
        except OSError as error:
            self._leave_alone(f"it can't be read ({error.strerror})", "Let rekeyd read and write it")
            return
        try:
            self._evidence.restore(usage_in(source))
            self._written = self._evidence.changes
        except NewerUsageError as error:
            self._leave_alone(str(error), "Run the later version again, or move the file away")
        except NotUsageError as error:
            self._set_aside(str(error))

    def start(self) -> None:
        """From now on write what is new, now and then."""
        self._task = asyncio.create_task(self._run(), name="evidence")

    async def close(self) -> None:
        """Write what is new, for the last time. Not cancelled: a writing that has begun must end first."""
        self._stopping.set()
        if self._task is not None:
            await self._task
        await self._write()
        self._state.leave()

    async def _run(self) -> None:
        while not self._stopping.is_set():
            await self._write()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self._every)

    async def _write(self) -> None:
        changes = self._evidence.changes
        if self._left_alone or changes == self._written:
            return
        render = self._evidence.snapshot()
        try:
            await asyncio.to_thread(lambda: replace_file(self._file, b"".join(render()), mode=0o600))
        except Exception as error:  # noqa: BLE001 - no thread, no memory, no room: the clean stop goes on
            if not self._told:
                fix = "Evidence is counted on, and kept as soon as there is room and a folder"
                problem = error.strerror if isinstance(error, OSError) else str(error)
                log.warning("evidence.unkept", file=str(self._file), problem=problem, fix=fix)
            self._told = True
        else:
            self._written, self._told = changes, False

    def _leave_alone(self, problem: str, fix: str) -> None:
        self._left_alone = True
        log.warning("evidence.unkept", file=str(self._file), problem=problem, fix=fix)

    def _set_aside(self, problem: str) -> None:
        aside = self._file.with_name(f"{FILE}.damaged")
        try:
            self._file.rename(aside)
        except OSError as error:
            self._leave_alone(f"{problem}, and can't be set aside ({error.strerror})", "Move it away")
            return
        log.warning("evidence.damaged", file=str(self._file), problem=problem, set_aside=str(aside))


def _read(file: Path) -> bytes:
    """Not through a link, and without waiting for whoever might write into a FIFO in its place."""
    descriptor = os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        with os.fdopen(descriptor, "rb", closefd=False) as stream:
            return stream.read(LARGEST + 1)
    finally:
        os.close(descriptor)
