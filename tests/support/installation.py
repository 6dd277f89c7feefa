"""What a machine gets to see besides what this one has: rekeyd as it is installed, and a newer systemd.

Both are trees of files that are made once in a session and mounted into each machine.
"""

import contextlib
import fcntl
import platform
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
OLDEST_PYTHON = (3, 11)
SYSTEMD = ("systemd", "systemd-dev", "libsystemd-shared", "libsystemd0", "libudev1", "libnss-systemd")
KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class NotToBeHad(Exception):  # noqa: N818 - it says what is the matter
    """It can't be made on this machine; the text says why."""


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """The folder that `make` fills, by whichever process of the session comes first.

    Raises NotToBeHad in each of them where `make` does.
    """
    made, refused = folder.with_suffix(".made"), folder.with_suffix(".refused")
    with folder.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if refused.exists():
            raise NotToBeHad(refused.read_text())
        if not made.exists():
            shutil.rmtree(folder, ignore_errors=True)  # of one who was interrupted
            folder.mkdir()
            try:
                make(folder)
            except NotToBeHad as error:
                refused.write_text(str(error))
                raise
            made.touch()
    return folder


def install(root: Path) -> None:
    """rekeyd under `root`/usr/local, in a Python that a service may read. Raises NotToBeHad without one."""
    local = root / "usr" / "local"
    venv = local / "lib" / "rekeyd"
    units = local / "lib" / "systemd" / "system"
    _ran(_python_for_services(), "-m", "venv", "--without-pip", venv)
    pip = (sys.executable, "-m", "pip", "--python", venv / "bin" / "python", "--disable-pip-version-check")
    _ran(*pip, "install", "--quiet", CHECKOUT)
    (local / "bin").mkdir()
    command = (venv / "bin" / "rekeyd").read_text().splitlines()
    (local / "bin" / "rekeyd").write_text("\n".join(["#!/usr/local/lib/rekeyd/bin/python", *command[1:], ""]))
    (local / "bin" / "rekeyd").chmod(0o755)
    units.mkdir(parents=True)
    for kind in ("service", "socket"):
        for unit in (CHECKOUT / "systemd").glob(f"*.{kind}"):
            shutil.copy(unit, units)
    for kind in ("sysusers.d", "tmpfiles.d"):
        shutil.copytree(CHECKOUT / "systemd" / kind, local / "lib" / kind)


def _python_for_services() -> Path:
    """The interpreter of this test, or the machine's own where that lies in a home (`ProtectHome=`)."""
    for python in (Path(sys.base_prefix) / "bin" / "python3", Path("/usr/bin/python3")):
        if python.is_relative_to("/usr") and _is_new_enough(python):
            return python
    raise NotToBeHad("no Python 3.11 or newer with venv lies where a service may read it (/usr)")


def _is_new_enough(python: Path) -> bool:
    code = f"import venv, sys; sys.exit(sys.version_info < {OLDEST_PYTHON})"
    try:
        return subprocess.run([python, "-c", code], stderr=subprocess.DEVNULL, check=False).returncode == 0
    except OSError:
        return False


def _ran(*command: str | Path, cwd: Path | None = None) -> None:
    done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise NotToBeHad(f"{Path(command[0]).name}: {done.stderr.strip()[-500:]}")


def unpack_newer_systemd(tree: Path) -> None:
    """The systemd of Debian's backports, under `tree`/usr. Raises NotToBeHad where it can't be downloaded."""
    packages = tree / "packages"
    _download(packages)
    (tree / "usr").mkdir()
    for name in ("bin", "sbin", "lib", "lib64"):  # as in the machine's `/`, or its links would be hidden
        (tree / "usr" / name).mkdir()
        (tree / name).symlink_to(f"usr/{name}")
    for package in packages.glob("*.deb"):
        unpack = 'dpkg-deb --fsys-tarfile "$1" | tar -x --keep-directory-symlink -C "$2"'
        _ran("sh", "-c", unpack, "unpack", package, tree)


def _download(packages: Path) -> None:
    """Without touching what apt keeps of this machine."""
    suite = f"{platform.freedesktop_os_release().get('VERSION_CODENAME')}-backports"
    lists = packages / "lists"
    (lists / "partial").mkdir(parents=True)
    (packages / "archives" / "partial").mkdir(parents=True)
    sources = packages / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} {suite} main\n")
    options = {
        "APT::Sandbox::User": "root",
        "Dir::Etc::SourceList": sources,
        "Dir::Etc::SourceParts": "/dev/null",
        "Dir::State::Lists": lists,
        "Dir::Cache": packages,
    }
    apt = ("apt-get", "-qq", *(f"-o{key}={value}" for key, value in options.items()))
    _ran(*apt, "update")
    _ran(*apt, "download", *(f"{name}/{suite}" for name in SYSTEMD), cwd=packages)


def _mirror() -> str:
    """Where this machine has its Debian from."""
    for sources in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        with contextlib.suppress(OSError):
            for found in re.findall(r"(?m)^[^#\n]*?(https?://\S+/debian/?)(?=\s|$)", sources.read_text()):
                return str(found)
    raise NotToBeHad("no source of Debian packages is configured")
