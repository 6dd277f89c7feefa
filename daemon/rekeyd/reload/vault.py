"""The last good generation in the hands of the service manager, for a start while the disk is torn.

The rules: what is kept is sealed memory (`sealed.py`) in the service manager's descriptor store; no key is
written to a disk. The new generation is there before the former one is taken away, so that there is no moment
without one; where the new one can't be kept the former one goes all the same, for it may hold a key that has
been revoked. Names say the order (nanoseconds since the machine was started, which no setting of the clock
turns back); of several only the latest is believed, and what we don't know is taken away. Without a service
manager that keeps descriptors (`FDSTORE`, at least two) nothing is done.

A generation that comes back is served as if it had gone on being served: it is not judged again, for what has
expired meanwhile would be served by a daemon that had not crashed, too. Must not know: when it is asked for.
"""

import asyncio
import datetime as dt
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import structlog

from rekeyd.errors import RekeydError
from rekeyd.reload.attempt import where
from rekeyd.reload.current import Serving
from rekeyd.reload.interpretation import Interpreter
from rekeyd.reload.sealed import Sealed, SealError, seal, unseal
from rekeyd.reload.snapshot import Snapshot
from rekeyd.settings import Settings
from rekeyd.system import systemd
from rekeyd.trust.generation import Generation, Severity

PREFIX = "generation-"
ROOM = 2
"""Descriptors that must have room: the new one and, for a moment, the former one."""
_NAME = re.compile(rf"{PREFIX}([0-9]+)")

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Restored:
    """What came back: it had `number` before, and was sealed `at` (seconds of the epoch).

    `descriptor` is of the sealed snapshot, for as long as nothing else is kept.
    """

    serving: Serving
    number: int
    at: float
    descriptor: int

    def fields(self) -> dict[str, object]:
        """For the log."""
        return {"was": self.number, "since": dt.datetime.fromtimestamp(self.at, dt.UTC).isoformat()}


class Vault:
    """What the service manager keeps for us. `handed` are descriptors that it kept, by name."""

    def __init__(self, handed: Mapping[str, int], environ: Mapping[str, str]) -> None:
        self._kept: dict[str, int | None] = dict(handed)
        self._one_at_a_time = asyncio.Lock()
        self.is_open = _room_in(environ) >= ROOM
        """Whether there is a service manager that keeps what we give it."""
        latest = max(filter(_NAME.fullmatch, self._kept), key=_moment, default=None)
        self._forget([name for name in self._kept if not self.is_open or name != latest])

    @property
    def holds_one(self) -> bool:
        """Whether the service manager keeps a generation for us."""
        return bool(self._kept)

    def restore(self, running: Settings, build: Callable[[Generation], Serving]) -> Restored | None:
        """What came back, as generation 1 of a process with these settings; None where it is of no use.

        Raises nothing, but tells why it is of no use. It may block for seconds: call it in a thread.
        """
        for name, descriptor in list(self._kept.items()):
            if descriptor is None:
                continue
            try:
                kept = unseal(descriptor, running=running)
                return Restored(build(_generation(kept)), kept.number, kept.at, descriptor)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with it, the start goes on without it
                log.warning("generation.unusable", problem=_words(error))
                self._forget([name])
        return None

    async def keep(self, snapshot: Snapshot, environ: Mapping[str, str], number: int) -> None:
        """Seal what generation `number` was made of, and `put` it. Raises nothing."""
        async with self._one_at_a_time:
            try:
                descriptor = await asyncio.to_thread(seal, snapshot, environ, number=number)
            except (OSError, SealError) as error:
                self._tell_that_it_is_not_kept(str(error))
                self._forget(list(self._kept))
                return
            try:
                self.put(descriptor)
            finally:
                os.close(descriptor)

    def put(self, descriptor: int) -> None:
        """Have this sealed generation kept instead of all before. The descriptor stays the caller's."""
        former = list(self._kept)
        name = f"{PREFIX}{time.clock_gettime_ns(time.CLOCK_BOOTTIME)}"
        if systemd.store(name, descriptor):
            self._kept[name] = None
        else:
            self._tell_that_it_is_not_kept("the service manager can't be told")
        self._forget(former)

    def _tell_that_it_is_not_kept(self, problem: str) -> None:
        log.warning(
            "generation.unkept",
            problem=f"a restart could not fall back on this generation: {problem}",
            fix="Reload again, once there is memory and the service manager answers",
        )

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            systemd.forget(name)
            if (descriptor := self._kept.pop(name)) is not None:
                os.close(descriptor)


def is_kept(name: str) -> bool:
    """Whether a descriptor of that name, which the service manager hands over, is one that it kept for us."""
    return name.startswith(PREFIX)


def _room_in(environ: Mapping[str, str]) -> int:
    """How many descriptors the service manager keeps for us (systemd 254; our unit says so to older ones)."""
    told = environ.get("FDSTORE", "")
    return int(told) if environ.get("NOTIFY_SOCKET") and told.isdecimal() else 0


def _moment(name: str) -> int:
    return int(name.removeprefix(PREFIX))


def _generation(kept: Sealed) -> Generation:
    """As it was interpreted before. Raises `RekeydError` where this version reads something else in it."""
    candidate = Interpreter().candidate(kept.snapshot)
    for fault in candidate.faults:
        if fault.severity is Severity.REFUSE:
            raise SealError(f"what was good is not any more: {fault}")
    return candidate.generation(1)


def _words(error: Exception) -> str:
    """Those of an unexpected error may hold anything."""
    if isinstance(error, RekeydError):
        return f"the generation that the service manager kept can't be used: {error}"
    return f"an unexpected {type(error).__name__} at {where(error)}"
