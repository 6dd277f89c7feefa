import asyncio
import fcntl
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekeyd.telemetry.destinations import RotatedFile
from rekeyd.telemetry.sink import KEPT_OVER, Lost, Sink
from support.live import measured
from support.waiting import eventually

ALLOWED = b'{"event":"auth.allowed"}' + b"." * 75 + b"\n"
OTHER = b'{"event":"auth.denied"}' + b"." * 76 + b"\n"


class Pipe:
    """A pipe of a size that is known, with a sink at its writing end."""

    def __init__(self, *, capacity: int = 64 * 1024) -> None:
        self.reading, self.writing = os.pipe()
        fcntl.fcntl(self.writing, fcntl.F_SETPIPE_SZ, 4096)
        self.sink = Sink(self.writing, capacity=capacity)
        self.sink.tell = told
        os.close(self.writing)  # the sink has its own

    def stop_reading(self) -> None:
        if self.reading >= 0:
            os.close(self.reading)
        self.reading = -1

    def read_to_the_end(self) -> bytes:
        with os.fdopen(self.reading, "rb") as stream:
            self.reading = -1
            return stream.read()


def told(lost: Lost) -> bytes:
    return b"lost %d dispensable and %d others\n" % (lost.dispensable, lost.others)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    pipe = Pipe()
    yield pipe
    pipe.stop_reading()
    pipe.sink.close()


async def test_lines_come_out_whole_in_order_and_within_a_tenth_of_a_second(pipe: Pipe) -> None:
    loop = asyncio.get_running_loop()
    before = loop.time()
    pipe.sink.write(b"one\n")
    pipe.sink.write(b"two\n", dispensable=True)
    first = await asyncio.to_thread(os.read, pipe.reading, 100)
    assert first == b"one\ntwo\n"
    assert loop.time() - before < 0.1


def test_closing_writes_what_is_buffered_and_swallows_what_comes_later(pipe: Pipe) -> None:
    for number in range(100):
        pipe.sink.write(b"%d\n" % number)
    reader = threading.Thread(target=lambda: lines.append(pipe.read_to_the_end()))
    lines: list[bytes] = []
    reader.start()
    pipe.sink.close()
    pipe.sink.write(b"too late\n")
    reader.join(5)
    assert lines[0].split() == [b"%d" % number for number in range(100)]


def test_a_reader_that_never_reads_stops_nobody_and_memory_stays_bounded(pipe: Pipe) -> None:
    slowest = 0.0
    for _ in range(20_000):
        before = time.perf_counter()
        pipe.sink.write(OTHER)
        slowest = max(slowest, time.perf_counter() - before)
    assert pipe.sink.buffered <= KEPT_OVER * pipe.sink.capacity
    assert slowest < 0.25  # a blocked write would last for ever


def test_a_stuck_reader_is_waited_for_only_so_long_at_the_end(pipe: Pipe) -> None:
    for _ in range(1000):
        pipe.sink.write(OTHER)
    before = time.monotonic()
    pipe.sink.close(0.3)
    assert 0.2 < time.monotonic() - before < 1.5


def test_dispensable_lines_go_first_and_what_was_lost_is_told_in_one_line(pipe: Pipe) -> None:
    sent = {ALLOWED: 0, OTHER: 0}
    for _ in range(500):
        for line in (ALLOWED, OTHER):
            pipe.sink.write(line, dispensable=line is ALLOWED)
            sent[line] += 1
    reader = threading.Thread(target=lambda: lines.append(pipe.read_to_the_end()))
    lines: list[bytes] = []
    reader.start()
    pipe.sink.close(5)
    reader.join(5)
    text = lines[0]
    assert text.count(OTHER) == sent[OTHER]  # within four times the bound nothing else is lost
    tellings = re.findall(rb"lost (\d+) dispensable and (\d+) others", text)
    assert len(tellings) == 1
    assert int(tellings[0][0]) == sent[ALLOWED] - text.count(ALLOWED) > 0
    assert int(tellings[0][1]) == 0


def test_beyond_four_times_the_bound_other_lines_are_lost_too_and_counted(pipe: Pipe) -> None:
    for _ in range(5000):
        pipe.sink.write(OTHER)
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(pipe.read_to_the_end()))
    reader.start()
    pipe.sink.close(5)
    reader.join(5)
    lost = sum(int(count) for count in re.findall(rb"and (\d+) others", lines[0]))
    assert lost == 5000 - lines[0].count(OTHER) > 0


