"""A generation is prepared by all workers, then published by all."""

import os
import signal
from typing import Any

import pytest

from rekeyd.front import build
from rekeyd.reload.sealed import SealError
from rekeyd.trust.generation import Generation
from rekeyd.workers.member import WorkerError
from support.generations import API_KEY
from support.supervisor import Supervisor
from support.waiting import eventually


async def test_a_generation_that_one_can_not_build_is_served_by_none(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = supervisor.members
    ask = first.ask

    async def can_not(kind: str, *args: Any, **kwargs: Any) -> Any:
        if kind == "prepare":
            raise WorkerError("it is one too many")
        return await ask(kind, *args, **kwargs)

    monkeypatch.setattr(first, "ask", can_not)
    supervisor.site.rotate()
    outcome = await supervisor.reloader.reload("sighup")
    assert [finding.rule for finding in outcome.findings] == ["worker"]
    for _ in range(8):
        async with supervisor.client() as client:
            assert (await client.ask(key=API_KEY)).status == 200
    assert (await supervisor.crew.report()).connections.keys() <= {1}


async def test_one_that_comes_between_preparing_and_publishing_serves_on(supervisor: Supervisor) -> None:
    supervisor.site.rotate()
    serving = build(supervisor.site.disk.load().generation(2))
    assert await supervisor.crew.prepare(serving) is None
    before = await supervisor.pids()
    os.kill(before[0], signal.SIGKILL)
    await eventually(lambda: len(began(supervisor) - set(before)) == 1, what="another worker", timeout=15)
    supervisor.current.publish(serving)
    await supervisor.crew.spread(serving)
    pids = await supervisor.pids()
    assert len(pids) == 2
    assert set(pids) == began(supervisor)
    for _ in range(8):
        async with supervisor.client() as client:
            assert (await client.ask(key=API_KEY)).status == 200
    assert (await supervisor.crew.report()).connections.keys() <= {2}


def began(supervisor: Supervisor) -> set[int]:
    return {member.pid for member in supervisor.members}


async def test_one_that_is_leaving_is_nothing_against_a_generation(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = supervisor.members

    async def gone(*_: Any, **__: Any) -> Any:
        raise WorkerError("it is gone")

    monkeypatch.setattr(first, "ask", gone)
    first.leaving = True
    supervisor.site.rotate()
    assert (await supervisor.reloader.reload("sighup")).generation == 2
    monkeypatch.undo()


async def test_what_can_not_be_sealed_is_refused_for_its_own_reason(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    def too_large(_: Generation) -> int:
        raise SealError("it is larger than a house")

    monkeypatch.setattr(supervisor.crew._handover, "_seal", too_large)
    supervisor.site.rotate()
    (finding,) = (await supervisor.reloader.reload("sighup")).findings
    assert "it is larger than a house" in finding.message
