"""A machine of our own whose PID 1 is a real systemd.

    with Machine.booted(tmp_path) as machine:
        machine.run("systemctl", "start", "rekeyd")
        client = machine.connected(6333)

systemd-nspawn boots the `/` of this machine under an empty overlay in memory, in namespaces of its own for
processes, mounts, network, names and cgroups. So it has what is installed here, nothing is written here, its
network is its own loopback, and there is nothing of it but processes, which are killed when the block or this
process ends.

nspawn tells the pid of PID 1, and PID 1 that it has booted, as services do (sd_notify(3)).
"""

import asyncio
import contextlib
import ctypes
import os
import select
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import pytest

BOOT = 30.0
"""Seconds within which it boots (it takes half a one), or never does."""
PATIENCE = 50.0
"""Seconds for one command."""
LEADER = "X_NSPAWN_LEADER_PID="
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "SYSTEMD_PAGER": "cat",
    "SYSTEMD_COLORS": "0",
}
NSPAWN = (
    *("--quiet", "--settings=no", "--boot", "--notify-ready=yes", "--console=read-only"),
    *("--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"),
    *("--volatile=overlay", "--private-network"),
    "--tmpfs=/etc/systemd/system",  # what this machine's administrator enabled is not started
    *("--capability=CAP_BPF", "--system-call-filter=bpf"),  # IPAddressDeny= is a program in the kernel
    "--system-call-filter=landlock_create_ruleset landlock_add_rule landlock_restrict_self",
)
# In a mount namespace of its own: nspawn gives its guest the cgroup hierarchy that it finds, which has to be
# v2, and does not boot `/` under that name. The end of standard input is the end of all, however it comes.
PREPARE = """
set -eu
cgroup=$1 root=$2; shift 2
mkdir "$cgroup"
exec 3<&0 4>"$cgroup/cgroup.kill" </dev/null
{ cat <&3; echo 1 >&4; } &
exec 3<&-
echo $$ >"$cgroup/cgroup.procs"
umount --lazy /sys/fs/cgroup
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mount --bind / "$root"
exec 4>&- systemd-nspawn --directory="$root" "$@" -- systemd.unit=basic.target
"""

OLDER, NEWER = "this machine's systemd", "a newer systemd"
ON_THE_OLDER = pytest.mark.parametrize("machine", [OLDER], indirect=True, scope="session")
"""For tests that say more of rekeyd than of systemd: once is enough."""

T = TypeVar("T")


def reason_against() -> str | None:
    """Why none can be booted here; None where one can."""
    if os.geteuid() != 0:
        return "booting a machine needs root"
    for command in ("systemd-nspawn", "nsenter", "unshare"):
        if shutil.which(command) is None:
            return f"{command} is not installed"
    tried = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


