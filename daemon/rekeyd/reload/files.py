"""One file to its bytes, one folder to its names, or to the reason why not.

The rule: whatever the operating system says, an operator is told in words what is wrong and what to do: which
link dangles, which folder can't be entered, as which user rekeyd asked. A read never hangs (a FIFO is not
waited for) and is bounded. Must not know: what a file is for.
"""

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from rekeyd.errors import RekeydError

LARGEST = 10 * 1024 * 1024
"""Bytes. A thousand times the size of a chain; what is larger is the wrong file."""
LARGEST_KEY_FILE = 64 * 1024 * 1024
"""Bytes. Two hundred thousand keys with limits and notes."""

LARGEST_CREDENTIAL = 1024 * 1024
"""Bytes. What systemd allows for all credentials of a service (systemd.exec(5))."""


class UnreadableError(RekeydError):
    """A file that can't be read: `message` begins with its path, `fix` is what to do."""

    def __init__(self, message: str, fix: str) -> None:
        self.message = message
        self.fix = fix
        super().__init__(f"{message}. {fix}.")


@dataclass(frozen=True, slots=True)
class File:
    """The bytes of a file, and the bits of its mode that say who may do what with it."""

    data: bytes = field(repr=False)
    mode: int = 0o600


@dataclass(frozen=True, slots=True)
class Names:
    """What is in a folder, sorted by name, without what begins with a dot. A link is what it leads to."""

    files: tuple[str, ...]
    folders: tuple[str, ...]


def read_file(path: Path, largest: int = LARGEST) -> File:
    """All bytes of a regular file of at most `largest` bytes. Raises `UnreadableError`."""
    try:
        with open(path, "rb", opener=_without_waiting) as file:
            mode = os.fstat(file.fileno()).st_mode
            _check_kind(path, mode)
            data = file.read(largest + 1)
    except OSError as error:
        raise _explained(path, error) from error
    if len(data) > largest:
        raise UnreadableError(f"{path} is larger than {largest >> 20} MiB", "Name the right file")
    return File(data, stat.S_IMODE(mode))


def list_folder(path: Path) -> Names:
    """The names in a folder. Raises `UnreadableError`."""
    try:
        with os.scandir(path) as entries:
            kinds = {entry.name: entry.is_dir() for entry in entries if not entry.name.startswith(".")}
    except OSError as error:
        raise _explained(path, error) from error
    names = sorted(kinds)
    return Names(tuple(n for n in names if not kinds[n]), tuple(n for n in names if kinds[n]))


def _without_waiting(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def _check_kind(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise UnreadableError(f"{path} is not a regular file", "Name a file, not a pipe, socket or device")


def _explained(path: Path, error: OSError) -> UnreadableError:
    if error.errno == errno.ENOENT:
        return _missing(path)
    if error.errno in {errno.EACCES, errno.EPERM}:
        return _denied(path)
    if error.errno == errno.ENOTDIR and path.is_file():
        return UnreadableError(f"{path} is a file", "Name the folder that it is in")
    if error.errno == errno.EISDIR:
        return UnreadableError(f"{path} is a directory", "Name a file in it")
    if error.errno == errno.ELOOP:
        return UnreadableError(f"{path}: its symbolic links lead in a circle", "Point them at a file")
    reason = os.strerror(error.errno) if error.errno else type(error).__name__
    return UnreadableError(f"{path} can't be read: {reason}", "See that it can, then reload")


def _missing(path: Path) -> UnreadableError:
    if path.is_symlink():
        target = path.readlink()
        return UnreadableError(f"{path} is a link to {target}, which does not exist", "Mend the link")
    present = next(parent for parent in path.parents if parent.exists())
    if present != path.parent:
        gone = path.parents[list(path.parents).index(present) - 1]
        return UnreadableError(
            f"{path} does not exist, nor does its folder {gone}", "Create it or correct the path"
        )
    return UnreadableError(f"{path} does not exist", "Create it or correct the path")


def _denied(path: Path) -> UnreadableError:
    user = f"uid {os.geteuid()}"
    for folder in reversed(path.parents):
        if not os.access(folder, os.X_OK, effective_ids=True):
            return UnreadableError(
                f"{path} can't be read: the folder {folder} can't be entered by {user}",
                f"Give that user the right to enter it (`chmod +x` or `setfacl -m u:{os.geteuid()}:x`)",
            )
    return UnreadableError(
        f"{path} can't be read by {user}{_ownership(path)}",
        f"Let that user read it (`chgrp` and `chmod g+r`, or `setfacl -m u:{os.geteuid()}:r`)",
    )


def _ownership(path: Path) -> str:
    try:
        status = path.stat()
    except OSError:
        return ""
    mode = stat.S_IMODE(status.st_mode)
    return f": it belongs to uid {status.st_uid}, gid {status.st_gid}, with mode {mode:04o}"
