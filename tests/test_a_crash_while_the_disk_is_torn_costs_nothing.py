"""The real process, killed while its files are torn: the next one serves what was good, and says so."""

import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from conftest import StartDaemon
from rekeyd.reload.sealed import seal
from rekeyd.reload.vault import PREFIX
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import Connection, configure, live_site, shown_serial, trusting
from support.manager import ServiceManager
from support.pki import write_torn
from support.secrets import Ledger
from support.waiting import eventually


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify.sock", room=2) as manager:
        yield manager


def start(site: Site, manager: ServiceManager, ledger: Ledger) -> Daemon:
    """As the service manager starts it, whatever becomes of it."""
    ledger.add(API_KEY, site.file.name)
    command = [sys.executable, "-X", "faulthandler", "-m", "rekeyd", "serve", "-c", str(site.file)]
    return Daemon(command, ledger=ledger, environ=manager.environ, descriptors=manager.kept)


async def crashed(site: Site, manager: ServiceManager, ledger: Ledger) -> None:
    """A daemon that served the site, was kept, and is gone without a word."""
    before = set(manager.kept)
    daemon = start(site, manager, ledger)
    try:
        await daemon.event("daemon.started")
        await eventually(lambda: len(manager.kept) == 1 and manager.kept.keys() != before)
        daemon.process.kill()
        assert await daemon.exited() == -signal.SIGKILL
    finally:
        daemon.kill()


def keep(site: Site, manager: ServiceManager) -> None:
    """What such a daemon would have had kept, without the daemon."""
    site.disk.load()
    snapshot = site.disk.take_snapshot()
    assert snapshot is not None
    manager.kept[f"{PREFIX}1"] = seal(snapshot, {}, number=4)
    manager.least = 1


def torn_certificate(site: Site) -> None:
    write_torn(site.cert, site.leaf.chain_pem)


def gone_key(site: Site) -> None:
    site.key.unlink()


def weak_certificate(site: Site) -> None:
    site.rotate(key="rsa1024")


