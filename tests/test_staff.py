"""Workers come, are replaced, and go."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from rekeyd.errors import RekeydError
from rekeyd.workers.member import WorkerError
from rekeyd.workers.pauses import PAUSES
from support.live import configure
from support.supervisor import Supervisor
from support.waiting import eventually


async def test_one_that_is_told_to_end_finishes_what_it_has_once_another_has_begun(
    supervisor: Supervisor,
) -> None:
    before = await supervisor.pids()
    async with supervisor.client() as client:
        await client.send("/stream")
        await client.head()
        for pid in before:
            os.kill(pid, signal.SIGTERM)
        await eventually(
            lambda: (
                len([member for member in supervisor.members if not member.leaving]) == 2
                and len(supervisor.members) == 3
            ),
            what="two new ones, and the one that still streams",
            timeout=15,
        )
        # What runs on one that is leaving rests on its key all the same.
        configure(supervisor.site, service={"workers": 2, "api_key": "another-key-of-some-length"})
        assert (await supervisor.reloader.reload("sighup")).generation == 2
        await eventually(lambda: len(supervisor.members) == 2, what="the end of the stream", timeout=20)
    assert set(await supervisor.pids()).isdisjoint(before)


async def test_one_that_dies_early_has_its_place_taken_later(supervisor: Supervisor) -> None:
    with capture_logs() as told:
        for _ in range(2):
            (member,) = (member for member in supervisor.members if member.number == 1)
            told.clear()
            member.kill()
            await eventually(
                lambda: any(line["event"] == "worker.started" for line in told), what="another", timeout=15
            )
        assert [line["retry_in"] for line in told if line["event"] == "worker.died"] == [PAUSES[2]]


async def test_one_that_begins_while_the_daemon_stops_takes_no_connections(supervisor: Supervisor) -> None:
    hiring = asyncio.create_task(supervisor.crew._staff._hire(3))
    await eventually(lambda: len(supervisor.crew._staff._hired) == 3, what="its process")
    supervisor.crew.close()
    with pytest.raises(WorkerError, match="no connections are taken"):
        await hiring
    assert len(supervisor.members) == 2


async def test_where_one_can_not_begin_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(tmp_path)
    await supervisor.reloader.reload("start")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RekeydError, match="is gone"):
        await supervisor.crew.open()
    assert not supervisor.crew._staff._hired
    await supervisor.shut()


async def test_one_that_dies_before_its_turn_has_one_successor(supervisor: Supervisor) -> None:
    first, second = supervisor.members
    supervisor.crew.renew()
    second.kill()
    await eventually(lambda: second not in supervisor.members, what="the end of the second")
    await supervisor.crew._staff._replacing.over()
    await eventually(lambda: len(supervisor.members) == 2, what="both successors", timeout=15)
    assert first not in supervisor.members
    assert [member.number for member in supervisor.members] == [1, 2]


async def test_one_counts_like_any_other_until_its_successor_serves(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = supervisor.members
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with capture_logs() as told:
        os.kill(first.pid, signal.SIGTERM)
        await eventually(lambda: any(line["event"] == "worker.failed" for line in told), what="a failure")
        assert not first.leaving
        first.kill()
        await eventually(lambda: any(line["event"] == "worker.died" for line in told), what="its end")
    monkeypatch.undo()
    await eventually(lambda: len(supervisor.members) == 2, what="its successor", timeout=15)
    await supervisor.crew._staff._replacing.over()
    assert [member.number for member in supervisor.members] == [1, 2]
    assert second in supervisor.members
