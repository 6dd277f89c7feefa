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


# Where `make install` may make an account: in a copy of /etc of its own.
OWN_ETC = """
mount -t tmpfs none "$1" && mkdir "$1/upper" "$1/work" \\
  && mount -t overlay -o "lowerdir=/etc,upperdir=$1/upper,workdir=$1/work" none /etc && shift && exec "$@"
"""


@dataclass(frozen=True)
class Place:
    """A prefix of its own: in the end it lies in `final`, and before that in `stage`, as in a package."""

    stage: Path
    final: Path
    scratch: Path
    wheels: Path

    def make(self, target: str, *, staged: bool, **variables: str) -> subprocess.CompletedProcess[str]:
        where = {
            "DESTDIR": str(self.stage) if staged else "",
            "prefix": f"{self.final}/usr",
            "sysconfdir": f"{self.final}/etc",
            "systemddir": f"{self.final}/usr/lib",
        }
        command = ["make", target, *(f"{name}={value}" for name, value in (where | variables).items())]
        return subprocess.run(
            command if staged else [*self._apart(), *command],
            cwd=ROOT,
            env=_environment() | {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(self.wheels)},
            capture_output=True,
            text=True,
            check=False,
            timeout=140,
        )

    def fetch(self) -> None:
        """All that an installation needs from elsewhere, once for both."""
        pip = [
            str(ROOT / ".venv/bin/python"),
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--wheel-dir",
            str(self.wheels),
        ]
        subprocess.run([*pip, ".", "hatchling>=1.25,<2"], cwd=ROOT, check=True, timeout=140)

    def install(self, *, staged: bool) -> str:
        done = self.make("install", staged=staged)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def _apart(self) -> list[str]:
        """What keeps root from changing this machine's accounts. Nobody else can."""
        if os.geteuid() != 0:
            return []
        return ["unshare", "--mount", "sh", "-euc", OWN_ETC, "sh", str(self.scratch)]

    def may_install(self) -> bool:
        return subprocess.run([*self._apart(), "true"], capture_output=True, check=False).returncode == 0

    def staged(self, path: str) -> Path:
        return Path(f"{self.stage}{self.final}/{path}")

    @property
    def release(self) -> Path:
        """The folder that the command leads to."""
        return (self.final / "usr/bin/rekeyd").resolve().parents[1]


def files_in(folder: Path) -> set[str]:
    """All that is there, but for what is in the releases."""
    found = {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}
    return {name for name in found if not name.startswith("usr/lib/rekeyd/releases/")}


def _environment() -> dict[str, str]:
    """Ours without what another make hands on."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    if not (ROOT / ".venv" / ".created").exists():
        pytest.skip("the tests don't run in the .venv that make makes")
    scratch, wheels = tmp_path / "scratch", tmp_path / "wheels"
    scratch.mkdir()
    previous = os.umask(0o077)  # as strict as an administrator's may be
    yield Place(tmp_path / "stage", tmp_path / "final", scratch, wheels)
    os.umask(previous)


@pytest.mark.timeout(300)
async def test_it_is_unpacked_runs_is_upgraded_while_it_runs_and_goes(
    place: Place, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    if not place.may_install():
        pytest.skip("no mount namespace with an overlay can be had here")
    place.fetch()
    told = place.install(staged=True)
    assert f"rekeyd check -c {place.final}/etc/rekeyd/rekeyd.yaml" in told
    assert "systemctl enable --now rekeyd" in told
    assert "rekeyd.service" not in told
    assert not place.final.exists(), "with DESTDIR nothing else is touched"
    assert_all_is_there(place)
    assert_modes(place)
    assert_nothing_names_the_stage(place)

    place.staged("").rename(place.final)
    assert_its_command_runs(place)
    first = place.release
    first.with_name("20200101T000000Z").mkdir()
    settings = place.final / "etc/rekeyd/rekeyd.yaml"
    settings.write_text("# edited\n")
    older = place.final / "etc/systemd/system/rekeyd.service"
    older.parent.mkdir(parents=True)
    older.touch()
    site = live_site(tmp_path)
    command = (str(place.final / "usr/bin/rekeyd"), "serve", "-c")
    daemon = await start_daemon(site.file, secrets=[API_KEY], command=command, environ={"PYTHONPATH": ""})

    told = place.install(staged=False)
    assert f"{settings} is as it was" in told
    assert "systemctl try-restart rekeyd" in told
    assert f"systemd takes {older} before" in told
    assert settings.read_text() == "# edited\n"
    second = place.release
    assert second != first
    assert set(first.parent.iterdir()) == {first, second}
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask()).status == 200
    assert_its_command_runs(place)

    refused = place.make("uninstall", staged=False)
    assert refused.returncode != 0
    assert "systemctl disable --now rekeyd.service" in refused.stderr
    assert first.exists()
    await daemon.stop()
    gone = place.make("uninstall", staged=False)
    assert gone.returncode == 0, gone.stderr
    assert files_in(place.final) == {"etc/rekeyd/rekeyd.yaml", "etc/systemd/system/rekeyd.service"}
    assert not (place.final / "usr/lib/rekeyd").exists()


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
    assert files_in(place.staged("")) == units | documents | others
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


def assert_its_command_runs(place: Place) -> None:
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
    done = place.make(target, staged=True, **wrong)
    assert done.returncode != 0
    assert "must be an absolute path" in done.stderr
    assert not place.stage.exists()
    assert not place.final.exists()


def test_what_is_not_there_can_be_uninstalled_and_what_is_anothers_stays(place: Place) -> None:
    assert place.make("uninstall", staged=True).returncode == 0
    others = {place.staged(name) for name in ("usr/bin/rekeyd", "usr/lib/systemd/system/other.service")}
    for file in others:
        file.parent.mkdir(parents=True)
        file.write_text("another's")
    assert place.make("uninstall", staged=True).returncode == 0
    assert all(file.exists() for file in others)


def test_the_script_is_plain_shell() -> None:
    for script in (ROOT / "install.sh", ROOT / "etc/certbot/certbot-deploy-hook"):
        subprocess.run(["sh", "-n", script], check=True, timeout=10)
        assert script.read_text().startswith("#!/bin/sh\n")
