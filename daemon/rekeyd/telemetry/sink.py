"""Where log lines go: a buffer in memory, and a thread that writes it to a destination.

Owns: that telling never hinders serving. The rules:

1. `write` never blocks: it appends bytes. A daemon thread carries them out in batches, within 100 ms.
2. Memory is bounded. Over `capacity` the dispensable lines are lost first; all others are kept up to
   `KEPT_OVER` times that, and only then lost. What is lost is counted, and told in a line when room is back.
3. A reader that went away (EPIPE) or a full disk costs nothing: what can't be written is counted as lost, and
   writing is tried again `RETRY` seconds later. With `keeps` it is kept until then, within the bound. Whole
   lines are written once; one that was torn is taken back, or else ended before the next begins.
4. `close` waits for the thread only so long. A process that dies at once loses what the last 20 ms said.

Must not know: what a line says.
"""

import atexit
import contextlib
import os
import queue
import select
import threading
import weakref
from bisect import bisect_right
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

from rekeyd.telemetry.destinations import Destination, Journal, Stream

MIB = 1 << 20
KEPT_OVER = 4
GATHER = 0.02
"""Seconds in which lines are gathered, so that one system call carries many."""
RETRY = 1.0
"""Seconds between two attempts to reach a reader that is gone."""

_LINE_OVERHEAD = 128  # the bytes object, its tuple and its slot, beside the text


@dataclass(frozen=True, slots=True)
class Lost:
    """How many lines were lost since it was last told."""

    dispensable: int
    others: int


Teller = Callable[[Lost], bytes]
_Line = tuple[bytes, bool]


def tell_plainly(lost: Lost) -> bytes:
    return b"%d lines were lost\n" % (lost.dispensable + lost.others)