async def test_a_closed_pipe_is_survived_without_keeping_or_burning_anything(pipe: Pipe) -> None:
    pipe.stop_reading()
    for _ in range(1000):
        pipe.sink.write(OTHER)
    await eventually(lambda: pipe.sink.buffered == 0, what="the buffer is given up")
    before = time.process_time()
    pipe.sink.write(OTHER)
    await asyncio.sleep(0.5)  # time itself is what is measured
    assert time.process_time() - before < 0.1


async def test_a_reader_that_comes_back_hears_what_it_missed(tmp_path: Path) -> None:
    fifo = tmp_path / "log"
    os.mkfifo(fifo)
    reading = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    writing = os.open(fifo, os.O_WRONLY)
    sink = Sink(writing)
    sink.tell = told
    os.close(writing)
    os.close(reading)
    sink.write(OTHER)
    await eventually(lambda: sink.buffered == 0)
    with fifo.open("rb") as stream:
        sink.write(OTHER)  # rouses the thread, which finds the reader back
        assert await asyncio.to_thread(stream.readline) == b"lost 0 dispensable and 2 others\n"
        sink.write(b"and on\n")
        assert await asyncio.to_thread(stream.readline) == b"and on\n"
        sink.close()


async def test_a_pipe_that_does_not_block_loses_nothing(pipe: Pipe) -> None:
    os.set_blocking(pipe.reading, True)
    os.set_blocking(pipe.sink._destination.descriptor, False)
    for number in range(600):
        pipe.sink.write(b"%0100d\n" % number)
    await asyncio.sleep(0.1)  # the pipe is full now, and EAGAIN has been met
    lines: list[bytes] = []
    reader = threading.Thread(target=lambda: lines.append(pipe.read_to_the_end()))
    reader.start()
    await asyncio.to_thread(pipe.sink.close, 5)
    reader.join(5)
    assert [int(line) for line in lines[0].split()] == list(range(600))


def test_a_torn_line_is_ended_before_the_next_one_begins(tmp_path: Path) -> None:
    script = """
import os, resource, signal, sys
from rekeyd.telemetry.sink import Sink
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
sink = Sink(1)
sink.write(b"0123456789\\n0123456789\\n0123456789\\n")
while sink.buffered: os.sched_yield()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
sink.write(b"lost too\\n")
sink.close()
"""
    target = tmp_path / "log"
    with target.open("wb") as stream:
        subprocess.run([sys.executable, "-c", script], stdout=stream, check=True, timeout=20)
    assert target.read_text().splitlines()[:3] == ["0123456789", "0123456789", "012"]
    assert target.read_text().splitlines()[3:] == ["2 lines were lost"]


def test_a_forked_child_writes_its_own_lines_and_not_its_parents_again() -> None:
    script = """
import os
from rekeyd.telemetry.sink import Sink
sink = Sink(1)
sink.write(b"parent\\n")
if os.fork() == 0:
    sink.write(b"child\\n")
    sink.close()
    os._exit(0)
os.wait()
"""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, check=True, timeout=20
    )
    assert sorted(done.stdout.split()) == [b"child", b"parent"]
    assert done.stderr == b""


def test_lines_are_written_when_a_program_ends_without_closing() -> None:
    script = "from rekeyd.telemetry.sink import Sink; Sink(1).write(b'the last words\\n')"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=20)
    assert done.stdout == b"the last words\n"


def test_a_program_whose_reader_is_stuck_still_ends() -> None:
    script = """
from rekeyd.telemetry.sink import Sink
sink = Sink(1)
for _ in range(5000): sink.write(b"x" * 100 + b"\\n")
sink.close(0.2)
"""
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.wait(20) == 0


