"""One file: its bytes, or in words why not."""

import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rekeyd.reload.files import LARGEST, Names, UnreadableError, list_folder, read_file
from support.processes import as_nobody


def why(path: Path) -> UnreadableError:
    with pytest.raises(UnreadableError) as caught:
        read_file(path)
    assert caught.value.fix
    assert caught.value.message.startswith(str(path))
    return caught.value


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that others can enter, as pytest's own can't be."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_file_is_its_bytes(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"\x00bytes\xff")

    assert read_file(file).data == b"\x00bytes\xff"


def test_a_link_is_followed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"here")
    (tmp_path / "link").symlink_to("file")

    assert read_file(tmp_path / "link").data == b"here"


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    assert why(tmp_path / "file").message == f"{tmp_path}/file does not exist"


def test_the_first_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    assert f"nor does its folder {tmp_path}/a" == why(tmp_path / "a/b/file").message.split(", ")[1]


def test_a_dangling_link_is_told_with_its_target(tmp_path: Path) -> None:
    (tmp_path / "tls.crt").symlink_to("..data/tls.crt")

    assert "is a link to ..data/tls.crt, which does not exist" in why(tmp_path / "tls.crt").message


def test_links_in_a_circle_are_told(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")

    assert "circle" in why(tmp_path / "a").message


def test_a_directory_is_told(tmp_path: Path) -> None:
    assert "is a directory" in why(tmp_path).message


def test_a_file_used_as_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")

    assert "Not a directory" in why(tmp_path / "file" / "within").message


@pytest.mark.timeout(5)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "is not a regular file" in why(tmp_path / "pipe").message


def test_a_file_of_ten_mebibytes_is_read_and_a_larger_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(LARGEST))
    assert len(read_file(file).data) == LARGEST

    os.truncate(file, LARGEST + 1)
    assert "is larger than 10 MiB" in why(file).message


def test_a_file_that_is_denied_is_told_with_its_owner_and_the_user(open_folder: Path) -> None:
    file = open_folder / "tls.key"
    file.write_bytes(b"key")
    file.chmod(0)

    with as_nobody() as user:
        error = why(file)

    assert f"can't be read by uid {user}: it belongs to uid {file.stat().st_uid}" in error.message
    assert "mode 0000" in error.message
    assert str(user) in error.fix


def test_the_folder_that_cannot_be_entered_is_named(open_folder: Path) -> None:
    (open_folder / "archive" / "site").mkdir(parents=True)
    (open_folder / "archive").chmod(0)

    with as_nobody() as user:
        error = why(open_folder / "archive" / "site" / "tls.key")
    (open_folder / "archive").chmod(stat.S_IRWXU)

    assert f"the folder {open_folder}/archive can't be entered by uid {user}" in error.message


def test_reading_leaves_no_descriptor_open(tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for path in (tmp_path, tmp_path / "missing"):
        why(path)

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_who_may_read_a_file_comes_with_it(tmp_path: Path) -> None:
    file = tmp_path / "tls.key"
    file.touch()
    for mode in (0o600, 0o644):
        file.chmod(mode)
        assert read_file(file).mode == mode


def test_a_folder_is_its_names_sorted_and_links_are_what_they_lead_to(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "c").touch()
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "d").symlink_to("nowhere")
    (tmp_path / ".hidden").touch()

    assert list_folder(tmp_path) == Names(files=("c", "d"), folders=("a", "b"))


def test_a_folder_that_can_not_be_listed_is_told(tmp_path: Path, open_folder: Path) -> None:
    def why_not(path: Path) -> UnreadableError:
        with pytest.raises(UnreadableError) as caught:
            list_folder(path)
        return caught.value

    (tmp_path / "file").touch()
    assert "does not exist" in why_not(tmp_path / "absent").message
    assert why_not(tmp_path / "file").message == f"{tmp_path}/file is a file"
    closed = open_folder / "closed"
    closed.mkdir()
    closed.chmod(0o711)
    with as_nobody() as user:
        assert f"can't be read by uid {user}" in why_not(closed).message


def test_how_large_a_file_may_be_is_for_the_reader_to_say(tmp_path: Path) -> None:
    file = tmp_path / "file"
    with file.open("wb") as sparse:
        sparse.truncate(LARGEST + 1)

    assert len(read_file(file, LARGEST + 1).data) == LARGEST + 1
    assert "is larger than 10 MiB" in why(file).message
