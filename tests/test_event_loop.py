"""Which event loop is chosen, and that the daemon runs on it."""

import asyncio
from pathlib import Path

import pytest
import uvloop

from conftest import StartDaemon
from rekeyd.errors import SettingsError
from rekeyd.system.event_loop import loop_factory
from support.generations import API_KEY
from support.live import Connection, live_site


def test_uvloop_is_taken_where_there_is_one() -> None:
    assert loop_factory({}) is uvloop.new_event_loop
    assert loop_factory({"REKEYD_LOOP": "uvloop"}) is uvloop.new_event_loop


def test_the_standard_loop_is_taken_where_there_is_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    assert loop_factory({}) is asyncio.new_event_loop


def test_the_standard_loop_can_be_asked_for() -> None:
    assert loop_factory({"REKEYD_LOOP": "asyncio"}) is asyncio.new_event_loop


def test_a_loop_that_is_asked_for_and_is_not_there_is_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SettingsError, match="no event loop 'trio'"):
        loop_factory({"REKEYD_LOOP": "trio"})
    monkeypatch.setitem(__import__("sys").modules, "uvloop", None)
    with pytest.raises(SettingsError, match="not installed"):
        loop_factory({"REKEYD_LOOP": "uvloop"})


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
async def test_the_daemon_runs_on_the_loop_that_is_asked_for(
    tmp_path: Path, start_daemon: StartDaemon, loop: str
) -> None:
    site = live_site(tmp_path)
    daemon = await start_daemon(site.file, secrets=[API_KEY], environ={"REKEYD_LOOP": loop})
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask("/collections")).status == 200
    maps = Path(f"/proc/{daemon.pid}/maps").read_text()
    assert ("uvloop" in maps) is (loop == "uvloop")