class Machine:
    """Booted, with the pid of its PID 1 as it is seen from here."""

    def __init__(self, leader: int) -> None:
        self.leader = leader
        self.systemd = int(self.run("systemctl", "--version").stdout.split()[1])
        """The version of its systemd, 252 at least."""
        self._inside = ThreadPoolExecutor(1, "inside", initializer=_enter_network, initargs=(leader,))

    @classmethod
    @contextlib.contextmanager
    def booted(cls, folder: Path, *options: str) -> Iterator["Machine"]:
        """Until the block ends. `folder` is for its traces, `options` are more of systemd-nspawn's."""
        with contextlib.ExitStack() as stack:
            boot = stack.enter_context(_Boot.begun(folder, *options))
            machine = cls(boot.leader_when_ready())
            stack.callback(machine._inside.shutdown)
            yield machine

    def path(self, path: str) -> Path:
        """A file of the machine, by its absolute path there. No absolute symlink may be on the way."""
        return Path(f"/proc/{self.leader}/root{path}")

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """A command in the machine, to its end. With `check` AssertionError unless it ends with 0."""
        enter = ("nsenter", "--target", str(self.leader), "-m", "-u", "-i", "-n", "-p", "-C", "--")
        done = subprocess.run(
            [*enter, *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
            env=ENVIRONMENT,
        )
        assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
        return done

    async def ran(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """`run`, beside what else is going on here."""
        return await asyncio.to_thread(self.run, *command, check=check)

    def in_its_network(self, make: Callable[[], T]) -> T:
        """What `make` gives there: a socket stays in the network in which it was made."""
        return self._inside.submit(make).result()

    def connected(self, port: int) -> socket.socket:
        """A connection to a port of its loopback."""
        return self.in_its_network(lambda: socket.create_connection(("127.0.0.1", port), timeout=PATIENCE))

    def listening(self) -> socket.socket:
        """At a free port of its loopback, for a service that a test plays."""
        return self.in_its_network(lambda: socket.create_server(("127.0.0.1", 0)))


def _enter_network(leader: int) -> None:
    """Let this thread, and no other, be in the machine's network."""
    libc = ctypes.CDLL(None, use_errno=True)
    with open(f"/proc/{leader}/ns/net", "rb") as network:  # noqa: PTH123 - its descriptor is what counts
        if libc.setns(network.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), "setns")


def _cgroups() -> Path:
    """Where this machine has cgroup v2."""
    hybrid = Path("/sys/fs/cgroup/unified")
    return hybrid if hybrid.is_dir() else hybrid.parent


class _Boot:
    """systemd-nspawn, and what it tells of how far it is."""

    def __init__(self, process: subprocess.Popen[bytes], told: socket.socket, console: Path) -> None:
        self._process = process
        self._told = told
        self._console = console

    @classmethod
    @contextlib.contextmanager
    def begun(cls, folder: Path, *options: str) -> Iterator["_Boot"]:
        """Until the block ends: then what it was told to boot has ended, or never came."""
        name = f"rekeyd-{uuid.uuid4().hex[:12]}"
        cgroup, root, console = _cgroups() / name, folder / "root", folder / "console"
        address = Path("/run") / name  # in `folder` its path could be too long for a socket
        root.mkdir(parents=True)
        with contextlib.ExitStack() as stack:
            told = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
            told.bind(str(address))
            told.settimeout(0.2)
            stack.callback(_remove_traces, address, cgroup)
            command = ("sh", "-c", PREPARE, "boot", str(cgroup), str(root), f"--machine={name}", *NSPAWN)
            process = subprocess.Popen(
                ["unshare", "--mount", *command, *options],
                stdin=subprocess.PIPE,
                stdout=stack.enter_context(console.open("wb")),
                stderr=subprocess.STDOUT,
                env={**ENVIRONMENT, "NOTIFY_SOCKET": str(address)},
            )
            stack.callback(_end, process)
            yield cls(process, told, console)

    def leader_when_ready(self) -> int:
        """The pid of its PID 1, once that has booted."""
        with self._told:  # and no longer: it would be told more, and wait for whoever does not listen
            leader = int(self._line_with(LEADER).removeprefix(LEADER))
            self._line_with("READY=1")
        return leader

    def _line_with(self, beginning: str) -> str:
        deadline = time.monotonic() + BOOT
        while self._process.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(TimeoutError):
                for line in self._told.recv(4096).decode().splitlines():
                    if line.startswith(beginning):
                        return line
        raise AssertionError(f"it does not boot: {self._console.read_text(errors='replace')[-4000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.close()
    process.wait()


def _remove_traces(address: Path, cgroup: Path) -> None:
    """What the kernel and nspawn leave: its cgroups, and a folder for mounts that could have come later."""
    address.unlink()
    _await_empty(cgroup)
    for folder in [*sorted(cgroup.rglob("*/"), reverse=True), cgroup]:
        with contextlib.suppress(FileNotFoundError):
            folder.rmdir()
    with contextlib.suppress(FileNotFoundError):
        Path("/run/systemd/nspawn/propagate", cgroup.name).rmdir()


def _await_empty(cgroup: Path) -> None:
    """Until the last of its processes is gone: what was killed has not ended yet."""
    with contextlib.suppress(FileNotFoundError), (cgroup / "cgroup.events").open() as events:
        changed = select.poll()
        changed.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            changed.poll()
            events.seek(0)
