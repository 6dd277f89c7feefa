"""`make install` and `make uninstall`, as an administrator, a package and an upgrade use them."""

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import StartDaemon
from support.generations import API_KEY
from support.live import Connection, live_site

ROOT = Path(__file__).parents[1]
UNITS = sorted(
    path.relative_to(ROOT / "systemd")
    for pattern in ("*.service", "*.socket", "sysusers.d/*.conf", "tmpfiles.d/*.conf")
    for path in (ROOT / "systemd").glob(pattern)
)


@dataclass(frozen=True)
class Place:
    """Where it is staged, and where it will lie in the end: in a prefix of its own, so that it really may."""

    stage: Path
    final: Path

    def make(self, target: str, **variables: str | Path) -> subprocess.CompletedProcess[str]:
        where = {
            "DESTDIR": self.stage,
            "prefix": self.final / "usr",
            "sysconfdir": self.final / "etc",
            "systemddir": self.final / "usr/lib",
        }
        command = ["make", target, *(f"{name}={value}" for name, value in (where | variables).items())]
        return subprocess.run(
            command, cwd=ROOT, env=_environment(), capture_output=True, text=True, check=False, timeout=120
        )

    def install(self) -> str:
        done = self.make("install")
        assert done.returncode == 0, done.stderr
        return done.stdout

    def staged(self, path: str) -> Path:
        return Path(f"{self.stage}{self.final}/{path}")

    @property
    def release(self) -> Path:
        """The folder that the command's link leads to."""
        return self.staged("usr/bin/rekeyd").resolve().parents[1]

    def files(self) -> set[str]:
        """All that is there, but for what is in the releases."""
        top = self.staged("")
        found = {str(path.relative_to(top)) for path in top.rglob("*") if not path.is_dir()}
        return {name for name in found if not name.startswith("usr/lib/rekeyd/releases/")}


def _environment() -> dict[str, str]:
    """Ours without what another make hands on."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    if not (ROOT / ".venv" / ".created").exists():
        pytest.skip("the tests don't run in the .venv that make makes")
    previous = os.umask(0o077)  # as strict as an administrator's may be
    yield Place(tmp_path / "stage", tmp_path / "final")
    os.umask(previous)


@pytest.mark.timeout(240)
async def test_it_is_installed_runs_is_upgraded_while_it_runs_and_goes(
    place: Place, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    told = place.install()
    assert f"rekeyd check -c {place.final}/etc/rekeyd/rekeyd.yaml" in told
    assert "systemctl enable --now rekeyd" in told
    assert not place.final.exists(), "with DESTDIR nothing else is touched"
    assert_all_is_there(place)
    assert_modes(place)
    assert_nothing_names_the_stage(place)

    first, settings = place.release, place.staged("etc/rekeyd/rekeyd.yaml")
    settings.write_text("# edited\n")
    leftover = first.with_name("20200101T000000Z")
    leftover.mkdir()
    site = live_site(tmp_path)
    command = (str(first / "bin/python"), "-m", "rekeyd", "serve", "-c")
    daemon = await start_daemon(site.file, secrets=[API_KEY], command=command, environ={"PYTHONPATH": ""})

    told = place.install()
    assert f"{place.final}/etc/rekeyd/rekeyd.yaml is as it was" in told
    assert "systemctl try-restart rekeyd" in told
    assert settings.read_text() == "# edited\n"
    second = place.release
    assert {path.name for path in first.parent.iterdir()} == {first.name, second.name} != {first.name}
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask()).status == 200
    refused = place.make("uninstall")
    assert refused.returncode != 0
    assert "systemctl disable --now rekeyd" in refused.stderr
    assert first.exists()
    await daemon.stop()

    assert_it_runs_where_it_is_unpacked(place)
    place.staged("").parent.mkdir(exist_ok=True)
    place.final.rename(place.staged(""))
    gone = place.make("uninstall")
    assert gone.returncode == 0, gone.stderr
    assert place.files() == {"etc/rekeyd/rekeyd.yaml"}
    assert not place.staged("usr/lib/rekeyd").exists()


def assert_all_is_there(place: Place) -> None:
    units = {f"usr/lib/{unit}" if len(unit.parts) > 1 else f"usr/lib/systemd/system/{unit}" for unit in UNITS}
    documents = {
        f"usr/share/doc/rekeyd/{path.relative_to(ROOT)}"
        for path in [
            *(ROOT / name for name in ("README.md", "CHANGELOG.md", "LICENSE")),
            *(path for folder in ("etc", "systemd") for path in (ROOT / folder).rglob("*") if path.is_file()),
        ]
    }
    others = {"usr/bin/rekeyd", "usr/lib/rekeyd/certbot-deploy-hook", "etc/rekeyd/rekeyd.yaml"}
    assert place.files() == units | documents | others
    assert place.staged("etc/rekeyd/rekeyd.yaml").read_bytes() == (ROOT / "etc/rekeyd.yaml").read_bytes()


def assert_modes(place: Place) -> None:
    """Whatever the umask: everybody reads the program, nobody but root and a group the settings."""
    private = {place.staged("etc/rekeyd"): 0o750, place.staged("etc/rekeyd/rekeyd.yaml"): 0o640}
    for path in place.staged("").rglob("*"):
        mode = path.lstat().st_mode & 0o777
        if path in private:
            assert mode == private[path]
        elif not path.is_symlink():
            assert mode in {0o644, 0o755}, path
    assert place.staged("usr/lib/rekeyd/certbot-deploy-hook").stat().st_mode & 0o111 == 0o111


def assert_nothing_names_the_stage(place: Place) -> None:
    stage = str(place.stage).encode()
    for path in place.stage.rglob("*"):
        if path.is_file() and not path.is_symlink():
            assert stage not in path.read_bytes(), path
    unit = place.staged("usr/lib/systemd/system/rekeyd.service").read_text()
    assert f"ExecStart={place.final}/usr/bin/rekeyd serve -c {place.final}/etc/rekeyd/rekeyd.yaml" in unit
    assert "/usr/local/" not in unit


def assert_it_runs_where_it_is_unpacked(place: Place) -> None:
    place.staged("").rename(place.final)
    done = subprocess.run(
        [place.final / "usr/bin/rekeyd", "--version"], capture_output=True, text=True, check=False, timeout=30
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert re.fullmatch(r"rekeyd \d+\.\d+\.\d+\n", done.stdout)


@pytest.mark.parametrize("target", ["install", "uninstall"])
@pytest.mark.parametrize(
    "wrong",
    [{"prefix": "usr"}, {"DESTDIR": "stage"}, {"sysconfdir": "/a b"}, {"DESTDIR": "/a|b"}, {"prefix": ""}],
)
def test_a_place_that_would_be_misunderstood_is_refused(
    place: Place, target: str, wrong: dict[str, str]
) -> None:
    done = place.make(target, **wrong)
    assert done.returncode != 0
    assert "must be an absolute path" in done.stderr
    assert list(place.stage.parent.iterdir()) == []


def test_what_is_not_there_can_be_uninstalled(place: Place) -> None:
    assert place.make("uninstall").returncode == 0


def test_the_script_is_plain_shell() -> None:
    for script in (ROOT / "install.sh", ROOT / "etc/certbot/certbot-deploy-hook"):
        subprocess.run(["sh", "-n", script], check=True, timeout=10)
        assert script.read_text().startswith("#!/bin/sh\n")