def test_a_closed_stdout_never_becomes_somebody_elses_descriptor() -> None:
    script = """
import os, socket
from rekeyd.telemetry.sink import Sink
sink = Sink(1)
os.close(1)
ours, theirs = socket.socketpair()
assert 1 in (ours.fileno(), theirs.fileno())
sink.write(b"a log line\\n"); sink.close()
ours.setblocking(False); theirs.setblocking(False)
for end in (ours, theirs):
    try: raise SystemExit(end.recv(100))
    except BlockingIOError: pass
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=False, timeout=20)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"a log line\n", b"")


def test_a_signal_handler_that_logs_while_a_line_is_written_does_not_lock_up(pipe: Pipe) -> None:
    previous = signal.signal(signal.SIGALRM, lambda *_: pipe.sink.write(b"from the handler\n"))
    signal.setitimer(signal.ITIMER_REAL, 0.001, 0.001)
    try:
        for _ in range(50_000):
            pipe.sink.write(ALLOWED, dispensable=True)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, previous)
    assert pipe.sink.buffered <= KEPT_OVER * pipe.sink.capacity


# A sink that keeps what it can't write


class Kept:
    """A sink that keeps, and what it has told; its file is out of reach until `come_back`."""

    def __init__(self, folder: Path, *, capacity: int = 64 * 1024) -> None:
        self._folder, self._away = folder / "log", folder / "away"
        self._folder.mkdir()
        self.path = self._folder / "audit.log"
        self.sink = Sink(RotatedFile(self.path), capacity=capacity, keeps=True)
        self.sink.tell = told
        self.changes: list[OSError | None] = []
        self.losses: list[Lost] = []
        self.sink.on_change = self.changes.append
        self.sink.on_loss = self.losses.append

    async def go_away(self) -> None:
        self._folder.rename(self._away)
        self.sink.write(b"the first that finds nobody\n")
        await eventually(lambda: len(self.changes) == 1)

    def come_back(self) -> None:
        self._away.rename(self._folder)


@pytest.fixture
def kept(tmp_path: Path) -> Iterator[Kept]:
    kept = Kept(tmp_path)
    yield kept
    kept.sink.close()


async def test_what_can_not_be_written_is_kept_in_order_and_written_without_being_asked(kept: Kept) -> None:
    await kept.go_away()
    assert isinstance(kept.changes[0], FileNotFoundError)
    for number in range(500):
        kept.sink.write(b"%d\n" % number)
    kept.come_back()
    await eventually(lambda: kept.sink.buffered == 0, what="nobody writes any more, and all is written")
    first, *rest = kept.path.read_bytes().splitlines()
    assert first == b"the first that finds nobody"
    assert rest == [b"%d" % number for number in range(500)]
    assert [type(change) for change in kept.changes] == [FileNotFoundError, type(None)]
    assert (kept.losses, kept.sink.lost) == ([], 0)


async def test_beyond_the_bound_the_latest_are_lost_and_told_once_each(kept: Kept) -> None:
    await kept.go_away()
    for _ in range(5000):
        kept.sink.write(OTHER)
    assert kept.sink.buffered <= KEPT_OVER * kept.sink.capacity
    await eventually(lambda: kept.losses != [])
    kept.come_back()
    await eventually(lambda: kept.sink.buffered == 0)
    kept.sink.close()
    text = kept.path.read_bytes()
    lost = 5000 - text.count(OTHER)
    assert lost == kept.sink.lost == sum(each.others for each in kept.losses) > 0
    assert [int(count) for count in re.findall(rb"and (\d+) others", text)] == [lost]


async def test_what_is_still_kept_at_the_end_is_lost_and_counted(kept: Kept) -> None:
    await kept.go_away()
    kept.sink.write(OTHER)
    kept.sink.close()
    assert (kept.losses, kept.sink.lost) == ([Lost(0, 2)], 2)


async def test_a_program_that_keeps_lines_it_can_not_write_burns_nothing(kept: Kept) -> None:
    await kept.go_away()
    before = time.process_time()
    await asyncio.sleep(0.5)  # time itself is what is measured
    assert time.process_time() - before < 0.1


def test_a_write_that_half_succeeds_leaves_whole_lines_and_none_twice(tmp_path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from rekeyd.telemetry.destinations import RotatedFile
from rekeyd.telemetry.sink import Sink
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
sink = Sink(RotatedFile(Path(sys.argv[1])), keeps=True)
halves = []
def change(error):
    halves.append(Path(sys.argv[1]).read_bytes())
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
sink.on_change = change
for number in range(10):
    sink.write(b"line %d of ten\\n" % number)
while sink.buffered: pass
sink.close()
assert halves[0] == b"line 0 of ten\\n", halves
"""
    target = tmp_path / "log"
    subprocess.run([sys.executable, "-c", script, str(target)], check=True, timeout=20)
    assert target.read_text().splitlines() == [f"line {number} of ten" for number in range(10)]


def test_how_many_lines_a_second_an_audit_takes_is_told(tmp_path: Path) -> None:
    sink = Sink(RotatedFile(tmp_path / "audit.log"), capacity=64 << 20, keeps=True)
    line = b"x" * 399 + b"\n"
    began = time.perf_counter()
    for _ in range(100_000):
        sink.write(line)
    sink.close(30)
    measured("lines of 400 bytes a second", round(100_000 / (time.perf_counter() - began)))
    assert (tmp_path / "audit.log").stat().st_size == 100_000 * len(line)
