"""The command line of `rekeyd keys`, through the real command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rekeyd.cli import main
from support.daemon import SOURCE_ROOT
from support.key_files import entry, parsed, secret_of, write
from test_key_store import settings_file


def keys(folder: Path, *arguments: str, give: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """`rekeyd keys ACTION … -c FILE` as its users run it."""
    command = (sys.executable, "-m", "rekeyd", "keys", *arguments, "-c", str(folder / "rekeyd.yaml"))
    environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    return subprocess.run(command, input=give, capture_output=True, env=environ, timeout=30, check=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    settings_file(tmp_path, keys_file="keys.yaml")
    return tmp_path


def test_the_life_of_a_key(folder: Path) -> None:
    made = keys(folder, "new", "a", "--right", "read", "--expires", "90d", "--rate", "50")
    assert made.returncode == 0
    secret = made.stdout.strip()
    assert made.stdout.count(b"\n") == 1
    assert secret not in made.stderr
    assert b"key a was added to" in made.stderr
    assert b"at its next start" in made.stderr
    verified = keys(folder, "verify", give=secret + b"\r\n")
    assert (verified.returncode, verified.stderr) == (0, b"")
    assert secret not in verified.stdout
    rotated = keys(folder, "rotate", "a", "--overlap", "0s")
    assert rotated.returncode == 0
    assert keys(folder, "verify", give=secret).returncode == 1
    assert keys(folder, "verify", give=rotated.stdout).returncode == 0
    assert keys(folder, "retire", "a", "--at", "now").returncode == 0
    assert keys(folder, "verify", give=rotated.stdout).returncode == 1
    [told] = json.loads(keys(folder, "list", "--json").stdout)
    assert (told["id"], told["state"], told["safe_to_remove"]) == ("a", "expired", True)
    assert keys(folder, "remove", "a").returncode == 0
    assert keys(folder, "list").stdout == b"no keys\n"


def test_a_secret_of_other_making_comes_on_stdin_and_is_not_told(folder: Path) -> None:
    strong = secret_of("elsewhere").encode()
    made = keys(
        folder, "new", "b", "--collection", "x=points", "--network", "10.0.0.0/8", "--stdin", give=strong
    )
    assert (made.returncode, made.stdout) == (0, b"")
    assert keys(folder, "verify", give=strong).stdout.startswith(b"key        b\nmay        x=points from 10")
    weak = keys(folder, "new", "c", "--right", "read", "--stdin", give=b"hunter2\n")
    assert (weak.returncode, weak.stdout) == (1, b"")
    assert (
        weak.stderr
        == b"rekeyd: the secret is shorter than 32 characters; without --stdin a strong one is made\n"
    )
    assert [c.id for c in parsed((folder / "keys.yaml").read_bytes()).credentials] == ["b"]


def test_wrong_settings_or_a_wrong_key_file_are_status_2(folder: Path, tmp_path: Path) -> None:
    write(folder / "keys.yaml", entry("a", "everything"))
    for action in (("list",), ("verify",), ("new", "b", "--right", "read"), ("retire", "a")):
        told = keys(folder, *action)
        assert (told.returncode, told.stdout) == (2, b"")
        assert b"keys.yaml: keys[1].right: is no right" in told.stderr
    settings_file(tmp_path)
    told = keys(folder, "list")
    assert told.returncode == 2
    assert b"access.keys_file: is not set" in told.stderr


def test_what_is_not_there_is_status_1(folder: Path) -> None:
    write(folder / "keys.yaml", entry("a"))
    for action in (("rotate", "b"), ("retire", "b"), ("remove", "b"), ("new", "a", "--right", "read")):
        assert keys(folder, *action).returncode == 1
    assert keys(folder, "remove", "a").returncode == 1
    assert keys(folder, "remove", "a", "--force").returncode == 0


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["new", "a"],
        ["new", "a", "--right", "all"],
        ["new", "a", "--right", "read", "--collection", "x=read"],
        ["new", "--right", "read"],
        ["new", "a", "--right", "read", "--secret", "x"],
        ["rotate"],
    ],
)
def test_what_can_not_be_meant_is_refused_by_the_parser(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["keys", *arguments])
    assert ended.value.code == 2
    assert "usage: rekeyd" in capsys.readouterr().err


def test_the_rule_of_what_is_safe_to_remove_is_in_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["keys", "list", "--help"])
    assert "not used for 30 days of which there is evidence" in " ".join(capsys.readouterr().out.split())
