"""`rekeyd keys new` is killed at each system call that touches a file, one after the other: the key file is
the old one or the new one, whole, and what a crash leaves behind harms nobody."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support.daemon import SOURCE_ROOT
from support.key_files import entry, parsed, write
from support.live import measured
from test_key_store import settings_file

CALLS = ("openat", "write", "fchmod", "fchown", "fsync", "rename", "unlink", "flock")
"""What a replacement is made of."""
STRAY = ".keys.yaml.rekeyd-new"

pytestmark = [
    pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed"),
    pytest.mark.timeout(300),
]


def run(folder: Path, *tracing: str) -> subprocess.CompletedProcess[bytes]:
    new = ("rekeyd", "keys", "new", "b", "--right", "read", "-c", str(folder / "rekeyd.yaml"))
    command = (*tracing, sys.executable, "-m", *new)
    environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, capture_output=True, env=environ, timeout=60, check=False)


def steps(folder: Path) -> list[tuple[str, int]]:
    """Each system call from the lock to the answer, as its name and which of its name it is."""
    log = folder.parent / "trace"
    told = run(folder, "strace", "-qq", "-e", f"trace={','.join(CALLS)}", "-o", str(log))
    if told.returncode:
        pytest.skip("strace may not trace here")
    counts = dict.fromkeys(CALLS, 0)
    found: list[tuple[str, int]] = []
    for line in log.read_text(errors="replace").splitlines():
        name = line.partition("(")[0]
        if name in counts:
            counts[name] += 1
            if found or name == "flock":
                found.append((name, counts[name]))
    return found


def test_killed_at_any_step_it_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    settings_file(folder, keys_file="keys.yaml")
    file = write(folder / "keys.yaml", entry("a"))
    old = file.read_bytes()
    boundaries = steps(folder)
    outcomes = {"old": 0, "new": 0}
    for name, number in boundaries:
        file.write_bytes(old)
        run(folder, "strace", "-qq", "-o", "/dev/null", "-e", f"inject={name}:signal=KILL:when={number}")
        ids = [credential.id for credential in parsed(file.read_bytes()).credentials]
        assert ids in (["a"], ["a", "b"]), (name, number)
        if ids == ["a"]:
            assert file.read_bytes() == old
        outcomes["old" if ids == ["a"] else "new"] += 1
        assert file.stat().st_mode & 0o777 == 0o600
        assert {path.name for path in folder.iterdir()} <= {
            "keys.yaml",
            "rekeyd.yaml",
            ".keys.yaml.rekeyd-new",
        }
    assert outcomes["old"]
    assert outcomes["new"]
    measured("kills", {**outcomes, "steps": boundaries})
    file.write_bytes(old)
    assert run(folder).returncode == 0
    assert [credential.id for credential in parsed(file.read_bytes()).credentials] == ["a", "b"]
    assert {path.name for path in folder.iterdir()} == {"keys.yaml", "rekeyd.yaml"}
