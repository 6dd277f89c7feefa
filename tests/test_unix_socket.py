import os
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from rekeyd.errors import SettingsError
from rekeyd.system.unix_socket import Taken, can_be_made, take


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@contextmanager
def taken(path: Path) -> Iterator[Taken]:
    mine = take(path, key="admin.socket")
    try:
        yield mine
    finally:
        mine.leave()
        mine.channel.close()


def refusal(path: Path) -> str:
    with pytest.raises(SettingsError) as caught:
        take(path, key="admin.socket")
    (problem,) = caught.value.problems
    assert problem.key == "admin.socket"
    assert problem.fix
    return problem.message


def connect(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_socket_is_open_to_its_owner_and_group_whatever_the_umask(path: Path, umask: int) -> None:
    previous = os.umask(umask)
    with ExitStack() as stack:
        stack.callback(os.umask, previous)
        stack.enter_context(taken(path))
        assert stat.S_IMODE(path.lstat().st_mode) == 0o660
        assert [each.name for each in path.parent.iterdir()] == ["admin.sock"]
        connect(path)
    assert not path.exists()


def test_a_socket_left_by_a_crash_is_replaced(path: Path) -> None:
    script = "import os, socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1]); os._exit(9)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=False, timeout=20)
    assert stat.S_ISSOCK(path.lstat().st_mode)
    with taken(path):
        connect(path)


def test_what_answers_keeps_its_socket(path: Path) -> None:
    with taken(path):
        assert "another daemon answers there" in refusal(path)
        connect(path)


def test_what_is_too_busy_to_accept_counts_as_living(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        assert "another daemon answers there" in refusal(path)


def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert "not a socket" in refusal(path)
    assert path.read_text() == "precious"


def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    assert "not a socket" in refusal(path)


def test_a_folder_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "none" / "admin.sock")
    assert not can_be_made(tmp_path / "none" / "admin.sock")
    assert can_be_made(tmp_path / "admin.sock")


def test_a_path_too_long_for_a_socket_is_said_to_be_so(tmp_path: Path) -> None:
    assert "107 bytes" in refusal(tmp_path / ("x" * 108))


def test_a_folder_in_which_another_one_is_starting_is_left_to_it(path: Path) -> None:
    script = """
import fcntl, os, sys
fcntl.flock(os.open(sys.argv[1], os.O_RDONLY), fcntl.LOCK_EX)
print(flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", script, str(path.parent)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout is not None
        other.stdout.readline()
        assert "another daemon is starting" in refusal(path)
        other.communicate()
    with taken(path):
        connect(path)


def test_a_successors_socket_stays(path: Path, tmp_path: Path) -> None:
    with taken(path) as old, taken(tmp_path / "new.sock"):
        (tmp_path / "new.sock").rename(path)
        old.leave()
        connect(path)
        path.unlink()
