import signal
from pathlib import Path

import pytest

from rekeyd.workers.member import WorkerError
from support.hands import hand
from support.live import PATIENCE
from support.waiting import eventually


async def test_it_has_a_process_group_of_its_own_and_knows_no_service_manager(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere")
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    async with hand(tmp_path) as one:
        group = Path(f"/proc/{one.member.pid}/stat").read_text().rpartition(")")[2].split()[2]
        assert int(group) == one.member.pid
        environ = Path(f"/proc/{one.member.pid}/environ").read_bytes()
        assert b"NOTIFY_SOCKET" not in environ
        assert b"WATCHDOG_USEC" not in environ


async def test_who_does_not_answer_in_time_is_killed(tmp_path: Path) -> None:
    async with hand(tmp_path) as one:
        one.signal(signal.SIGSTOP)
        with pytest.raises(WorkerError, match="did not answer within"):
            await one.member.ask("report", within=0.05)
        await eventually(one.ended.is_set, what="its end")
        assert await one.member.gone() == "SIGKILL"


async def test_who_is_gone_can_not_be_asked(tmp_path: Path) -> None:
    async with hand(tmp_path) as one:
        one.signal(signal.SIGKILL)
        await eventually(one.ended.is_set, what="its end")
        with pytest.raises(WorkerError, match="is gone"):
            await one.member.ask("report", within=PATIENCE)


async def test_what_it_can_not_do_it_says(tmp_path: Path) -> None:
    async with hand(tmp_path) as one:
        with pytest.raises(WorkerError, match="nothing came along"):
            await one.ask("prepare", {"number": 1})
        with pytest.raises(WorkerError, match="unexpected KeyError"):
            await one.ask("dance")


async def test_it_is_started_once(tmp_path: Path) -> None:
    async with hand(tmp_path) as one:
        with pytest.raises(RuntimeError):
            one.member.start({})


async def test_who_can_not_be_asked_is_a_problem_of_its_own_and_lives(tmp_path: Path) -> None:
    async with hand(tmp_path) as one:
        with pytest.raises(WorkerError, match="can't be asked"):
            await one.ask("prepare", {"number": 1}, descriptor=-1)
        assert await one.ask("cut") == 0
