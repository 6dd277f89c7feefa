"""The start: a renewal that was cut short heals by itself, a mistake in the settings does not wait."""

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.errors import SettingsError
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.reload.outcome import Outcome, Result
from rekeyd.reload.reloader import Reloader
from rekeyd.reload.starting import first_generation, settings_to_start_with
from support.generations import Site
from support.pki import replace_file, write_in_place, write_torn
from support.waiting import eventually

Logs = list[Any]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def logs() -> Iterator[Logs]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


def reloader_of(site: Site, *, start_wait: float, current: Current | None = None) -> Reloader:
    return Reloader(current or Current(), site.disk.load, serving_of, start_wait=start_wait)


def truncate(site: Site) -> None:
    write_torn(site.cert, site.cert.read_bytes())


def put_another_key(site: Site) -> None:
    replace_file(site.key, site.authority.issue().key_pem)


def remove_the_key(site: Site) -> None:
    site.key.unlink()


def empty_both(site: Site) -> None:
    write_in_place(site.cert, b"")
    write_in_place(site.key, b"")


SPOILED = pytest.mark.parametrize("spoil", [truncate, put_another_key, remove_the_key, empty_both])


@SPOILED
def test_the_settings_are_had_while_what_they_name_is_not(spoil: Callable[[Site], None], site: Site) -> None:
    site.configure(tls={"start_wait": 7})
    spoil(site)

    assert settings_to_start_with(site.disk).settings.tls.start_wait == 7


@pytest.mark.parametrize(
    "source", [b"service: [", b"service: {htp_port: 1}", b"", b"service: {enable_tls: maybe}"]
)
def test_a_mistake_in_the_settings_file_is_told_at_once(source: bytes, site: Site) -> None:
    remove_the_key(site)
    write_in_place(site.file, source)

    with pytest.raises(SettingsError):
        settings_to_start_with(site.disk)


def test_a_settings_file_that_is_missing_is_told_at_once(site: Site) -> None:
    site.file.unlink()

    with pytest.raises(SettingsError, match="does not exist"):
        settings_to_start_with(site.disk)


def test_a_mistake_in_a_policy_is_told_at_once(site: Site) -> None:
    (site.folder / "policy.yaml").write_text("rights: {nonsense: read}")
    site.configure(access={"policy": "policy.yaml"})

    with pytest.raises(SettingsError, match="is no route"):
        settings_to_start_with(site.disk)


async def test_good_material_is_served_at_once(site: Site, logs: Logs) -> None:
    outcome = await first_generation(reloader_of(site, start_wait=30), site.disk)

    assert (outcome.result, outcome.trigger, outcome.generation) == (Result.APPLIED, "start", 1)


@SPOILED
async def test_material_that_is_mended_is_served_soon(
    spoil: Callable[[Site], None], site: Site, logs: Logs
) -> None:
    good = site.leaf
    spoil(site)
    current = Current()
    start = asyncio.create_task(
        first_generation(reloader_of(site, start_wait=30, current=current), site.disk)
    )
    await settling(logs)

    good.write(site.folder)
    mended = time.monotonic()
    outcome = await start

    assert (outcome.result, current.number) == (Result.APPLIED, 1)
    assert time.monotonic() - mended < 1
    assert not [line for line in logs if line["log_level"] == "error"]


async def settling(logs: Logs) -> None:
    await eventually(lambda: "reload.settling" in [line["event"] for line in logs])


async def test_material_that_is_not_mended_is_refused_with_the_reason(site: Site, logs: Logs) -> None:
    truncate(site)
    began = time.monotonic()

    outcome = await first_generation(reloader_of(site, start_wait=1), site.disk)

    assert outcome.refused
    assert [finding.rule for finding in outcome.findings] == ["truncated_pem"]
    assert 1 <= time.monotonic() - began < 2
    assert [line["event"] for line in logs if line["log_level"] == "error"] == ["reload.refused"]


async def test_what_time_does_not_mend_is_refused_at_once(site: Site, logs: Logs) -> None:
    site.rotate(key="rsa1024")
    began = time.monotonic()

    assert (await first_generation(reloader_of(site, start_wait=30), site.disk)).refused
    assert time.monotonic() - began < 2


async def test_settings_that_break_while_the_start_waits_end_it(site: Site, logs: Logs) -> None:
    truncate(site)
    start = asyncio.create_task(first_generation(reloader_of(site, start_wait=30), site.disk))
    await settling(logs)

    write_in_place(site.file, b"service: {htp_port: 1}")

    async with asyncio.timeout(3):
        outcome = await start
    assert outcome.refused
    assert outcome.problems


async def test_a_start_that_failed_asks_no_more(site: Site, logs: Logs) -> None:
    truncate(site)
    reloader = reloader_of(site, start_wait=0)
    outcomes: list[Outcome] = []
    reloader._on_outcome.append(outcomes.append)

    await first_generation(reloader, site.disk)

    assert len(outcomes) == 1
    assert reloader._timer is None
    assert [task for task in asyncio.all_tasks() if task is not asyncio.current_task()] == []
