"""What the service manager keeps: always one, the latest, and nothing that is of no use."""

import os
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.reload.contexts import serving_of
from rekeyd.reload.disk import Disk
from rekeyd.reload.sealed import seal
from rekeyd.reload.snapshot import Snapshot
from rekeyd.reload.vault import PREFIX, Vault, is_kept
from rekeyd.settings import Settings
from rekeyd.system.sealed_memory import sealed
from support.generations import API_KEY, Site
from support.manager import ServiceManager
from support.pki import DAY, now
from support.waiting import eventually

Logs = list[Any]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
async def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify.sock", room=2) as manager:
        monkeypatch.setenv("NOTIFY_SOCKET", str(manager.path))
        yield manager


@pytest.fixture
def logs() -> Iterator[Logs]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


def loaded(site: Site) -> tuple[Settings, Snapshot]:
    disk = Disk(site.file, {})
    settings, snapshot = disk.load().settings, disk.take_snapshot()
    assert snapshot is not None
    return settings, snapshot


def handed_over(manager: ServiceManager) -> dict[str, int]:
    """What a process gets that is started now: descriptors of its own."""
    return {name: os.dup(descriptor) for name, descriptor in manager.kept.items()}


async def emptied(manager: ServiceManager) -> None:
    await eventually(lambda: not manager.kept)


async def test_each_generation_takes_the_place_of_the_former_and_there_is_always_one(
    site: Site, manager: ServiceManager
) -> None:
    vault = Vault({}, manager.environ)
    _, snapshot = loaded(site)
    for number in range(1, 6):
        await vault.keep(snapshot, {}, number)
        await manager.told(lambda message: "FDSTORE" in message)
    await eventually(lambda: len(manager.kept) == 1)
    assert manager.least == 1

    running, _ = loaded(site)
    restored = Vault(handed_over(manager), manager.environ).restore(running, serving_of)

    assert restored is not None
    assert (restored.number, restored.serving.generation.number) == (5, 1)
    assert restored.serving.generation.certificates[0].leaf.sha256 == site.leaf.fingerprint
    assert time.time() - restored.at < 60


async def test_of_two_the_latest_is_believed_and_the_other_taken_away(
    site: Site, manager: ServiceManager
) -> None:
    running, early = loaded(site)
    late = site.rotate()
    handed = {
        f"{PREFIX}99": seal(early, {}, number=1),
        f"{PREFIX}100": seal(loaded(site)[1], {}, number=2),
        f"{PREFIX}of-old": os.open(os.devnull, os.O_RDONLY),
    }

    restored = Vault(handed, manager.environ).restore(running, serving_of)

    assert restored is not None
    assert restored.serving.generation.certificates[0].leaf.sha256 == late.fingerprint
    forgotten = {(await manager.told(lambda message: "FDSTOREREMOVE" in message))["FDNAME"] for _ in range(2)}
    assert forgotten == {f"{PREFIX}99", f"{PREFIX}of-old"}


async def test_what_has_expired_meanwhile_is_served_as_it_would_have_been(
    site: Site, manager: ServiceManager
) -> None:
    site.rotate(not_before=now() - 2 * DAY, not_after=now() - DAY)
    running, snapshot = loaded(site)
    vault = Vault({f"{PREFIX}1": seal(snapshot, {}, number=1)}, manager.environ)
    assert vault.restore(running, serving_of) is not None


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda _: sealed("test", [b"rekeyd generation 2\n"]), "another version"),
        (lambda _: os.memfd_create("test"), "not sealed"),
        (lambda _: os.open(os.devnull, os.O_RDONLY), "no sealed memory"),
    ],
)
async def test_what_is_of_no_use_is_told_and_taken_away(
    make: Callable[[Site], int],
    problem: str,
    site: Site,
    manager: ServiceManager,
    logs: Logs,
) -> None:
    vault = Vault({f"{PREFIX}1": make(site)}, manager.environ)

    assert vault.restore(loaded(site)[0], serving_of) is None

    [line] = logs
    assert (line["event"], line["log_level"]) == ("generation.unusable", "warning")
    assert problem in str(line["problem"])
    assert not vault.holds_one
    assert (await manager.told(lambda message: "FDSTOREREMOVE" in message))["FDNAME"] == f"{PREFIX}1"


async def test_an_error_that_nobody_expected_tells_nothing_but_its_kind(
    site: Site, manager: ServiceManager, logs: Logs
) -> None:
    running, snapshot = loaded(site)

    def build(_: object) -> NoReturn:
        raise LookupError(API_KEY)

    vault = Vault({f"{PREFIX}1": seal(snapshot, {}, number=1)}, manager.environ)
    assert vault.restore(running, build) is None
    assert "LookupError" in str(logs)
    assert API_KEY not in str(logs)


async def test_where_the_new_one_can_not_be_kept_the_former_one_goes_all_the_same(
    site: Site, manager: ServiceManager, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault, (_, snapshot) = Vault({}, manager.environ), loaded(site)
    await vault.keep(snapshot, {}, 1)
    await eventually(lambda: len(manager.kept) == 1)
    monkeypatch.setattr("rekeyd.reload.sealed.LARGEST", 10)

    await vault.keep(snapshot, {}, 2)

    await emptied(manager)
    assert [line["event"] for line in logs] == ["generation.unkept"]
    assert not vault.holds_one


async def test_a_service_manager_that_is_gone_is_told_of(
    site: Site, manager: ServiceManager, logs: Logs
) -> None:
    vault, (_, snapshot) = Vault({}, manager.environ), loaded(site)
    manager.path.unlink()

    await vault.keep(snapshot, {}, 1)

    assert [line["event"] for line in logs] == ["generation.unkept"]


@pytest.mark.parametrize("room", ["", "0", "1", "many"])
async def test_without_room_for_two_nothing_is_kept_and_nothing_believed(
    room: str, site: Site, manager: ServiceManager
) -> None:
    running, snapshot = loaded(site)
    handed = {f"{PREFIX}1": seal(snapshot, {}, number=1)}

    vault = Vault(handed, {**manager.environ, "FDSTORE": room})

    assert not vault.is_open
    assert not vault.holds_one
    assert vault.restore(running, serving_of) is None


async def test_no_descriptor_is_left_open(site: Site, manager: ServiceManager) -> None:
    running, snapshot = loaded(site)
    before = len(os.listdir("/proc/self/fd"))  # noqa: PTH208 - a count is all that is wanted
    vault = Vault({f"{PREFIX}1": seal(snapshot, {}, number=1)}, manager.environ)
    vault.restore(running, serving_of)
    await vault.keep(snapshot, {}, 1)
    await manager.told(lambda message: "FDSTOREREMOVE" in message)
    assert len(os.listdir("/proc/self/fd")) == before + len(manager.kept)  # noqa: PTH208 - as above


def test_what_was_kept_for_us_is_told_from_sockets() -> None:
    assert is_kept(f"{PREFIX}1")
    assert not is_kept("http")