class Sink:
    """A log sink for a destination; a file descriptor is duplicated, and so stays the caller's own.

    `capacity` is in bytes. `tell` renders the line that says what was lost; it runs in the sink's thread, as
    do `on_loss`, which hears of each loss once, and `on_change`, which hears why writing has begun to fail,
    and None when it goes on. Safe to use from any thread, from `__del__`, and in a forked child, which starts
    with an empty buffer.
    """

    def __init__(
        self, destination: int | Destination = 1, *, capacity: int = 8 * MIB, keeps: bool = False
    ) -> None:
        self.capacity = capacity
        self.tell: Teller = tell_plainly
        self.on_loss: Callable[[Lost], None] = _ignore
        self.on_change: Callable[[OSError | None], None] = _ignore
        self.lost = 0
        """Lines that were lost since the start."""
        self._destination = Stream(destination) if isinstance(destination, int) else destination
        self._keeps = keeps
        self._closing = threading.Event()
        self._begin()
        method = weakref.WeakMethod(self._after_fork)
        os.register_at_fork(after_in_child=lambda: _call(method))
        atexit.register(self.close)

    def isatty(self) -> bool:
        return os.isatty(self._destination.descriptor)

    @property
    def is_journal(self) -> bool:
        """Whether what is written are entries of the journal, not lines."""
        return isinstance(self._destination, Journal)

    @property
    def buffered(self) -> int:
        """Bytes held in memory, the cost of keeping them included."""
        return self._size

    def write(self, line: bytes, *, dispensable: bool = False) -> None:
        """Hand over one line, its newline included. Never blocks, never raises."""
        cost = len(line) + _LINE_OVERHEAD
        with self._lock:
            if self._closing.is_set():
                return
            if self._size + cost > (self.capacity if dispensable else self.capacity * KEPT_OVER):
                self._count_loss(int(not dispensable), int(dispensable))
                return
            idle = not self._lines
            self._lines.append((line, dispensable))
            self._size += cost
        if idle:
            self._rouse()

    def close(self, timeout: float = 2.0) -> None:
        """Write what is buffered, for at most `timeout` seconds; later lines are swallowed."""
        atexit.unregister(self.close)
        if self._closing.is_set():
            return
        self._closing.set()
        self._rouse()
        if self._thread is not None and self._thread.is_alive():
            self._thread.join(timeout)
        self._abandoned = True

    def _begin(self) -> None:
        # Re-entrant, because the garbage collector may run a __del__ that logs while the lock is held.
        self._lock = threading.RLock()
        self._lines: deque[_Line] = deque()
        self._size = 0
        self._lost = [0, 0]  # others, dispensable: indexed by `dispensable`
        self._unheard = [0, 0]  # the same, of what `on_loss` has not heard of
        self._wake: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._abandoned = False  # close() no longer waits
        self._broken = False  # the last attempt to write failed
        self._torn = False  # what was last written did not end a line

    def _after_fork(self) -> None:
        # The thread, and what is buffered, are the parent's.
        closed, self._closing = self._closing.is_set(), threading.Event()
        self._begin()
        if closed:
            self._closing.set()

    def _rouse(self) -> None:
        self._wake.put(None)
        with self._lock:
            if self._thread is not None:
                return
            self._thread = threading.Thread(target=self._run, name="log sink", daemon=True)
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: no new threads
            self._thread.start()

    def _run(self) -> None:
        """The thread. Idle, it waits without waking; broken, it wakes once in `RETRY` seconds."""
        while not self._closing.is_set():
            self._wake.get()
            self._closing.wait(RETRY if self._broken else GATHER)
            self._carry_out()
        self._carry_out(last=True)
        self._destination.close()

    def _carry_out(self, *, last: bool = False) -> None:
        keeps = self._keeps and not last
        fresh: deque[_Line] = deque()
        with self._lock:
            lines, self._lines = self._lines, fresh
        # Where nothing is kept, the line that tells of what was lost is the next attempt to write.
        failing = self._broken and not self._keeps
        while lines:
            batch = _take(lines, self._destination.batch)
            written = 0 if failing else self._write([line for line, _ in batch])
            failing = written < len(batch)
            if failing and keeps:
                self._put_back([*batch[written:], *lines])
                lines.clear()
            else:
                self._lose(batch[written:])
            self._release(batch[:written] if failing and keeps else batch)
        self._report_losses()
        if not (failing and keeps):
            self._tell_what_was_lost()

    def _put_back(self, lines: list[_Line]) -> None:
        with self._lock:
            self._lines.extendleft(reversed(lines))
        self._wake.put(None)  # nobody else may come to rouse us

    def _release(self, batch: list[_Line]) -> None:
        with self._lock:
            self._size -= sum([len(line) for line, _ in batch]) + _LINE_OVERHEAD * len(batch)

    def _lose(self, batch: list[_Line]) -> None:
        dispensable = sum(can_go for _, can_go in batch)
        with self._lock:
            self._count_loss(len(batch) - dispensable, dispensable)

    def _count_loss(self, others: int, dispensable: int) -> None:
        self.lost += others + dispensable
        for counts in (self._lost, self._unheard):
            counts[False] += others
            counts[True] += dispensable

    def _report_losses(self) -> None:
        with self._lock:
            (others, dispensable), self._unheard = self._unheard, [0, 0]
        if others or dispensable:
            self.on_loss(Lost(dispensable, others))

    def _tell_what_was_lost(self) -> None:
        with self._lock:
            (others, dispensable), self._lost = self._lost, [0, 0]
        if not (others or dispensable):
            return
        if not self._write([self.tell(Lost(dispensable, others))]):
            with self._lock:
                self._lost[False] += others
                self._lost[True] += dispensable

    def _write(self, lines: list[bytes]) -> int:
        """How many of the lines were written whole. A reader that is only slow is waited for."""
        rest = memoryview(b"".join(lines))
        try:
            if self._destination.refresh():
                self._torn = False
            gap = memoryview(b"\n" if self._torn else b"")
            while gap:
                gap = self._write_some(gap)
            while rest:
                rest = self._write_some(rest)
        except OSError as error:
            whole = self._whole(lines, len(rest))
            self._note(error)
            return whole
        self._note(None)
        return len(lines)

    def _whole(self, lines: list[bytes], left: int) -> int:
        """How many lines were written whole where so many bytes are left; the half of one is taken back."""
        ends = list(accumulate(map(len, lines)))
        written = ends[-1] - left
        whole = bisect_right(ends, written)
        half = written - (ends[whole - 1] if whole else 0)
        if half and self._destination.take_back(half):
            self._torn = False
        return whole

    def _write_some(self, rest: memoryview) -> memoryview:
        """What is left to be written."""
        try:
            written = self._destination.write(rest)
        except BlockingIOError:
            if not self._wait_for_room():
                raise
            return rest
        self._torn = rest[written - 1] != ord("\n")
        return rest[written:]

    def _note(self, error: OSError | None) -> None:
        if isinstance(error, BlockingIOError):
            return  # given up at the end
        was, self._broken = self._broken, error is not None
        if self._broken != was:
            self.on_change(error)

    def _wait_for_room(self) -> bool:
        """For a descriptor that doesn't block: another process may have set a shared pipe or terminal so."""
        poll = select.poll()
        poll.register(self._destination.descriptor, select.POLLOUT)
        while not self._abandoned:
            if poll.poll(100):
                return True
        return False


def _ignore(_heard: object) -> None:
    pass


def _take(lines: deque[_Line], most: int) -> list[_Line]:
    """One line, and as many more as go along."""
    batch: list[_Line] = []
    size = 0
    while lines and (not batch or size + len(lines[0][0]) <= most):
        line = lines.popleft()
        batch.append(line)
        size += len(line[0])
    return batch


def _call(method: "weakref.WeakMethod[Callable[[], None]]") -> None:
    if (bound := method()) is not None:
        bound()
