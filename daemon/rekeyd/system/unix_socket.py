"""A unix socket that appears whole, and takes the place of nothing that is alive.

The rules:

- It is bound under another name and renamed, so its path never shows one that doesn't answer.
- What is there already is replaced only if it is a socket on which nobody answers. Daemons that start at once
  take turns: the folder is locked meanwhile.
- The path is removed only if what is there is still ours.

Must not know: what is spoken on it.
"""

import contextlib
import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rekeyd.errors import Problem, SettingsError

MODE = 0o660
_LONGEST_PATH = 107  # sun_path in unix(7), without its final NUL


@dataclass(frozen=True, slots=True)
class Taken:
    """A listening socket, and what its file is known by."""

    path: Path
    channel: socket.socket
    inode: tuple[int, int]

    def leave(self) -> None:
        """Remove the path, unless a successor's socket is there by now; the channel stays open."""
        if _inode(self.path) == self.inode:
            self.path.unlink(missing_ok=True)


def can_be_made(path: Path) -> bool:
    """Whether a socket can be made at `path` by this process. Says nothing about what is there already."""
    return os.access(path.parent, os.W_OK | os.X_OK)


def take(path: Path, *, key: str) -> Taken:
    """Listen at `path`, which the setting `key` names, with mode 0660: who may write to it may connect.

    Raises:
        SettingsError: the path can't be had.
    """
    own = path.with_name(f".{os.getpid()}")
    try:
        _check_length(path, own)
        with _locked(path.parent):
            _make_way(path)
            return _bound(own, path)
    except _InTheWayError as error:
        message, fix = error.message, error.fix
    except BlockingIOError:
        message, fix = "another daemon is starting in this folder", "Give each its own folder"
    except OSError as error:
        message = f"can't make the socket: {os.strerror(error.errno or errno.EIO)}"
        fix = f"Make {path.parent} a folder in which rekeyd may write, or set another path"
    raise SettingsError([Problem(file=str(path), key=key, message=message, fix=fix)])


class _InTheWayError(Exception):
    def __init__(self, message: str, fix: str) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix


def _check_length(*paths: Path) -> None:
    if any(len(os.fsencode(path)) > _LONGEST_PATH for path in paths):
        raise _InTheWayError(f"a socket's path has at most {_LONGEST_PATH} bytes", "Choose a shorter path")


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _make_way(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _InTheWayError("something that is not a socket is there", "Remove it or set another path")
    if _answers(path):
        raise _InTheWayError("another daemon answers there", "Stop it, or give this one another path")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.setblocking(False)
        try:
            channel.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # its queue is full, so somebody listens
    return True


def _bound(own: Path, path: Path) -> Taken:
    own.unlink(missing_ok=True)  # left by a process that died under this very pid
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(channel.fileno(), MODE)  # Linux makes the file with the socket's mode, less the umask
        channel.bind(os.fspath(own))
        own.chmod(MODE)
        channel.listen(128)
        own.rename(path)
    except BaseException:
        channel.close()
        own.unlink(missing_ok=True)
        raise
    made = path.lstat()
    return Taken(path, channel, (made.st_dev, made.st_ino))


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino
