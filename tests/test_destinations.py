import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from rekeyd.telemetry.destinations import RotatedFile, Stream, reason_against


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
