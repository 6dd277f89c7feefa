"""The real process, started where a renewal was cut short: it waits, heals by itself, or says why not."""

import asyncio
import signal
import sys
import time
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import live_site, shown_serial, trusting
from support.pki import DAY, now, replace_file, write_in_place, write_torn
from support.secrets import Ledger

GOOD, REFUSED, SETTINGS_WRONG = 0, 1, 2


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return live_site(tmp_path, tls={"start_wait": 1})


def starting(site: Site, ledger: Ledger) -> Daemon:
    """The process, whatever becomes of it."""
    ledger.add(API_KEY, site.file.name)
    command = ("-X", "faulthandler", "-m", "rekeyd", "serve", "-c", str(site.file))
    return Daemon([sys.executable, *command], ledger=ledger)


async def test_a_torn_certificate_is_waited_for_and_served_when_it_is_whole(
    tmp_path: Path, ledger: Ledger
) -> None:
    site = live_site(tmp_path, tls={"start_wait": 20})
    good = site.leaf
    write_torn(site.cert, good.chain_pem)
    site.key.unlink()
    daemon = starting(site, ledger)
    try:
        settling = await daemon.event("reload.settling")
        assert (settling["generation"], settling["level"]) == (None, "warning")
        write_in_place(site.cert, good.chain_pem)
        replace_file(site.key, good.key_pem)
        mended = time.monotonic()

        await daemon.event("reload.applied")
        assert time.monotonic() - mended < 2

        await daemon.event("daemon.started")
        # The processes of several workers begin after that.
        assert daemon.workers > 1 or time.monotonic() - mended < 2
        assert await shown_serial(daemon, trusting(site.authority)) == good.serial
        assert not [event for event in daemon.events if event["level"] == "error"]
        await daemon.stop(status=GOOD)
    finally:
        daemon.kill()


async def test_what_stays_torn_is_refused_with_the_reason(site: Site, ledger: Ledger) -> None:
    write_torn(site.cert, site.leaf.chain_pem)
    daemon = starting(site, ledger)
    try:
        assert await daemon.exited() == REFUSED
    finally:
        daemon.kill()

    [refused] = daemon.told("reload.refused")
    assert refused["level"] == "error"
    assert [finding["rule"] for finding in refused["findings"]] == ["truncated_pem"]
    assert not daemon.told("daemon.started")


async def test_a_file_that_stays_away_is_a_wrong_setting(site: Site, ledger: Ledger) -> None:
    site.key.unlink()
    daemon = starting(site, ledger)
    try:
        assert await daemon.exited() == SETTINGS_WRONG
    finally:
        daemon.kill()

    assert [finding["rule"] for finding in daemon.told("reload.refused")[0]["findings"]] == ["unreadable"]


async def test_a_mistake_in_the_settings_is_not_waited_for(tmp_path: Path, ledger: Ledger) -> None:
    site = live_site(tmp_path, tls={"start_wait": 20, "strat_wait": 1})
    began = time.monotonic()
    daemon = starting(site, ledger)
    try:
        assert await daemon.exited() == SETTINGS_WRONG
    finally:
        daemon.kill()

    assert time.monotonic() - began < 10
    assert "tls.strat_wait" in daemon.stderr


async def test_one_who_waits_can_be_told_to_stop(tmp_path: Path, ledger: Ledger) -> None:
    site = live_site(tmp_path, tls={"start_wait": 20})
    site.key.unlink()
    daemon = starting(site, ledger)
    try:
        await daemon.event("reload.settling")
        daemon.signal(signal.SIGTERM)
        async with asyncio.timeout(5):
            assert await daemon.exited() in {GOOD, -signal.SIGTERM}
    finally:
        daemon.kill()


async def test_a_certificate_near_its_end_is_warned_of_at_the_start(tmp_path: Path, ledger: Ledger) -> None:
    site = live_site(tmp_path)
    leaf = site.rotate(not_before=now() - 84 * DAY, not_after=now() + 6 * DAY)
    daemon = starting(site, ledger)
    try:
        warned = await daemon.event("cert.expiring")
        await daemon.event("daemon.started")
        await daemon.stop()
    finally:
        daemon.kill()

    assert (int(warned["serial"], 16), warned["level"]) == (leaf.serial, "warning")
    assert 5.8 < warned["days_left"] <= 6
    assert len(daemon.told("cert.expiring")) == 1
