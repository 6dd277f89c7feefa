import os
import stat
from pathlib import Path

import pytest

from rekeyd.system.replacing import replace_file


def test_the_whole_file_is_replaced_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for data in (b"old" * 1000, b"new"):
        replace_file(path, data)
        assert path.read_bytes() == data
    assert list(tmp_path.iterdir()) == [path]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_its_mode_is_what_is_asked_for_whatever_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        replace_file(tmp_path / "file", b"", mode=0o644)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o644


def test_whoever_has_it_open_goes_on_reading_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "file"
    replace_file(path, b"old")
    with path.open("rb") as stream:
        replace_file(path, b"new")
        assert stream.read() == b"old"


def test_where_it_can_not_be_replaced_the_old_one_stays_and_nothing_is_left(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(IsADirectoryError):
        replace_file(tmp_path / "file", b"new")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "absent" / "file", b"new")
