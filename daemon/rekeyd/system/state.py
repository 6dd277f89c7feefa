"""The folder in which the daemon keeps what must outlive it: where it is, and that it is one daemon's alone.

The rules: a folder that was asked for is made where it is missing. The default is systemd's
(`$STATE_DIRECTORY`, systemd.exec(5)), else one that is there already. Two daemons in one folder would each
undo what the other has written, so whoever comes second is turned away (`LOCK`, which the kernel takes back
when its holder dies).

Must not know: what is kept.
"""

import errno
import fcntl
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rekeyd.errors import Problem, SettingsError
from rekeyd.settings import State

LOCK = ".lock"
_KEY = "state.directory"
_MODE = 0o700


@dataclass(frozen=True, slots=True)
class StateFolder:
    """A folder that is ours until `leave`."""

    path: Path
    lock: int

    def leave(self) -> None:
        os.close(self.lock)


def folder_named_by(state: State, environ: Mapping[str, str]) -> Path | None:
    """Where the settings, and for the default the environment, put it; None: nothing is kept.

    Of the folders that systemd may name the first is ours.
    """
    given = environ.get("STATE_DIRECTORY", "").partition(":")[0]
    return Path(given) if state.directory_is_default and given.startswith("/") else state.directory


def check_state(state: State) -> None:
    """Whether a folder that was asked for could be had. Makes nothing, and doesn't mind who has it now.

    Raises:
        SettingsError: `take` would not do.
    """
    path = state.directory
    if path is None or state.directory_is_default:
        return
    place = path if os.path.lexists(path) else path.parent
    if not place.is_dir():
        raise _unusable(path, os.strerror(errno.ENOTDIR if place.exists() else errno.ENOENT))
    if not os.access(place, os.W_OK | os.X_OK, effective_ids=True):
        raise _unusable(path, os.strerror(errno.EACCES))


def take(path: Path, *, make: bool) -> StateFolder:
    """Have the folder at `path` to oneself; where it is missing, `make` it.

    Raises:
        SettingsError: it can't be had.
    """
    try:
        if make and not path.exists():
            path.mkdir(mode=_MODE)
        lock = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise _unusable(path, error.strerror) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(lock)
        message, fix = "another daemon keeps its state there", "Give each a folder of its own"
        raise SettingsError([Problem(str(path), _KEY, message, fix)]) from error
    return StateFolder(path, lock)


def _unusable(path: Path, why: str | None) -> SettingsError:
    fix = "Make it a folder in which rekeyd may write, set another one, or null"
    return SettingsError([Problem(str(path), _KEY, f"can't be written ({why})", fix)])
