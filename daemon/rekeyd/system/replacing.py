"""Files that are replaced whole: whoever reads one sees the old bytes or the new ones, also after a crash.

The rules. The new bytes go to a file of their own in the same folder, are on the disk before it takes the
name, and the folder is written after: a name never leads to half a file (rename(2), fsync(2)). It gets the
owner, group, mode and access list of the old one first; where owner and group can't be kept nothing is
replaced, for the reader might be shut out. A symbolic link stays, and what it leads to is replaced. The file
in the making has a fixed name that begins with a dot, so that one which a crash left behind is removed by the
next writer: writers take turns (`locked`).

Must not know: what is in a file.
"""

import contextlib
import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from rekeyd.errors import RekeydError

NEW_FILE_MODE = 0o640
_ACCESS_LIST = "system.posix_acl_access"
_PAUSE = 0.02  # seconds
_REASONS = {
    errno.EROFS: "its file system is read-only",
    errno.EACCES: "this user may not write there",
    errno.EPERM: "this user may not write there",
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the quota is used up",
    errno.EBUSY: "it is a mount of its own; mount the folder that it is in instead",
}


class ReplaceError(RekeydError):
    """Nothing was replaced. The message begins with the path."""


@contextlib.contextmanager
def locked(path: Path, *, wait: float = 10.0) -> Iterator[None]:
    """Be the only writer of the folder that the file is in, once others are done; at most `wait` seconds.

    Raises `ReplaceError`. The lock ends with the process that holds it, however it ends.
    """
    folder = real(path).parent
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise _explained(folder, error) from None
    try:
        _lock(descriptor, folder, wait)
        yield
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes, *, mode: int = NEW_FILE_MODE) -> None:
    """Put `data` in the place of the file, or into a new one with that mode. Raises `ReplaceError`."""
    target = real(path)
    new = target.with_name(f".{target.name}.rekeyd-new")
    try:
        with contextlib.suppress(FileNotFoundError):
            new.unlink()
        try:
            _write(new, data, like=target, mode=mode)
            os.rename(new, target)  # noqa: PTH104 - named after the system call that it is
        except BaseException:
            with contextlib.suppress(OSError):
                new.unlink()
            raise
    except OSError as error:
        raise _explained(target, error) from None
    with contextlib.suppress(OSError):  # it is replaced, whatever comes of this: some file systems can't
        _sync(target.parent)


def real(path: Path) -> Path:
    """What the path leads to, symbolic links followed. Raises `ReplaceError`."""
    try:
        return path.resolve()
    except (OSError, RuntimeError):
        raise ReplaceError(f"{path}: its symbolic links lead in a circle") from None


def _lock(descriptor: int, folder: Path, wait: float) -> None:
    deadline = time.monotonic() + wait
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                message = (
                    f"{folder} is locked by somebody else who writes there, for {wait:g} seconds already"
                )
                raise ReplaceError(message) from None
            threading.Event().wait(_PAUSE)
        except OSError as error:
            raise _explained(folder, error) from None
        else:
            return


def _write(new: Path, data: bytes, *, like: Path, mode: int) -> None:
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _resemble(descriptor, like, mode)
        view = memoryview(data)
        while view:
            view = view[os.write(descriptor, view) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _resemble(descriptor: int, like: Path, mode: int) -> None:
    """Owner, group, mode and, as far as the file system goes along, extended attributes."""
    try:
        old = like.stat()
    except FileNotFoundError:
        os.fchmod(descriptor, mode)
        return
    if not stat.S_ISREG(old.st_mode):
        raise ReplaceError(f"{like} is not a regular file")
    made = os.fstat(descriptor)
    if (made.st_uid, made.st_gid) != (old.st_uid, old.st_gid):
        _give_away(descriptor, like, old)
    os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
    with contextlib.suppress(OSError):
        kept = os.listxattr(like)
        for name in kept:
            with contextlib.suppress(OSError):
                os.setxattr(descriptor, name, os.getxattr(like, name))
        if _ACCESS_LIST not in kept and _ACCESS_LIST in os.listxattr(descriptor):
            os.removexattr(descriptor, _ACCESS_LIST)  # the folder's default, which the old file did not have


def _give_away(descriptor: int, like: Path, old: os.stat_result) -> None:
    try:
        os.fchown(descriptor, old.st_uid, old.st_gid)
    except PermissionError:
        message = (
            f"{like} belongs to uid {old.st_uid}, gid {old.st_gid}, which uid {os.geteuid()} can't give to "
            "the file that replaces it: do this as root or as that user"
        )
        raise ReplaceError(message) from None


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _explained(path: Path, error: OSError) -> ReplaceError:
    reason = _REASONS.get(error.errno or 0) or os.strerror(error.errno or 0)
    return ReplaceError(f"{path} can't be written: {reason}")
