"""Evidence in a real file; that a daemon restores it is seen in `test_evidence_outlives_the_daemon`."""

import json
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.errors import SettingsError
from rekeyd.settings import State
from rekeyd.system.state import take
from rekeyd.telemetry.decisions import Decision
from rekeyd.telemetry.evidence import Evidence
from rekeyd.telemetry.keeping import Keeper, keep
from support.waiting import eventually
from test_evidence import BEGAN, generation_of

USED = Decision("allowed", "key", "a")
FOREVER = 3600.0


@pytest.fixture
def said() -> Iterator[list[Any]]:
    structlog.reset_defaults()
    with capture_logs() as said:
        yield said


def evidence_of(now: float = BEGAN) -> Evidence:
    generation = generation_of("abc")
    return Evidence(lambda: generation, now=lambda: now)


@asynccontextmanager
async def kept(folder: Path, evidence: Evidence, every: float = FOREVER) -> AsyncIterator[Keeper]:
    keeper = Keeper(evidence, take(folder, make=True), every=every)
    keeper.restore()
    keeper.start()
    yield keeper
    await keeper.close()


def document(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "usage.json").read_bytes())
    return found


async def test_a_clean_stop_keeps_everything_and_the_next_start_goes_on(tmp_path: Path) -> None:
    async with kept(tmp_path, evidence := evidence_of()):
        evidence.decided(USED)
        evidence.decided(USED)
    again = evidence_of(BEGAN + 50)
    async with kept(tmp_path, again):
        assert again.of("a").allowed == 2
        again.decided(USED)
    assert document(tmp_path)["since"] == BEGAN
    assert document(tmp_path)["keys"]["a"] == {
        "first_used": BEGAN,
        "last_used": BEGAN + 50,
        "allowed": 3,
        "denied": {},
    }


async def test_the_first_start_notes_at_once_since_when_evidence_is_complete(tmp_path: Path) -> None:
    async with kept(tmp_path, evidence_of()):
        await eventually((tmp_path / "usage.json").exists)
        assert document(tmp_path) == {"version": 1, "since": BEGAN, "keys": {}}


async def test_what_is_new_is_written_again_and_again_and_nothing_where_nothing_is_new(
    tmp_path: Path,
) -> None:
    async with kept(tmp_path, evidence := evidence_of(), every=0.01) as keeper:
        for count in range(1, 4):
            evidence.decided(USED)
            await eventually(lambda: keeper._written == evidence.changes)
            assert document(tmp_path)["keys"]["a"]["allowed"] == count
        inode = (tmp_path / "usage.json").stat().st_ino
    assert (tmp_path / "usage.json").stat().st_ino == inode


async def test_what_a_crash_left_half_written_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".usage.json.rekeyd-new").write_bytes(b"{")
    async with kept(tmp_path, evidence_of()) as keeper:
        assert keeper.kept_in == tmp_path
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "usage.json"]


@pytest.mark.parametrize("source", [b"", b"{", b"not ours at all", b'{"version":1}'])
async def test_a_file_that_is_torn_or_foreign_is_set_aside_with_a_warning(
    tmp_path: Path, said: list[Any], source: bytes
) -> None:
    (tmp_path / "usage.json").write_bytes(source)
    async with kept(tmp_path, evidence := evidence_of()):
        evidence.decided(USED)
    (line,) = said
    assert (line["event"], line["log_level"]) == ("evidence.damaged", "warning")
    assert (tmp_path / "usage.json.damaged").read_bytes() == source
    assert document(tmp_path)["keys"]["a"]["allowed"] == 1


async def test_a_file_by_a_later_version_is_left_alone(tmp_path: Path, said: list[Any]) -> None:
    later = b'{"version":2,"more":"than we know"}'
    (tmp_path / "usage.json").write_bytes(later)
    async with kept(tmp_path, evidence := evidence_of(), every=0.01) as keeper:
        evidence.decided(USED)
        assert evidence.of("a").allowed == 1
        assert keeper.kept_in is None
    assert (tmp_path / "usage.json").read_bytes() == later
    assert [line["event"] for line in said] == ["evidence.unkept"]


@pytest.mark.parametrize("what", ["link", "folder", "fifo"])
async def test_what_is_no_file_in_its_place_holds_up_no_start(
    tmp_path: Path, said: list[Any], what: str
) -> None:
    place = tmp_path / "usage.json"
    if what == "link":
        (tmp_path / "elsewhere").write_bytes(b"somebody's")
        place.symlink_to("elsewhere")
    elif what == "folder":
        place.mkdir()
    else:
        os.mkfifo(place)
    async with kept(tmp_path, evidence := evidence_of()):
        evidence.decided(USED)
    assert len(said) == 1
    if what == "link":
        assert (tmp_path / "elsewhere").read_bytes() == b"somebody's"


async def test_a_fifo_that_somebody_writes_into_holds_up_no_start(tmp_path: Path, said: list[Any]) -> None:
    os.mkfifo(tmp_path / "usage.json")
    somebody = os.open(tmp_path / "usage.json", os.O_RDWR)
    before = len(list(Path("/proc/self/fd").iterdir()))
    async with kept(tmp_path, evidence_of()) as keeper:
        assert keeper.kept_in is None
    assert [line["event"] for line in said] == ["evidence.unkept"]
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    os.close(somebody)


async def test_a_machine_that_has_no_thread_to_give_does_not_spoil_the_stop(
    tmp_path: Path, said: list[Any]
) -> None:
    async def no_thread(_work: object) -> None:
        raise RuntimeError("can't start new thread")

    with pytest.MonkeyPatch.context() as patch:
        async with kept(tmp_path, evidence := evidence_of()) as keeper:
            patch.setattr("asyncio.to_thread", no_thread)
            evidence.decided(USED)
            await keeper._write()
        assert [line["problem"] for line in said] == ["can't start new thread"]
    take(tmp_path, make=False).leave()  # the folder is free


async def test_a_folder_that_is_gone_is_told_once_and_written_when_it_is_back(
    tmp_path: Path, said: list[Any]
) -> None:
    folder = tmp_path / "state"
    async with kept(folder, evidence := evidence_of(), every=0.01) as keeper:
        await eventually(lambda: keeper._written == 0)
        folder.rename(tmp_path / "moved")
        for _ in range(3):
            evidence.decided(USED)
            await keeper._write()
        assert [line["event"] for line in said] == ["evidence.unkept"]
        (tmp_path / "moved").rename(folder)
        await eventually(lambda: keeper._written == evidence.changes)
    assert document(folder)["keys"]["a"]["allowed"] == 3


async def test_a_default_that_can_not_be_had_is_a_warning_and_a_folder_that_was_asked_for_is_not(
    tmp_path: Path, said: list[Any]
) -> None:
    absent = str(tmp_path / "absent")
    assert await keep(evidence_of(), State(), {"STATE_DIRECTORY": absent}) is None
    assert [line["event"] for line in said] == ["state.off"]
    assert absent in said[0]["problem"]
    (tmp_path / "file").touch()
    with pytest.raises(SettingsError, match=r"state\.directory"):
        await keep(evidence_of(), State(directory=tmp_path / "file"), {})
    assert await keep(evidence_of(), State(directory=None), {}) is None
