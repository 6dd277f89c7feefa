import os
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rekeyd.system.sealed_memory import unsealed
from rekeyd.telemetry.destinations import Journal, RotatedFile, Stream, leads_to_journal, reason_against
from rekeyd.telemetry.sink import Sink
from support.daemon import SOURCE_ROOT


def put(file: RotatedFile, text: bytes) -> bool:
    anew = file.refresh()
    assert os.write(file.descriptor, text) == len(text)
    return anew


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "audit.log"


def test_a_stream_is_a_descriptor_of_its_own(tmp_path: Path) -> None:
    original = os.open(tmp_path / "log", os.O_WRONLY | os.O_CREAT)
    stream = Stream(original)
    os.close(original)
    assert stream.refresh() is False
    assert os.write(stream.descriptor, b"x") == 1
    assert stream.take_back(1) is False
    stream.close()


def test_a_stream_that_is_closed_already_swallows_everything() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    os.close(writing)
    stream = Stream(writing)
    assert os.write(stream.descriptor, b"x") == 1
    stream.close()


def test_a_file_is_made_with_its_mode_whatever_the_umask_and_one_that_is_there_keeps_its_own(
    path: Path,
) -> None:
    previous = os.umask(0o077)
    try:
        RotatedFile(path).close()
    finally:
        os.umask(previous)
    assert mode_of(path) == 0o640
    path.chmod(0o600)
    RotatedFile(path).close()
    assert mode_of(path) == 0o600


def renamed(path: Path) -> None:
    path.rename(path.with_suffix(".1"))


