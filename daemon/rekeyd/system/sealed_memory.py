"""Bytes that nobody can change any more: a memfd with all its seals (memfd_create(2), fcntl(2)).

The rules: it is written once, then sealed against writing, growing, shrinking and further seals, so that
whoever is given the descriptor may read it without fear that it changes meanwhile. It is no file anywhere, is
not passed on to a child by exec, and can't be executed itself where the kernel can forbid that. Whoever is
given one believes it only if it is all of this, and no larger than they allow; it is read without moving the
position that all who hold it share. Must not know: what is in it.
"""

import errno
import fcntl
import os
from collections.abc import Iterable

from rekeyd.errors import RekeydError

_NOEXEC_SEAL = 0x0008  # MFD_NOEXEC_SEAL, Linux 6.3; not in `os` yet
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


class SealError(RekeydError):
    """What was handed over can't be believed. The words hold nothing of what is in it."""


def sealed(name: str, pieces: Iterable[bytes], *, executable: bool = False) -> int:
    """A descriptor of memory that holds `pieces`, one after the other; the caller closes it.

    `name` is for people who look at /proc/PID/fd. `executable` leaves out the seal against execution, for who
    knows the other four alone. Raises OSError where there is no memory left.
    """
    descriptor = _create(name, executable=executable)
    try:
        for piece in pieces:
            _write(descriptor, piece)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def unsealed(descriptor: int, largest: int) -> bytes:
    """All that is in sealed memory of at most `largest` bytes. The descriptor stays open.

    Raises `SealError`.
    """
    try:
        seals = fcntl.fcntl(descriptor, fcntl.F_GET_SEALS)
        size = os.fstat(descriptor).st_size
    except OSError:
        raise SealError("it is no sealed memory") from None
    if seals & _SEALS != _SEALS:
        raise SealError("it is not sealed")
    if size > largest:
        raise SealError(f"it is larger than {largest >> 20} MiB")
    data = os.pread(descriptor, size, 0)
    if len(data) != size:
        raise SealError("it can't be read whole")
    return data


def _create(name: str, *, executable: bool) -> int:
    flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
    if executable:
        return os.memfd_create(name, flags)
    try:
        return os.memfd_create(name, flags | _NOEXEC_SEAL)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        return os.memfd_create(name, flags)  # a kernel before 6.3


def _write(descriptor: int, piece: bytes) -> None:
    view = memoryview(piece)
    while view:
        view = view[os.write(descriptor, view) :]
