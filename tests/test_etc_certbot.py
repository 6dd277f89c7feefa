"""The hook for certbot lets one group read one certificate, and takes nothing from anybody."""

import grp
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "etc/certbot"
HOOK = FOLDER / "certbot-deploy-hook"
OWN_GROUP = grp.getgrgid(os.getegid()).gr_name
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="gives files to another group, which needs root")


@pytest.fixture
def letsencrypt(tmp_path: Path) -> Path:
    """As certbot lays it out, with a strict umask and two certificates."""
    for name in ("one", "other"):
        live, archive = tmp_path / "live" / name, tmp_path / "archive" / name
        for folder in (live, archive):
            folder.mkdir(parents=True)
        for kind in ("cert", "chain", "fullchain", "privkey"):
            for number in (1, 2):
                (archive / f"{kind}{number}.pem").write_text("PEM")
            (live / f"{kind}.pem").symlink_to(f"../../archive/{name}/{kind}2.pem")
    for path in tmp_path.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o700 if path.is_dir() else 0o600)
    return tmp_path


def run_hook(letsencrypt: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environ = {**os.environ, "RENEWED_LINEAGE": str(letsencrypt / "live/one"), "RENEWED_DOMAINS": "one"}
    return subprocess.run(
        [HOOK, *arguments], env=environ, capture_output=True, text=True, check=False, timeout=20
    )


def seen(letsencrypt: Path, *, gid: int) -> dict[str, int]:
    """The permissions of all that is that group's."""
    return {
        str(path.relative_to(letsencrypt)): path.stat().st_mode & 0o7777
        for path in letsencrypt.rglob("*")
        if path.lstat().st_gid == gid
    }


FILES = {
    f"archive/one/{kind}{number}.pem": 0o640
    for kind in ("cert", "chain", "fullchain", "privkey")
    for number in (1, 2)
}
FOLDERS = {"live": 0o710, "archive": 0o710, "live/one": 0o750, "archive/one": 0o2750}


@as_root
@pytest.mark.parametrize("times", [1, 2])
def test_the_group_gets_one_certificate_and_the_way_to_it(letsencrypt: Path, times: int) -> None:
    for _ in range(times):
        done = run_hook(letsencrypt, "nogroup")
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert seen(letsencrypt, gid=grp.getgrnam("nogroup").gr_gid) == FILES | FOLDERS
    modes = {path.lstat().st_mode & 0o777 for path in (letsencrypt / "archive/other").iterdir()}
    assert modes == {0o600}


def test_who_owns_the_files_needs_no_root_for_a_group_of_its_own(letsencrypt: Path) -> None:
    assert run_hook(letsencrypt, OWN_GROUP).returncode == 0
    found = seen(letsencrypt, gid=os.getegid())
    assert {name: found[name] for name in FILES | FOLDERS} == FILES | FOLDERS


@as_root
@pytest.mark.parametrize("folder", ["live", "archive", "live/one", "archive/one"])
def test_what_is_a_third_groups_is_left_to_it(letsencrypt: Path, folder: str) -> None:
    third = grp.getgrnam("daemon").gr_gid
    os.chown(letsencrypt / folder, -1, third)
    done = run_hook(letsencrypt, "nogroup")
    assert done.returncode != 0
    assert f"/{folder} is of group daemon" in done.stderr
    assert seen(letsencrypt, gid=third) == {folder: 0o700}
    assert seen(letsencrypt, gid=grp.getgrnam("nogroup").gr_gid) == {}


def test_a_group_that_is_not_there_and_a_certificate_that_is_not_named_are_told(letsencrypt: Path) -> None:
    done = run_hook(letsencrypt, "no-such-group")
    assert done.returncode != 0
    assert "no-such-group" in done.stderr
    environ = {key: value for key, value in os.environ.items() if key != "RENEWED_LINEAGE"}
    by_hand = subprocess.run([HOOK], env=environ, capture_output=True, text=True, check=False, timeout=20)
    assert by_hand.returncode != 0
    assert "RENEWED_LINEAGE" in by_hand.stderr


def test_the_walk_through_names_the_hook_where_make_install_puts_it() -> None:
    for text in ((FOLDER / "README.md").read_text(), HOOK.read_text()):
        named = set(re.findall(r"\S*/certbot-deploy-hook\b", text))
        assert named <= {
            "/usr/local/lib/rekeyd/certbot-deploy-hook",
            "'/usr/local/lib/rekeyd/certbot-deploy-hook",
        }
        assert named