def renamed_and_made(path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    path.touch(0o600)


def removed(path: Path) -> None:
    path.rename(path.with_suffix(".1"))
    os.link(path.with_suffix(".1"), path)
    path.unlink()


def replaced(path: Path) -> None:
    os.link(path, path.with_suffix(".1"))
    path.with_suffix(".new").touch(0o600)
    path.with_suffix(".new").rename(path)


@pytest.mark.parametrize("rotate", [renamed, renamed_and_made, removed, replaced])
def test_what_is_rotated_away_is_left_and_the_path_opened_anew(
    path: Path, rotate: Callable[[Path], None]
) -> None:
    file = RotatedFile(path)
    assert put(file, b"one\n") is False
    rotate(path)
    assert put(file, b"two\n") is True
    assert put(file, b"three\n") is False
    assert path.with_suffix(".1").read_bytes() == b"one\n"
    assert path.read_bytes() == b"two\nthree\n"
    file.close()


def test_what_was_emptied_in_place_is_written_from_its_beginning(path: Path) -> None:
    file = RotatedFile(path)
    put(file, b"one\n")
    os.truncate(path, 0)
    assert put(file, b"two\n") is False
    assert path.read_bytes() == b"two\n"
    file.close()


def test_a_folder_that_is_removed_is_an_error_until_it_is_back(tmp_path: Path) -> None:
    folder = tmp_path / "log"
    folder.mkdir()
    file = RotatedFile(folder / "audit.log")
    folder.rename(tmp_path / "gone")
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            file.refresh()
    folder.mkdir()
    assert put(file, b"on\n") is True
    assert (folder / "audit.log").read_bytes() == b"on\n"
    file.close()


def link(path: Path) -> None:
    path.with_suffix(".target").touch()
    path.symlink_to(path.with_suffix(".target"))


def dangling_link(path: Path) -> None:
    path.symlink_to(path.with_suffix(".target"))


def fifo(path: Path) -> None:
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.mkdir()


def device(path: Path) -> None:
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
        path.read_bytes()
    except OSError:
        pytest.skip("device files can't be made or used here")


@pytest.mark.parametrize("obstacle", [link, dangling_link, fifo, folder, device])
def test_what_is_no_regular_file_is_refused_at_first_and_later(
    path: Path, obstacle: Callable[[Path], None]
) -> None:
    file = RotatedFile(path)
    path.unlink()
    obstacle(path)
    with pytest.raises(OSError):  # noqa: PT011 - which one is the kernel's
        file.refresh()
    with pytest.raises(OSError):  # noqa: PT011
        RotatedFile(path)
    assert reason_against(path) is not None
    assert not path.with_suffix(".target").exists() or not path.with_suffix(".target").read_bytes()
    file.close()


def test_a_fifo_that_somebody_reads_is_refused_too(path: Path) -> None:
    os.mkfifo(path)
    reading = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(OSError, match="not a regular file"):
        RotatedFile(path)
    os.close(reading)


def test_half_a_line_is_taken_back(path: Path) -> None:
    file = RotatedFile(path)
    put(file, b"one\ntw")
    assert file.take_back(2)
    put(file, b"three\n")
    assert path.read_bytes() == b"one\nthree\n"
    os.truncate(path, 0)
    assert file.take_back(2) is False
    file.close()


def test_asking_whether_it_would_do_makes_no_file(path: Path) -> None:
    assert reason_against(path) is None
    assert not path.exists()
    path.touch()
    assert reason_against(path) is None
    assert isinstance(reason_against(path / "below"), NotADirectoryError)
    assert isinstance(reason_against(path.parent / "absent" / "audit.log"), FileNotFoundError)


# The journal


class Journald:
    """The journal's end of its socket."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.open()

    def open(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(self.path))
        self.socket.settimeout(10)

    def restart(self) -> None:
        self.socket.close()
        self.path.unlink()
        self.open()

    def entry(self) -> bytes:
        data, descriptors, _, _ = socket.recv_fds(self.socket, 1 << 20, 1)
        for descriptor in descriptors:
            assert data == b""
            data = unsealed(descriptor, 1 << 30)
            os.close(descriptor)
        return data


@pytest.fixture
def journald(tmp_path: Path) -> Iterator[Journald]:
    journald = Journald(tmp_path / "socket")
    yield journald
    journald.socket.close()


def test_each_entry_is_a_datagram_however_large(journald: Journald) -> None:
    sink = Sink(Journal(str(journald.path)))
    assert sink.is_journal
    entries = [b"MESSAGE=one\n", b"MESSAGE=" + b"x" * 1_000_000 + b"\n", b"MESSAGE=three\n"]
    for entry in entries:
        sink.write(entry)
    assert [journald.entry() for _ in entries] == entries
    sink.close()


def test_a_journal_that_was_restarted_is_found_again(journald: Journald) -> None:
    journal = Journal(str(journald.path))
    journald.restart()
    with pytest.raises(OSError, match="Connection refused"):
        journal.write(memoryview(b"MESSAGE=lost\n"))
    assert journal.refresh() is True
    assert journal.refresh() is False
    journal.write(memoryview(b"MESSAGE=found\n"))
    assert journald.entry() == b"MESSAGE=found\n"
    journal.close()


def test_what_is_told_while_the_journal_is_gone_is_told_when_it_is_back(journald: Journald) -> None:
    sink = Sink(Journal(str(journald.path)), keeps=True)
    journald.socket.close()
    journald.path.unlink()
    told = [b"MESSAGE=%d\n" % number for number in range(3)]
    for entry in told:
        sink.write(entry)
    journald.open()
    assert [journald.entry() for _ in told] == told
    sink.close()
    assert sink.lost == 0


def test_a_journal_that_does_not_read_holds_up_nobody(journald: Journald) -> None:
    sink = Sink(Journal(str(journald.path)), capacity=4096)
    for number in range(2000):
        sink.write(b"MESSAGE=%d\n" % number, dispensable=True)
    assert sink.buffered <= 4096
    first = journald.entry()
    assert first == b"MESSAGE=0\n"
    sink.close(0.1)


def test_without_a_journal_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Journal(str(tmp_path / "nobody"))


def test_the_stream_to_the_journal_is_known_by_what_the_service_manager_said(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as stream:
        status = os.fstat(stream.fileno())
        told = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert leads_to_journal(stream.fileno(), told)
        assert not leads_to_journal(stream.fileno(), {})
        with (tmp_path / "other").open("wb") as other:
            assert not leads_to_journal(other.fileno(), told), "it was redirected"
    assert not leads_to_journal(-1, told)


# Shared by several processes

WRITER = """
import sys
from rekeyd.telemetry.destinations import Stream
from rekeyd.telemetry.sink import Sink
sink = Sink(Stream(1, shared=True))
for number in range(5000):
    sink.write(sys.argv[1].encode() * (number % 90 + 1) + b"\\n")
sink.close(60)
"""


def written_together(stdout: int) -> list[subprocess.Popen[bytes]]:
    environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    return [
        subprocess.Popen([sys.executable, "-c", WRITER, letter], stdout=stdout, env=environ)
        for letter in "ab"
    ]


def assert_none_is_torn(data: bytes) -> None:
    lines = data.splitlines()
    assert len(lines) == 10_000
    assert all(line == line[:1] * len(line) and 1 <= len(line) <= 90 for line in lines)


def test_two_who_write_to_one_pipe_tear_no_line() -> None:
    reading, writing = os.pipe()
    writers = written_together(writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        assert_none_is_torn(pipe.read())
    assert [writer.wait(30) for writer in writers] == [0, 0]


def test_two_who_write_to_one_file_overwrite_nothing(tmp_path: Path) -> None:
    path = tmp_path / "log"
    with path.open("wb") as file:
        writers = written_together(file.fileno())
    assert [writer.wait(60) for writer in writers] == [0, 0]
    assert_none_is_torn(path.read_bytes())


def test_where_others_write_too_what_does_not_fit_leaves_no_half_behind(path: Path) -> None:
    script = """
import resource, sys
from pathlib import Path
from rekeyd.telemetry.destinations import RotatedFile
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
file = RotatedFile(Path(sys.argv[1]), shared=True)
resource.setrlimit(resource.RLIMIT_FSIZE, (20, hard))
print(file.write(memoryview(b"first of all\\nthe second\\n")))
try:
    file.write(memoryview(b"the second\\n"))
except OSError as error:
    print(error.strerror)
"""
    environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    told = subprocess.run(
        [sys.executable, "-c", script, str(path)], env=environ, check=True, timeout=20, capture_output=True
    )
    assert told.stdout.splitlines() == [b"13", b"File too large"]
    file = RotatedFile(path, shared=True)
    file.write(memoryview(b"another's\n"))
    assert path.read_bytes() == b"first of all\nanother's\n"
    file.close()


def test_where_others_write_too_one_waits_for_the_other(path: Path) -> None:
    script = """
import fcntl, sys
with open(sys.argv[1], "ab", buffering=0) as file:
    fcntl.lockf(file, fcntl.LOCK_EX)
    print("here", flush=True)
    file.write(b"and half")
    sys.stdin.read(1)
    file.write(b" a line\\n")
"""
    command = [sys.executable, "-c", script, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == b"here\n"
        file = RotatedFile(path, shared=True)
        ours = threading.Thread(target=file.write, args=(memoryview(b"ours\n"),))
        ours.start()
        ours.join(0.3)
        assert ours.is_alive()
        other.stdin.write(b".")
        other.stdin.close()
        ours.join(20)
    assert path.read_bytes() == b"and half a line\nours\n"
    file.close()


def test_where_others_write_too_nothing_is_taken_back_later(path: Path) -> None:
    file = RotatedFile(path, shared=True)
    file.write(memoryview(b"half"))
    with path.open("ab") as other:
        other.write(b"another's\n")
    assert file.take_back(4) is False
    assert path.read_bytes() == b"halfanother's\n"
    file.close()
