"""What a process gives up for good. It is tried in real processes, for no test gets it back."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.processes import kernel_has_landlock

BEGIN = """
import json, os, sys, threading
from pathlib import Path
from rekeyd.system import landlock

inside, outside = Path(sys.argv[1]), Path(sys.argv[2])

def attempt(act):
    try:
        act()
    except OSError as error:
        return type(error).__name__
    return "done"
"""

CONFINED = """
forgone = landlock.forgo_privileges()
version = landlock.confine_writes([inside, Path(os.devnull), outside / "missing"])
"""

ACTS = """
import socket

def listen(path):
    with socket.socket(socket.AF_UNIX) as channel:
        channel.bind(str(path))

def everything(folder):
    return {
        "make a file": attempt(lambda: (folder / "new").write_text("x")),
        "write to one": attempt(lambda: (folder / "old").write_text("x")),
        "append": attempt(lambda: (folder / "old").open("a").close()),
        "truncate": attempt(lambda: os.truncate(folder / "old", 0)),
        "make a folder": attempt(lambda: (folder / "sub").mkdir()),
        "make a link": attempt(lambda: (folder / "link").symlink_to("old")),
        "make a socket": attempt(lambda: listen(folder / "socket")),
        "rename": attempt(lambda: (folder / "old").rename(folder / "moved")),
        "remove": attempt(lambda: (folder / "remove").unlink()),
        "remove a folder": attempt(lambda: (folder / "empty").rmdir()),
    }
"""

# Somebody else, who isn't confined, makes a folder anew.
RENEWER = """
import subprocess
renew = 'read go; rm -r "$0"; mkdir "$0"; echo new > "$0/old"'
renewer = subprocess.Popen(["sh", "-c", renew, str(outside)], stdin=subprocess.PIPE)
"""

RENEWED = """
before = (outside / "old").read_text()
renewer.communicate(b"go\\n")
told = [before, (outside / "old").read_text(), os.listdir(outside)]
"""

END = """
print(json.dumps(told))
"""


pytestmark = pytest.mark.skipif(not kernel_has_landlock(), reason="this kernel has no Landlock (ABI 3)")


def tried(tmp_path: Path, script: str) -> Any:
    for name in ("inside", "outside"):
        folder = tmp_path / name
        (folder / "empty").mkdir(parents=True)
        for file in ("old", "remove"):
            (folder / file).write_text("old")
    command = [
        sys.executable,
        "-c",
        BEGIN + ACTS + script + END,
        str(tmp_path / "inside"),
        str(tmp_path / "outside"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


def test_all_is_allowed_inside_and_nothing_outside(tmp_path: Path) -> None:
    told = tried(tmp_path, CONFINED + "told = [version, everything(inside), everything(outside)]")

    version, inside, outside = told
    assert version >= 3
    assert set(inside.values()) == {"done"}
    assert set(outside.values()) == {"PermissionError"}
    assert sorted(path.name for path in (tmp_path / "outside").iterdir()) == ["empty", "old", "remove"]
    assert (tmp_path / "outside" / "old").read_text() == "old"


def test_without_it_all_is_allowed_everywhere(tmp_path: Path) -> None:
    assert set(tried(tmp_path, "told = everything(outside)").values()) == {"done"}


def test_nothing_is_moved_out_or_made_elsewhere_by_a_link(tmp_path: Path) -> None:
    told = tried(
        tmp_path,
        CONFINED
        + """
(inside / "way").symlink_to(outside / "old")
told = [
    attempt(lambda: (inside / "old").rename(outside / "old")),
    attempt(lambda: os.link(inside / "old", outside / "linked")),
    attempt(lambda: (inside / "way").write_text("x")),
]""",
    )
    assert set(told) <= {"PermissionError", "OSError"}


def test_reading_is_as_before_also_from_folders_that_are_made_anew(tmp_path: Path) -> None:
    told = tried(tmp_path, RENEWER + CONFINED + RENEWED)
    assert told == ["old", "new\n", ["old"]]


def test_what_is_open_devnull_and_memory_files_may_be_written(tmp_path: Path) -> None:
    told = tried(
        tmp_path,
        "kept = (outside / 'old').open('w')\n"
        + CONFINED
        + """
memory = os.memfd_create("m")
os.write(memory, b"m")
told = [
    attempt(lambda: (kept.write("x"), kept.flush())),
    attempt(lambda: open(os.devnull, "w").close()),
    Path(f"/proc/self/fd/{memory}").read_text(),
]""",
    )
    assert told == ["done", "done", "m"]


def test_threads_and_children_that_come_later_are_confined_too(tmp_path: Path) -> None:
    told = tried(
        tmp_path,
        CONFINED
        + """
told = []
thread = threading.Thread(target=lambda: told.append(attempt(lambda: (outside / "x").write_text("x"))))
thread.start()
thread.join()
told.append(os.waitstatus_to_exitcode(os.system(f"echo x 2>&- > '{outside}/y'")) != 0)""",
    )
    assert told == ["PermissionError", True]


def test_no_program_gets_more_rights(tmp_path: Path) -> None:
    status = "Path('/proc/self/status').read_text()"
    told = tried(tmp_path, f"before = {status}\n{CONFINED}\ntold = [forgone, before, {status}]")
    assert told[0] is True
    assert "NoNewPrivs:\t1" in told[2]


def test_a_filter_that_forbids_it_is_gone_without(tmp_path: Path) -> None:
    """As systemd's SystemCallFilter= does, with SystemCallErrorNumber=EPERM."""
    told = tried(
        tmp_path,
        """
real = landlock._kernel()
forbidden = landlock._Kernel(real.prctl, lambda *_: -1)
landlock._kernel = lambda: forbidden
"""
        + CONFINED
        + "told = [version, everything(outside)]",
    )
    assert told[0] is None
    assert set(told[1].values()) == {"done"}


def test_so_is_a_python_that_cannot_call_the_library(tmp_path: Path) -> None:
    told = tried(tmp_path, f"sys.modules['ctypes'] = None\n{CONFINED}\ntold = [forgone, version]")
    assert told == [False, None]
