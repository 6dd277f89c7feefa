"""When a key was used, as the real daemon tells it: status, metrics, after a restart and after a crash."""

import asyncio
import datetime as dt
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from conftest import StartDaemon
from rekeyd.system.admin_client import ask
from rekeyd.telemetry.evidence import usage_in
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import Connection, live_site
from support.secrets import Ledger
from support.waiting import eventually
from test_log_metric_event_and_status_agree import scraped

READER = "a-made-up-key-that-only-reads-things"


async def used(daemon: Daemon, site: Site) -> None:
    """Twice with the one key; with the other once for too much, and never as a use."""
    async with Connection.to(daemon, site.authority) as client:
        for _ in range(2):
            assert (await client.ask()).status == 200
        assert (await client.ask("/collections/x", method="DELETE", key=READER)).status == 403
        assert (await client.ask("/healthz", key=READER)).status == 200, "open to all, so no use of a key"
    await daemon.event("auth.denied")


async def shown(daemon: Daemon) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """Keys by their id, and what is said of evidence as a whole."""
    _, status = await asyncio.to_thread(ask, Path(daemon.started["admin"]), "GET", "/status")
    return {key["id"]: key for key in status["keys"]}, status["evidence"]


def in_file(folder: Path) -> int:
    usage = usage_in((folder / "usage.json").read_bytes())
    return usage.keys["api_key"].allowed if "api_key" in usage.keys else 0


async def test_what_is_told_of_a_key_is_the_same_after_a_restart(
    start_daemon: StartDaemon, tmp_path: Path, ledger: Ledger
) -> None:
    site = live_site(tmp_path, service={"read_only_api_key": READER}, metrics={"port": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY, READER])
    before = time.time()
    await used(daemon, site)
    keys, evidence = await shown(daemon)
    assert (keys["api_key"]["allowed"], keys["api_key"]["denied"]) == (2, {})
    assert (keys["read_only_api_key"]["allowed"], keys["read_only_api_key"]["last_used"]) == (0, None)
    assert keys["read_only_api_key"]["denied"] == {"right_too_small": 1}
    assert evidence["directory"] == str(tmp_path / "state")
    last = dt.datetime.fromisoformat(keys["api_key"]["last_used"]).timestamp()
    assert before <= last <= time.time()
    counted = (await scraped(daemon)).counter("rekeyd_key_last_used_timestamp_seconds")
    assert counted == {("api_key",): pytest.approx(last, abs=1e-3)}
    await daemon.stop()

    again = await start_daemon(site.file)
    keys_again, evidence_again = await shown(again)
    assert keys_again["api_key"]["allowed"] == 2
    assert keys_again["read_only_api_key"] == keys["read_only_api_key"]
    assert evidence_again["since"][:19] == evidence["since"][:19]
    await used(again, site)
    assert (await shown(again))[0]["api_key"]["allowed"] == 4
    for secret in (API_KEY, READER):
        assert secret not in (tmp_path / "state" / "usage.json").read_text()


QUICKLY = """
import sys
from rekeyd.telemetry import keeping
keeping.Keeper.__init__.__kwdefaults__["every"] = 0.05
from rekeyd.__main__ import run
run()
"""


async def test_a_crash_takes_no_more_than_what_was_new_since_the_last_writing(
    tmp_path: Path, ledger: Ledger
) -> None:
    site = live_site(tmp_path)
    ledger.add(API_KEY, site.file.name)
    crashed = Daemon([sys.executable, "-c", QUICKLY, "serve", "-c", str(site.file)], ledger=ledger)
    try:
        await crashed.event("daemon.started")
        async with Connection.to(crashed, site.authority) as client:
            for _ in range(5):
                await client.ask()
        await eventually(lambda: in_file(tmp_path / "state") == 5)
        crashed.signal(signal.SIGKILL)
        await crashed.exited()
    finally:
        crashed.kill()
    async with Daemon.running(ledger, site.file) as daemon:
        assert (await shown(daemon))[0]["api_key"]["allowed"] == 5


async def test_a_second_daemon_with_the_same_folder_does_not_start(
    start_daemon: StartDaemon, tmp_path: Path, ledger: Ledger
) -> None:
    site = live_site(tmp_path)
    await start_daemon(site.file, secrets=[API_KEY])
    second = Daemon([sys.executable, "-m", "rekeyd", "serve", "-c", str(site.file)], ledger=ledger)
    try:
        assert await second.exited() == 1
        (failed,) = second.told("daemon.failed")
        assert "state.directory: another daemon keeps its state there" in failed["problem"]
    finally:
        second.kill()


async def test_evidence_that_is_damaged_keeps_no_daemon_from_starting(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "usage.json").write_bytes(b'{"version":1,"since":17')
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    (told,) = daemon.told("evidence.damaged")
    assert Path(told["set_aside"]).exists()


async def test_systemd_s_folder_is_the_default_and_to_do_without_one_is_a_warning(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path)
    site.configure(admin={"socket": "admin.sock"})
    (tmp_path / "given").mkdir()
    given = {"STATE_DIRECTORY": f"{tmp_path}/given:{tmp_path}/other"}
    daemon = await start_daemon(site.file, secrets=[API_KEY], environ=given)
    assert (await shown(daemon))[1]["directory"] == str(tmp_path / "given")
    await daemon.stop()
    daemon = await start_daemon(site.file, environ={"STATE_DIRECTORY": f"{tmp_path}/absent"})
    assert (await shown(daemon))[1]["directory"] is None
    (told,) = daemon.told("state.off")
    assert "absent" in told["problem"]


async def test_a_person_is_told_too(start_daemon: StartDaemon, tmp_path: Path) -> None:
    site = live_site(tmp_path, service={"read_only_api_key": READER})
    daemon = await start_daemon(site.file, secrets=[API_KEY, READER])
    await used(daemon, site)
    command = [sys.executable, "-m", "rekeyd", "status", "--socket", daemon.started["admin"]]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=True)
    assert "api_key (manage): last used 2" in done.stdout
    assert f"kept in {tmp_path / 'state'}" in done.stdout
    assert "read_only_api_key (read): not used; denied: 1 right too small" in done.stdout
