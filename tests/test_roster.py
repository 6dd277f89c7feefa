"""All workers are asked at once."""

import os
import signal

import pytest

from rekeyd.workers import counts
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
