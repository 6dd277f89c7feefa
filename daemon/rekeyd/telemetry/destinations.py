"""What a sink writes to: a descriptor that stays the same, a file that may be rotated away, or the journal.

The rules for a file (`logging.audit`):

1. Before each batch the path is compared with the file that is open (device and inode); where it is another,
   or none, the path is opened anew, and made if need be. So a file that was renamed or removed is left, and
   one that was emptied in place (`copytruncate`) is written on at its new end (O_APPEND).
2. Only a regular file is written to. A symbolic link as the last part of the path is refused (O_NOFOLLOW):
   who may write to the folder could have the service append to any file of its own. A FIFO or device is
   refused too: it could hold up the thread (hence O_NONBLOCK), and keeps nothing.
3. A file that is made here has mode 0640, whatever the umask; one that is there keeps the mode that it has.
4. A line that only half fits is taken back, so that none is torn.

Where other processes write to it as well (`shared`) no line is torn by theirs: what goes to a pipe or a
socket goes in pieces of whole lines that the kernel takes in one (POSIX, write(), PIPE_BUF), a log is
appended to (O_APPEND), and the audit by one at a time (fcntl(2), F_SETLKW): half a line is taken back before
one of another's could stand behind it. A line longer than PIPE_BUF may still be torn in a pipe.

The journal gets one datagram for each entry; one that is too large for that goes as sealed memory.

Must not know: what is written.
"""

import contextlib
import errno
import fcntl
import os
import select
import socket
import stat
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol

from rekeyd.system.sealed_memory import sealed

MODE = 0o640
_WAY = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY


WHOLE = 128 * 1024
"""Bytes of a batch that is written at once."""
JOURNAL = "/run/systemd/journal/socket"


_TOO_LARGE = frozenset({errno.EMSGSIZE, errno.ENOBUFS})


class Destination(Protocol):
    """Where bytes go."""

    batch: int
    """Bytes of whole lines that may go in one `write`; a longer line goes alone."""

    @property
    def descriptor(self) -> int:
        """To be asked for after each `refresh`."""

    def refresh(self) -> bool:
        """To be called before a batch is written: whether it is another file than before.

        Raises OSError where nothing can be written now.
        """

    def write(self, data: memoryview) -> int:
        """Write some of it, a byte at least; how many bytes that were. Raises OSError."""

    def take_back(self, size: int) -> bool:
        """Undo the last `size` bytes, just written; whether that was possible."""

    def close(self) -> None: ...


class Stream:
    """One descriptor for good; a duplicate of the caller's, which stays the caller's own."""

    def __init__(self, descriptor: int, *, shared: bool = False) -> None:
        # Were the original closed and used again, log lines would go into somebody's connection.
        try:
            self.descriptor = os.dup(descriptor)
        except OSError:
            self.descriptor = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        self.batch = WHOLE
        if shared and stat.S_ISREG(os.fstat(self.descriptor).st_mode):
            flags = fcntl.fcntl(self.descriptor, fcntl.F_GETFL)
            fcntl.fcntl(self.descriptor, fcntl.F_SETFL, flags | os.O_APPEND)
        elif shared:
            self.batch = select.PIPE_BUF

    def refresh(self) -> bool:
        return False

    def write(self, data: memoryview) -> int:
        return os.write(self.descriptor, data)

    def take_back(self, size: int) -> bool:  # noqa: ARG002 - what a pipe has can't be undone
        return False

    def close(self) -> None:
        os.close(self.descriptor)


class RotatedFile:
    """The file at `path`, whichever that is. Raises OSError where it can't be had at first."""

    batch = WHOLE

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self.path = path
        self._shared = shared
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

    def write(self, data: memoryview) -> int:
        if not self._shared:
            return os.write(self.descriptor, data)
        with _alone(self.descriptor) as alone:
            return self._write_whole(data) if alone else os.write(self.descriptor, data)

    def _write_whole(self, data: memoryview) -> int:
        """As many whole lines as fit. Raises OSError where that is none."""
        written = 0
        try:
            while written < len(data):
                written += os.write(self.descriptor, data[written:])
        except OSError:
            whole = bytes(data[:written]).rfind(b"\n") + 1
            if self._cut(written - whole):
                written = whole
            if not written:
                raise
        return written

    def take_back(self, size: int) -> bool:
        return not self._shared and self._cut(size)

    def _cut(self, size: int) -> bool:
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


class Journal:
    """The systemd journal, by its native protocol. Raises OSError where it can't be had at first.

    It may be restarted at any time: it is looked for anew after each failure.
    """

    batch = 1

    def __init__(self, path: str = JOURNAL) -> None:
        self._path = path
        self._broken = False
        self._socket = self._connected()

    @property
    def descriptor(self) -> int:
        return self._socket.fileno()

    def refresh(self) -> bool:
        if self._broken:
            fresh = self._connected()
            self._socket.close()
            self._socket, self._broken = fresh, False
            return True
        return False

    def write(self, data: memoryview) -> int:
        try:
            return self._send(data)
        except BlockingIOError:
            raise
        except OSError:
            self._broken = True
            raise

    def take_back(self, size: int) -> bool:  # noqa: ARG002 - an entry is taken whole or not at all
        return False

    def close(self) -> None:
        self._socket.close()

    def _send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except OSError as error:
            if error.errno not in _TOO_LARGE:
                raise
        try:
            memory = sealed("rekeyd log entry", [bytes(data)], executable=True)
        except OSError:  # no memory: what can never be sent must not keep all others from it
            self._socket.send(b"MESSAGE=an entry of %d bytes could not be sent\n" % len(data))
            return len(data)
        try:
            socket.send_fds(self._socket, [b""], [memory])
        finally:
            os.close(memory)
        return len(data)

    def _connected(self) -> socket.socket:
        channel = socket.socket(
            socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        )
        try:
            channel.connect(self._path)
        except OSError:
            channel.close()
            raise
        return channel


@contextlib.contextmanager
def _alone(descriptor: int) -> Iterator[bool]:
    """Nobody else who asks for it writes to the file meanwhile; False where its file system has no locks."""
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
    except OSError:
        yield False
        return
    try:
        yield True
    finally:
        fcntl.lockf(descriptor, fcntl.LOCK_UN)


def leads_to_journal(descriptor: int, environ: Mapping[str, str]) -> bool:
    """Whether a descriptor is the stream that the service manager connected to the journal.

    It says which that is in `$JOURNAL_STREAM` (systemd.exec(5)); whoever redirects the output elsewhere
    passes that on as well, so that the two are compared.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


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
