"""certbot renews what a running daemon serves, as etc/certbot/ says, and only those who look can tell."""

import asyncio
import contextlib
import grp
import os
import pwd
import subprocess
import sys
import sysconfig
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import StartDaemon
from support.acme import AcmeAuthority, missing
from support.daemon import SOURCE_ROOT, Daemon
from support.generations import API_KEY
from support.live import Connection, live_site, serial_of, shown_serial

ROOT = Path(__file__).parents[1]
HOOK = ROOT / "etc/certbot/certbot-deploy-hook"
RENEWALS = 2
SERVICE = pwd.getpwnam("nobody")
PYTHON_PATH = {"PYTHONPATH": os.pathsep.join([str(SOURCE_ROOT), sysconfig.get_path("platlib")])}

pytestmark = [
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
    pytest.mark.timeout(120),
]


class Load:
    """A client that opens connections and one that keeps its own, until told to stop; no request may fail."""

    def __init__(self, daemon: Daemon, authority: AcmeAuthority) -> None:
        self._daemon = daemon
        self._trust = authority.trust
        self._running = True
        self.counts: Counter[str] = Counter()
        self.serials: set[int] = set()

    def stop(self) -> None:
        self._running = False

    async def open_and_ask(self) -> None:
        while self._running:
            async with Connection.to(self._daemon, self._trust) as client:
                self.serials.add(client.serial)
                await self._ask(client, "new")

    async def keep_asking(self) -> None:
        async with Connection.to(self._daemon, self._trust) as client:
            while self._running:
                await self._ask(client, "kept")

    async def _ask(self, client: Connection, kind: str) -> None:
        assert (await client.ask()).status == 200
        self.counts[kind] += 1
        await asyncio.sleep(0.005)


@pytest.fixture
async def authority(tmp_path: Path) -> AsyncIterator[AcmeAuthority]:
    async with AcmeAuthority.running(tmp_path / "acme") as authority:
        yield authority


def site_of(authority: AcmeAuthority, folder: Path, **sections: Mapping[str, Any]) -> Path:
    """Settings that name certbot's own files, as etc/certbot/README.md says; no timer could help."""
    live = authority.live
    tls = {"cert": f"{live}/fullchain.pem", "key": f"{live}/privkey.pem", "cert_ttl": None}
    return live_site(folder, tls=tls, **sections).file


async def renew(authority: AcmeAuthority, daemon: Daemon) -> None:
    """A renewal that is served by itself, as one change of certificate."""
    since = daemon.mark()
    await authority.renew()
    applied = await daemon.event("reload.applied", since=since)
    assert int(str(serial_of(applied)), 16) == authority.serial
    assert await shown_serial(daemon, authority.trust) == authority.serial
    assert daemon.told("reload.refused") == []


async def test_each_renewal_is_served_by_the_same_process_and_no_request_fails(
    authority: AcmeAuthority, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    own_group = grp.getgrgid(os.getegid()).gr_name
    await authority.issue("--deploy-hook", f"{HOOK} {own_group}")
    daemon = await start_daemon(site_of(authority, tmp_path), secrets=[API_KEY])
    load, serials = Load(daemon, authority), {authority.serial}
    async with asyncio.TaskGroup() as group:
        group.create_task(load.open_and_ask())
        group.create_task(load.keep_asking())
        for _ in range(RENEWALS):
            await renew(authority, daemon)
            serials.add(authority.serial)
        load.stop()
    assert len(serials) == RENEWALS + 1
    assert load.serials == serials
    assert min(load.counts.values()) > RENEWALS
    assert daemon.process.poll() is None
    assert len(daemon.told("daemon.started")) == 1
    for failure in ("tls.handshake_failed", "upstream.failed", "auth.denied"):
        assert daemon.told(failure) == []


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user reaches, unlike `tmp_path`."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


@pytest.fixture
def as_service() -> tuple[str, ...]:
    """A command before others: they run as the service's user, who must reach Python and the sources."""
    if os.geteuid() != 0:
        pytest.skip("becomes another user, which needs root")
    become = ("setpriv", f"--reuid={SERVICE.pw_uid}", f"--regid={SERVICE.pw_gid}", "--clear-groups")
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        # As setpriv's own child Python may come from where that user reaches nothing; its workers may not.
        again = (
            "import rekeyd.cli, aiohttp, subprocess, sys; subprocess.run([sys.executable, '-V'], check=True)"
        )
        trial = [*become, python, "-c", again]
        with contextlib.suppress(OSError):
            if subprocess.run(trial, env=PYTHON_PATH, capture_output=True, check=False).returncode == 0:
                return (*become, python)
    pytest.skip("another user reaches no Python of this version, or not the sources")


async def test_the_service_reads_each_new_key_through_its_group_and_nobody_else_does(
    open_folder: Path, as_service: tuple[str, ...], start_daemon: StartDaemon
) -> None:
    group = grp.getgrgid(SERVICE.pw_gid).gr_name
    async with AcmeAuthority.running(open_folder / "acme") as authority:
        await authority.issue("--deploy-hook", f"{HOOK} {group}")
        file = own_site(authority, open_folder / "site")
        serve = (*as_service, "-m", "rekeyd", "serve", "-c")
        daemon = await start_daemon(file, secrets=[API_KEY], command=serve, environ=PYTHON_PATH)
        assert Path(f"/proc/{daemon.pid}").stat().st_uid == SERVICE.pw_uid
        await renew(authority, daemon)
        assert daemon.told("setup.doubtful") == []
        keys = sorted(authority.archive.glob("privkey*.pem"))
        assert len(keys) == 2
        for key in keys:
            assert (key.stat().st_uid, key.stat().st_mode & 0o777) == (0, 0o640)
            assert may_read(key, gid=SERVICE.pw_gid)
            assert not may_read(key, gid=SERVICE.pw_gid - 1)
        for folder in (authority.live.parent, authority.archive.parent):
            assert folder.stat().st_mode & 0o777 == 0o710


def own_site(authority: AcmeAuthority, folder: Path) -> Path:
    """Settings in a folder of the service's."""
    folder.mkdir()
    file = site_of(authority, folder)
    for path in (folder, *folder.iterdir()):
        os.chown(path, SERVICE.pw_uid, SERVICE.pw_gid)
    return file


def may_read(path: Path, *, gid: int) -> bool:
    """Whether the service's user in this group alone can."""
    tried = subprocess.run(
        ["cat", path], user=SERVICE.pw_uid, group=gid, extra_groups=[], capture_output=True, check=False
    )
    return tried.returncode == 0
