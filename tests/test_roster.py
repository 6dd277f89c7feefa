"""All workers are asked at once."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from rekeyd.workers import counts
from rekeyd.workers.member import Member
from rekeyd.workers.roster import PATIENCE, Roster
from support.hands import hand
from support.supervisor import Supervisor
from support.waiting import eventually


async def test_one_that_is_frozen_is_replaced(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counts, "PATIENCE", 0.2)
    frozen, other = await supervisor.pids()
    os.kill(frozen, signal.SIGSTOP)
    await supervisor.crew._counts.count()
    await eventually(
        lambda: {member.pid for member in supervisor.members} > {other}, what="another", timeout=15
    )
    assert frozen not in await supervisor.pids()


async def test_who_takes_long_is_gone_on_without_and_its_answer_counts_all_the_same(tmp_path: Path) -> None:
    async with hand(tmp_path) as one:
        roster, answered = Roster(), asyncio.Event()
        roster.add(one.member)

        async def ask(member: Member) -> None:
            await member.ask("cut", within=PATIENCE)
            answered.set()

        one.signal(signal.SIGSTOP)
        ((_, answer),) = await roster.each(ask, heed=0.05)
        assert str(answer) == "worker 1 has not answered yet"
        one.signal(signal.SIGCONT)
        await asyncio.wait_for(answered.wait(), PATIENCE)
