"""Files that are replaced whole, with real file systems, users and processes."""

import errno
import multiprocessing
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from rekeyd.system.replacing import ReplaceError, locked, real, replace_file

NOBODY = 65534
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to other users")


def only(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_new_file_is_made_for_owner_and_group_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        replace_file(tmp_path / "keys.yaml", b"new")
    finally:
        os.umask(before)
    assert (tmp_path / "keys.yaml").read_bytes() == b"new"
    assert (tmp_path / "keys.yaml").stat().st_mode & 0o777 == 0o640
    assert only(tmp_path) == ["keys.yaml"]


def test_the_old_file_is_another_one_and_its_mode_is_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(b"old")
    file.chmod(0o604)
    with file.open("rb") as reader:
        replace_file(file, b"new" * 100_000)
        assert reader.read() == b"old"
    assert file.read_bytes() == b"new" * 100_000
    assert file.stat().st_mode & 0o777 == 0o604


@as_root
def test_owner_and_group_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(b"old")
    os.chown(file, NOBODY, 12345)
    replace_file(file, b"new")
    assert (file.stat().st_uid, file.stat().st_gid) == (NOBODY, 12345)


@as_root
def test_where_the_owner_can_not_be_kept_nothing_is_replaced(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for path in (*tmp_path.parents, tmp_path):
        if path.stat().st_uid == 0 and str(path).startswith("/tmp/"):  # noqa: S108 - pytest's own
            path.chmod(path.stat().st_mode | 0o011)
    os.chown(folder, NOBODY, NOBODY)
    file = folder / "keys.yaml"
    file.write_bytes(b"old")
    file.chmod(0o644)
    os.seteuid(NOBODY)
    try:
        with pytest.raises(
            ReplaceError, match=r"belongs to uid 0, gid 0, which uid 65534 can't give to the file"
        ):
            replace_file(file, b"new")
    finally:
        os.seteuid(0)
    assert file.read_bytes() == b"old"
    assert only(folder) == ["keys.yaml"]


def test_extended_attributes_and_access_lists_are_kept(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(b"old")
    file.chmod(0o640)
    try:
        os.setxattr(file, "user.made-up", b"x")
    except OSError as error:
        pytest.skip(f"no extended attributes here: {os.strerror(error.errno or 0)}")
    listed = (
        subprocess.run(["setfacl", "-m", f"u:{NOBODY}:r", file], check=False)
        if shutil.which("setfacl")
        else None
    )
    replace_file(file, b"new")
    assert os.getxattr(file, "user.made-up") == b"x"
    if listed is not None and listed.returncode == 0:
        assert (
            b"user:nobody:r--"
            in subprocess.run(["getfacl", "-c", file], capture_output=True, check=True).stdout
        )


@pytest.mark.skipif(shutil.which("setfacl") is None, reason="setfacl is not installed")
def test_a_default_of_the_folder_gives_nobody_more_than_the_old_file_did(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(b"old")
    file.chmod(0o640)
    if subprocess.run(["setfacl", "-d", "-m", f"u:{NOBODY}:rw", tmp_path], check=False).returncode:
        pytest.skip("no access lists here")
    replace_file(file, b"new")
    shown = subprocess.run(["getfacl", "-cn", file], capture_output=True, check=True).stdout
    assert b"user:65534" not in shown
    assert file.stat().st_mode & 0o777 == 0o640


def test_a_link_stays_and_what_it_leads_to_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "keys.yaml").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real/keys.yaml")
    replace_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "keys.yaml").read_bytes() == b"new"
    (tmp_path / "dangling").symlink_to("real/other.yaml")
    replace_file(tmp_path / "dangling", b"made")
    assert (tmp_path / "real" / "other.yaml").read_bytes() == b"made"
    assert only(tmp_path / "real") == ["keys.yaml", "other.yaml"]


def test_what_a_crash_left_behind_is_removed_and_never_followed(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"untouched")
    (tmp_path / ".keys.yaml.rekeyd-new").symlink_to("elsewhere")
    replace_file(tmp_path / "keys.yaml", b"new")
    assert (tmp_path / "elsewhere").read_bytes() == b"untouched"
    assert only(tmp_path) == ["elsewhere", "keys.yaml"]


def test_what_can_not_be_done_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ReplaceError, match=r"/folder is not a regular file"):
        replace_file(tmp_path / "folder", b"")
    with pytest.raises(ReplaceError, match=r"none/keys.yaml can't be written: No such file or directory"):
        replace_file(tmp_path / "none" / "keys.yaml", b"")
    with pytest.raises(ReplaceError, match=r"can't be written"):
        replace_file(Path("/proc/keys.yaml"), b"")
    (tmp_path / "circle").symlink_to("circle")
    with pytest.raises(ReplaceError, match="lead in a circle"):
        real(tmp_path / "circle")
    assert only(tmp_path) == ["circle", "folder"]


def test_where_the_disk_is_full_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys.yaml"
    file.write_bytes(b"old")

    def full(_descriptor: int, _data: memoryview) -> int:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ReplaceError, match=r"keys.yaml can't be written: the disk is full"):
        replace_file(file, b"new")
    assert file.read_bytes() == b"old"
    assert only(tmp_path) == ["keys.yaml"]


def test_one_writer_at_a_time_and_nobody_waits_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "keys.yaml"
    refused = pytest.raises(ReplaceError, match=r"is locked by somebody else")
    with locked(file), refused, locked(file, wait=0.05):
        raise AssertionError
    with locked(file, wait=0):
        pass
    with pytest.raises(ReplaceError, match="No such file"), locked(tmp_path / "none" / "keys.yaml"):
        raise AssertionError


def _count_up(file: Path) -> None:
    for _ in range(20):
        with locked(file):
            replace_file(file, b"%d" % (int(file.read_bytes()) + 1))


def test_many_processes_lose_no_change(tmp_path: Path) -> None:
    file = tmp_path / "count"
    file.write_bytes(b"0")
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_count_up, args=(file,)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(30)
        assert writer.exitcode == 0
    assert file.read_bytes() == b"80"
