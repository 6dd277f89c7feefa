"""What a sink writes to: a descriptor that stays the same, or a file that may be rotated away at any time.

The rules for a file (`logging.audit`):

1. Before each batch the path is compared with the file that is open (device and inode); where it is another,
   or none, the path is opened anew, and made if need be. So a file that was renamed or removed is left, and
   one that was emptied in place (`copytruncate`) is written on at its new end (O_APPEND).
2. Only a regular file is written to. A symbolic link as the last part of the path is refused (O_NOFOLLOW):
   who may write to the folder could have the service append to any file of its own. A FIFO or device is
   refused too: it could hold up the thread (hence O_NONBLOCK), and keeps nothing.
3. A file that is made here has mode 0640, whatever the umask; one that is there keeps the mode that it has.
4. A line that only half fits is taken back, so that none is torn.

Must not know: what is written.
"""

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import Protocol

MODE = 0o640
_WAY = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


class Destination(Protocol):
    """Where bytes go."""

    @property
    def descriptor(self) -> int:
        """To be asked for after each `refresh`."""

    def refresh(self) -> bool:
        """To be called before a batch is written: whether it is another file than before.

        Raises OSError where nothing can be written now.
        """

    def take_back(self, size: int) -> bool:
        """Undo the last `size` bytes, just written; whether that was possible."""

    def close(self) -> None: ...


class Stream:
    """One descriptor for good; a duplicate of the caller's, which stays the caller's own."""

    def __init__(self, descriptor: int) -> None:
        # Were the original closed and used again, log lines would go into somebody's connection.
        try:
            self.descriptor = os.dup(descriptor)
        except OSError:
            self.descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)

    def refresh(self) -> bool:
        return False

    def take_back(self, size: int) -> bool:  # noqa: ARG002 - what a pipe has can't be undone
        return False

    def close(self) -> None:
        os.close(self.descriptor)


class RotatedFile:
    """The file at `path`, whichever that is. Raises OSError where it can't be had at first."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.descriptor = _open(path)
        self._inode = _known_by(os.fstat(self.descriptor))

    def refresh(self) -> bool:
        with contextlib.suppress(FileNotFoundError):
            if _known_by(self.path.lstat()) == self._inode:
                return False
        descriptor = _open(self.path)
        os.close(self.descriptor)
        self.descriptor, self._inode = descriptor, _known_by(os.fstat(descriptor))
        return True

    def take_back(self, size: int) -> bool:
        try:
            whole = os.fstat(self.descriptor).st_size - size
            if whole < 0:
                return False  # it was emptied meanwhile
            os.ftruncate(self.descriptor, whole)
        except OSError:
            return False
        return True

    def close(self) -> None:
        os.close(self.descriptor)


def reason_against(path: Path) -> OSError | None:
    """Why `RotatedFile` would not open `path`; None where it would. Makes no file."""
    try:
        os.close(_open(path, make=False))
    except FileNotFoundError as error:
        if path.parent.is_dir() and os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
            return None
        return error if not path.parent.is_dir() else PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    except OSError as error:
        return error
    return None


def _open(path: Path, *, make: bool = True) -> int:
    try:
        descriptor = os.open(path, _WAY)
    except FileNotFoundError:
        if not make:
            raise
        descriptor = _make(path)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "it is not a regular file")
    return descriptor


def _make(path: Path) -> int:
    try:
        descriptor = os.open(path, _WAY | os.O_CREAT | os.O_EXCL, MODE)
    except FileExistsError:
        return os.open(path, _WAY)  # logrotate was faster
    try:
        os.fchmod(descriptor, MODE)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def _known_by(status: os.stat_result) -> tuple[int, int]:
    return status.st_dev, status.st_ino