@pytest.mark.parametrize("spoil", [torn_certificate, gone_key, weak_certificate])
async def test_what_was_good_is_served_at_once_and_the_disk_as_soon_as_it_is_mended(
    spoil: Callable[[Site], None], tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    site = live_site(tmp_path)
    good = site.leaf
    keep(site, manager)
    spoil(site)
    daemon = start(site, manager, ledger)
    try:
        restored = await daemon.event("generation.restored")
        assert (restored["level"], restored["generation"], restored["was"]) == ("warning", 1, 4)
        await daemon.event("daemon.started")
        async with Connection.to(daemon, site.authority) as client:
            assert client.serial == good.serial
            assert (await client.ask()).status == 200
        assert not daemon.told("reload.applied")

        mended = site.rotate()
        await daemon.event("reload.applied", generation=2)
        assert await shown_serial(daemon, trusting(site.authority)) == mended.serial
        await daemon.stop()
        assert len(manager.kept) == 1
        assert manager.least == 1
    finally:
        daemon.kill()
    daemon.assert_nothing_leaked()


async def test_a_daemon_that_was_killed_is_followed_by_one_that_serves_the_same(
    tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    site = live_site(tmp_path)
    await crashed(site, manager, ledger)
    torn_certificate(site)
    daemon = start(site, manager, ledger)
    try:
        await daemon.event("daemon.started")
        assert await shown_serial(daemon, trusting(site.authority)) == site.leaf.serial
        assert daemon.told("generation.restored")
        await daemon.stop()
    finally:
        daemon.kill()


async def test_it_goes_on_as_after_any_reload_that_was_refused(
    tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    site = live_site(tmp_path, tls={"settle": 0.2})
    keep(site, manager)
    torn_certificate(site)
    configure(site, tls={"settle": 0.2}, service={"max_request_size_mb": 7})
    daemon = start(site, manager, ledger)
    try:
        settling = await daemon.event("reload.settling")
        assert settling["generation"] == 1
        refused = await daemon.event("reload.refused", generation=1)
        assert [finding["rule"] for finding in refused["findings"]] == ["truncated_pem"]
        await daemon.event("daemon.started")
        told = await manager.told(lambda message: "refused" in message.get("STATUS", ""))
        assert told["STATUS"].startswith("generation 1, ")
        daemon.signal(signal.SIGHUP)
        await daemon.event("reload.refused", trigger="sighup")
        await daemon.stop()
    finally:
        daemon.kill()


async def test_a_start_that_failed_before_is_none_any_more_and_does_not_wait(
    tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    """Such as a policy that makes no sense: now it is a reload that was refused."""
    (tmp_path / "policy.yaml").write_text("rights: {GET /collections: read}")
    site = live_site(tmp_path, access={"policy": "policy.yaml"}, tls={"start_wait": 3600})
    keep(site, manager)
    (tmp_path / "policy.yaml").write_text("rights: {nonsense: read}")
    daemon = start(site, manager, ledger)
    try:
        await daemon.event("daemon.started")
        assert daemon.told("generation.restored")
        assert "is no route" in str(daemon.told("reload.refused")[0]["findings"])
        await daemon.stop()
    finally:
        daemon.kill()


async def test_what_only_a_restart_changes_is_as_the_file_says_now(
    tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    site = live_site(tmp_path)
    keep(site, manager)
    configure(site, service={"host": "127.0.0.2"})
    torn_certificate(site)
    daemon = start(site, manager, ledger)
    try:
        await daemon.event("daemon.started")
        assert daemon.started["listeners"][0]["host"] == "127.0.0.2"
        await daemon.stop()
    finally:
        daemon.kill()


async def test_settings_that_are_wrong_are_for_a_person_whatever_is_kept(
    tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    site = live_site(tmp_path)
    keep(site, manager)
    configure(site, service={"htp_port": 1})
    daemon = start(site, manager, ledger)
    try:
        assert await daemon.exited() == 2
    finally:
        daemon.kill()
    assert "htp_port" in daemon.stderr
    assert len(manager.kept) == 1


async def test_where_the_disk_is_good_it_wins_and_is_kept_instead(
    tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    site = live_site(tmp_path)
    keep(site, manager)
    [before] = manager.kept
    renewed = site.rotate()
    await crashed(site, manager, ledger)
    [after] = manager.kept
    assert after != before
    torn_certificate(site)
    daemon = start(site, manager, ledger)
    try:
        await daemon.event("daemon.started")
        assert await shown_serial(daemon, trusting(site.authority)) == renewed.serial
        await daemon.stop()
    finally:
        daemon.kill()


async def test_what_is_kept_and_of_no_use_is_told_and_the_files_are_waited_for(
    tmp_path: Path, manager: ServiceManager, ledger: Ledger
) -> None:
    site = live_site(tmp_path, service={"enable_tls": False})
    keep(site, manager)
    configure(site, tls={"start_wait": 0.3})
    torn_certificate(site)
    daemon = start(site, manager, ledger)
    try:
        assert await daemon.exited() == 1
    finally:
        daemon.kill()
    assert "does not hold what the settings name now" in daemon.told("generation.unusable")[0]["problem"]
    assert not daemon.told("generation.restored")


async def test_without_a_store_nothing_is_sealed(tmp_path: Path, start_daemon: StartDaemon) -> None:
    with ServiceManager(tmp_path / "notify.sock") as manager:
        site = live_site(tmp_path)
        daemon = await start_daemon(site.file, secrets=[API_KEY], environ=manager.environ)
        site.rotate()
        await daemon.event("reload.applied", generation=2)
        await manager.told(lambda message: message.get("STATUS", "").startswith("generation 2"))
        assert not [message for message in manager.messages if "FDSTORE" in message]
