"""Where the daemon writes, so that it can be kept from writing anywhere else (`system/landlock.py`).

The rules: it writes to the folders of its admin socket, its state and its audit, and to `/dev/null`. All are
settings that a reload can't change. An application that is served from within this process (`app:`) has
business of its own, which nobody knows here: then nothing is confined. One that a later reload brings in is
confined with everything else.

Must not know: what is written.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import structlog

from rekeyd.settings import Settings
from rekeyd.system import landlock
from rekeyd.system.admin_client import socket_named_by
from rekeyd.system.state import folder_named_by

log = structlog.get_logger()

_FOLDER_MODE = 0o700


@dataclass(frozen=True, slots=True)
class Confinement:
    """What came of it: the version of Landlock, None where there is none, or none was wanted."""

    landlock: int | None

    def tell(self) -> None:
        """One line in the log, at level debug."""
        log.debug("process.confined", writes=self.landlock is not None, landlock=self.landlock)


def confine(settings: Settings, environ: Mapping[str, str], *more: Path) -> Confinement:
    """From now on this thread and those that it starts can write to what `settings` name and to `more` alone.

    The folder of the state is made where it was asked for and is missing: it can't be allowed otherwise.
    """
    upstream = settings.upstream.http
    if upstream is not None and upstream.scheme == "app":
        return Confinement(None)
    if settings.state.directory is not None and not settings.state.directory_is_default:
        with contextlib.suppress(OSError):  # whoever takes the folder says what is wrong with it
            settings.state.directory.mkdir(mode=_FOLDER_MODE)
    return Confinement(landlock.confine_writes([*written_by(settings, environ), *more]))


def written_by(settings: Settings, environ: Mapping[str, str]) -> Iterable[Path]:
    """The files and folders that a daemon with these settings writes to."""
    return tuple(_written_by(settings, environ))


def _written_by(settings: Settings, environ: Mapping[str, str]) -> Iterator[Path]:
    yield Path(os.devnull)
    socket = socket_named_by(settings.admin, environ)
    if socket is not None:
        yield socket.parent
    if settings.logging.audit is not None:
        yield settings.logging.audit.parent
    state = folder_named_by(settings.state, environ)
    if state is not None:
        yield state
