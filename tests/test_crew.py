"""Several workers as one."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rekeyd.errors import RekeydError
from support.generations import API_KEY
from support.supervisor import Supervisor


async def test_who_listens_hears_all_of_them(supervisor: Supervisor) -> None:
    async with supervisor.logs.hub.subscribe() as subscription:
        await supervisor.crew._roster.ask("report")  # what was told before has been heard by now
        async with supervisor.client() as client:
            await client.ask(key=API_KEY)
        heard = await asyncio.wait_for(anext(subscription), 10)
    assert heard.name == "auth.allowed"
    assert b'"key_id":"api_key"' in heard.line


async def test_one_that_is_frozen_raises_no_doubt_and_hides_nothing(supervisor: Supervisor) -> None:
    frozen, _ = supervisor.members
    os.kill(frozen.pid, signal.SIGSTOP)
    serving = supervisor.current.serving
    assert serving is not None
    async with asyncio.timeout(4):
        assert await supervisor.crew.reason_for_doubt(3) is None
    with capture_logs() as told:
        async with asyncio.timeout(4):
            assert await supervisor.crew.verify(serving) is None
    assert told == [], "it was proven"
    async with asyncio.timeout(4):
        assert await supervisor.value("rekeyd_generation") == 1


async def test_where_one_can_not_begin_nobody_listens_any_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = Supervisor(tmp_path)
    await supervisor.reloader.reload("start")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RekeydError, match="is gone"):
        await supervisor.crew.open()
    assert [listening.fileno() for listening in supervisor.crew._listening.values()] == [-1]
    await supervisor.shut()
