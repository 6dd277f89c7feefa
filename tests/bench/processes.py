"""What the kernel counted for a process and all below it.

The CPU clock of a process (clock_getcpuclockid(3)) counts nanoseconds and includes threads that have ended;
what its children that have ended took is in its `cutime` and `cstime`, in ticks (proc(5)).
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> Iterator[int]:
    """A process, its children, theirs, and so on."""
    yield pid
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            children = task.read_text().split()
        except (FileNotFoundError, ProcessLookupError):  # a thread that has just ended
            continue
        for child in children:
            yield from family(int(child))


def cpu_of(pid: int) -> float:
    """Seconds of CPU, user and system, that a process and all below it have spent so far."""
    return sum(map(_alone, family(pid)))


def _alone(pid: int) -> float:
    """Of one process and of its children that have ended; 0 if it has just ended: its parent has it."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        own = time.clock_gettime(~pid << 3 | 2)
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    except OSError:  # a zombie has no clock any more
        own = (int(fields[11]) + int(fields[12])) / _TICKS
    return own + (int(fields[13]) + int(fields[14])) / _TICKS


def memory_of(pid: int) -> int:
    """Bytes of memory: proportional set size, in which what several share is divided among them."""
    return sum(map(_pss, family(pid)))


def _pss(pid: int) -> int:
    text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    line = next(line for line in text.splitlines() if line.startswith("Pss:"))
    return int(line.split()[1]) * 1024
