"""Gives up, for good, what this process never needs: new privileges, and writing outside a few folders.

The rules:

- No new privileges (PR_SET_NO_NEW_PRIVS(2const)): no program that is started from here gets more rights than
  this process has, set-user-ID or not.
- Writes are confined by Landlock (landlock(7)), reads are not: a rule holds for the inode that was there when
  it was made, and a folder of certificates that is made anew must be seen. So a folder that is written to and
  is replaced while the process runs can't be written to any more.
- Only what is opened, made or removed by a path from then on is judged: not descriptors that are open,
  sockets that are connected to, or memory files.
- It holds for the thread that asks and for all that it starts: ask before there is another one.
- A kernel without Landlock, or a filter of system calls that forbids it, is gone without; so is ctypes, which
  may need memory that is both written and executed, and then does not load.

Must not know: which folders, or why.
"""

import os
import stat
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
# The same on every architecture that rekeyd could run on (syscalls(2)).
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_CREATE_RULESET_VERSION = 1
_RULE_PATH_BENEATH = 1
_ABI_WITH_TRUNCATE = 3

# linux/landlock.h, LANDLOCK_ACCESS_FS_*. To move a file to another folder (REFER) is always denied.
_WRITE_FILE = 1 << 1
_REMOVE_DIR, _REMOVE_FILE = 1 << 4, 1 << 5
_MAKE_CHAR, _MAKE_DIR, _MAKE_REG, _MAKE_SOCK, _MAKE_FIFO, _MAKE_BLOCK, _MAKE_SYM = (
    1 << n for n in range(6, 13)
)
_TRUNCATE = 1 << 14

_ORDER = sys.byteorder

_OF_FILES = _WRITE_FILE | _TRUNCATE
_OF_FOLDERS = _OF_FILES | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _MAKE_SOCK | _MAKE_SYM
_ALL = _OF_FOLDERS | _MAKE_CHAR | _MAKE_FIFO | _MAKE_BLOCK


@dataclass(frozen=True, slots=True)
class _Kernel:
    """Calls by their numbers; each integer goes as a whole register."""

    prctl: Callable[..., int]
    syscall: Callable[..., int]


def forgo_privileges() -> bool:
    """Whether no program that this process starts can have more rights than it."""
    kernel = _kernel()
    return kernel is not None and kernel.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0


def confine_writes(places: Iterable[Path]) -> int | None:
    """Let this thread, and those that it starts, write only to these files and below these folders.

    What can't be reached is left out: it can't be written to later, either. Needs `forgo_privileges`. Returns
    the version of Landlock's interface; None where nothing was confined. Never raises.
    """
    kernel = _kernel()
    if kernel is None:
        return None
    version = kernel.syscall(_CREATE_RULESET, None, 0, _CREATE_RULESET_VERSION)
    if version < 1:
        return None
    handled = _ALL if version >= _ABI_WITH_TRUNCATE else _ALL & ~_TRUNCATE
    ruleset = kernel.syscall(_CREATE_RULESET, handled.to_bytes(8, _ORDER), 8, 0)
    if ruleset < 0:
        return None
    try:
        if not all(_allow(kernel, ruleset, place, handled) for place in places):
            return None
        return version if kernel.syscall(_RESTRICT_SELF, ruleset, 0) == 0 else None
    finally:
        os.close(ruleset)


def _allow(kernel: _Kernel, ruleset: int, place: Path, handled: int) -> bool:
    """False where a place can be reached and no rule could be made for it."""
    try:
        descriptor = os.open(place, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return True
    try:
        folder = stat.S_ISDIR(os.fstat(descriptor).st_mode)
        allowed = (_OF_FOLDERS if folder else _OF_FILES) & handled
        # struct landlock_path_beneath_attr is packed: 64 bits of rights, 32 of the descriptor.
        rule = allowed.to_bytes(8, _ORDER) + descriptor.to_bytes(4, _ORDER)
        return kernel.syscall(_ADD_RULE, ruleset, _RULE_PATH_BENEATH, rule, 0) == 0
    finally:
        os.close(descriptor)


def _kernel() -> _Kernel | None:
    """None where Python can't call the C library."""
    try:
        import ctypes  # noqa: PLC0415 - where it can't be loaded the daemon must start all the same

        libc = ctypes.CDLL(None)
        libc.syscall.restype = ctypes.c_long
    except (ImportError, MemoryError, OSError, AttributeError):
        return None

    def whole(function: Callable[..., int]) -> Callable[..., int]:
        return lambda *values: function(*(ctypes.c_long(v) if isinstance(v, int) else v for v in values))

    return _Kernel(whole(libc.prctl), whole(libc.syscall))
