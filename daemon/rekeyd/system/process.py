"""What this process asks of the kernel before it holds a secret or opens a socket.

The rules:

- No core dump: it would hold the private keys. `RLIMIT_CORE` of 0 is enough, also for systemd-coredump,
  which obeys it. Not `PR_SET_DUMPABLE`: it would also hide `/proc/PID` from the service's own user, and with
  it every count of descriptors and memory; under systemd that user has no other process that could look.
- No new privileges (`landlock.py`).
- Files are made for their owner alone (umask 077); the admin socket is opened to its group by name.
- As many descriptors as the hard limit allows: each connection takes two.
- A thread that works through a hundred thousand keys lets the event loop go on after a millisecond, not five:
  a request takes several turns, and each waits for its own (sys.setswitchinterval).
- What is there once the daemon serves is there until it ends, so the garbage collector need not look at it
  (`keep_for_good`): each of its full passes would hold up every request, with many keys for a tenth of a
  second.
- Descriptors 0 to 2 are taken. Were one of them free, the first client's socket would get it, and with it
  whatever somebody prints.

Must not know: what rekeyd does.
"""

import contextlib
import gc
import os
import resource
import sys
from collections.abc import Callable

from rekeyd.system import landlock

_TURN = 0.001  # seconds


def settle() -> None:
    """Do all of the above. Never raises: a limit that can't be had is gone without."""
    occupy_standard_descriptors()
    landlock.forgo_privileges()
    os.umask(0o077)
    sys.setswitchinterval(_TURN)
    _limit(resource.RLIMIT_CORE, lambda _: 0)
    _limit(resource.RLIMIT_NOFILE, lambda most: most)


def keep_for_good() -> None:
    """Let the garbage collector leave alone what there is now."""
    gc.collect()
    gc.freeze()


def occupy_standard_descriptors() -> None:
    """Open `/dev/null` in the place of any of stdin, stdout and stderr that is closed."""
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)
            if null != descriptor:
                os.dup2(null, descriptor)
                os.close(null)
            os.set_inheritable(descriptor, True)


def _limit(which: int, soft: Callable[[int], int]) -> None:
    """Set the soft limit, given the hard one, which stays."""
    with contextlib.suppress(OSError, ValueError):
        _, hard = resource.getrlimit(which)
        resource.setrlimit(which, (soft(hard), hard))
