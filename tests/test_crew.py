"""Several workers as one, under a supervisor that the test is itself."""

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families as parse_text
from structlog.testing import capture_logs

from rekeyd.errors import RekeydError
from rekeyd.front import build
from rekeyd.reload.current import Current
from rekeyd.reload.reloader import Reloader
from rekeyd.reload.sealed import seal
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.lines import to_json
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.sink import Sink
from rekeyd.trust.generation import Generation
from rekeyd.workers import crew as crews
from rekeyd.workers.crew import Crew, Origin
from rekeyd.workers.member import WorkerError
from rekeyd.workers.pauses import PAUSES
from support.generations import API_KEY, Site
from support.live import Connection, configure
from support.waiting import eventually


class Supervisor:
    """A crew, and the reloader that keeps it current."""

    def __init__(self, folder: Path, **sections: Mapping[str, Any]) -> None:
        self.site = Site(folder)
        sections = {"service": {"workers": 2}, **sections}
        configure(self.site, **sections)
        self.current = Current()
        settings = self.site.disk.load().settings
        self.site.disk.pin(settings)
        self.sink = Sink(os.open(os.devnull, os.O_WRONLY))
        self.logs = Logs(render=to_json, level="info", generation=lambda: self.current.number, sink=self.sink)
        self.crew = Crew(
            settings,
            current=self.current,
            logs=self.logs,
            sockets=Sockets(),
            origin=Origin(str(self.site.file), self.site.file.read_text()),
            seal=self._seal,
        )
        self.reloader = Reloader(self.current, self.site.disk.load, build, servers=self.crew)

    def _seal(self, generation: Generation) -> int:
        snapshot = self.site.disk.take_snapshot()
        assert snapshot is not None
        return seal(snapshot, {}, number=generation.number)

    async def open(self) -> None:
        assert not (await self.reloader.reload("start")).refused
        await self.crew.open()

    async def shut(self) -> None:
        await self.reloader.close()
        self.crew.close()
        await self.crew.drain(0)
        await self.crew.end()
        self.sink.close()

    @property
    def port(self) -> int:
        return self.crew.listeners[0].port

    def client(self) -> Any:
        return Connection.to(self.port, self.site.authority)

    async def pids(self) -> list[int]:
        return [worker["pid"] for worker in (await self.crew.report()).workers]

    async def value(self, name: str, **labels: str) -> float:
        body, _ = await self.crew.exposition("")
        samples = [sample for family in parse_text(body.decode()) for sample in family.samples]
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    supervisor = Supervisor(tmp_path)
    await supervisor.open()
    yield supervisor
    await supervisor.shut()


async def test_what_they_count_is_one_sum_that_outlives_them(supervisor: Supervisor) -> None:
    for _ in range(6):
        async with supervisor.client() as client:
            assert (await client.ask(key=API_KEY)).status == 200
    assert await supervisor.value("rekeyd_decisions_total", decision="allowed") == 6
    assert supervisor.crew.evidence.of("api_key").allowed == 6
    assert await supervisor.value("rekeyd_generation") == 1
    before = await supervisor.pids()
    supervisor.crew.renew()
    await eventually(
        lambda: not any(Path(f"/proc/{pid}").exists() for pid in before), what="other workers", timeout=20
    )
    assert await supervisor.value("rekeyd_decisions_total", decision="allowed") == 6
    assert set(await supervisor.pids()).isdisjoint(before)
    async with supervisor.client() as client:
        assert (await client.ask(key=API_KEY)).status == 200
    assert await supervisor.value("rekeyd_decisions_total", decision="allowed") == 7


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
                len([member for member in supervisor.crew._members if not member.leaving]) == 2
                and len(supervisor.crew._members) == 3
            ),
            what="two new ones, and the one that still streams",
            timeout=15,
        )
        # What runs on one that is leaving rests on its key all the same.
        configure(supervisor.site, service={"workers": 2, "api_key": "another-key-of-some-length"})
        assert (await supervisor.reloader.reload("sighup")).generation == 2
        await eventually(lambda: len(supervisor.crew._members) == 2, what="the end of the stream", timeout=20)
    assert set(await supervisor.pids()).isdisjoint(before)


async def test_one_that_is_frozen_is_replaced(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(crews, "PATIENCE", 0.2)
    frozen, other = await supervisor.pids()
    os.kill(frozen, signal.SIGSTOP)
    await supervisor.crew.count()
    await eventually(
        lambda: {member.pid for member in supervisor.crew._members} > {other}, what="another", timeout=15
    )
    assert frozen not in await supervisor.pids()


async def test_a_generation_that_one_can_not_build_is_served_by_none(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = supervisor.crew._members
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
    return {member.pid for member in supervisor.crew._members}


async def test_one_that_is_leaving_is_nothing_against_a_generation(
    supervisor: Supervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = supervisor.crew._members

    async def gone(*_: Any, **__: Any) -> Any:
        raise WorkerError("it is gone")

    monkeypatch.setattr(first, "ask", gone)
    first.leaving = True
    supervisor.site.rotate()
    assert (await supervisor.reloader.reload("sighup")).generation == 2
    monkeypatch.undo()


async def test_one_that_dies_early_has_its_place_taken_later(supervisor: Supervisor) -> None:
    with capture_logs() as told:
        for _ in range(2):
            (member,) = (member for member in supervisor.crew._members if member.number == 1)
            told.clear()
            member.kill()
            await eventually(
                lambda: any(line["event"] == "worker.started" for line in told), what="another", timeout=15
            )
        assert [line["retry_in"] for line in told if line["event"] == "worker.died"] == [PAUSES[2]]


async def test_one_that_begins_while_the_daemon_stops_takes_no_connections(supervisor: Supervisor) -> None:
    hiring = asyncio.create_task(supervisor.crew._hire(3))
    await eventually(lambda: len(supervisor.crew._hired) == 3, what="its process")
    supervisor.crew.close()
    with pytest.raises(WorkerError, match="no connections are taken"):
        await hiring
    assert len(supervisor.crew._members) == 2


async def test_who_listens_hears_all_of_them(supervisor: Supervisor) -> None:
    async with supervisor.logs.hub.subscribe() as subscription:
        await supervisor.crew._all("report")  # what was told before has been heard by now
        async with supervisor.client() as client:
            await client.ask(key=API_KEY)
        heard = await asyncio.wait_for(anext(subscription), 10)
    assert heard.name == "auth.allowed"
    assert b'"key_id":"api_key"' in heard.line


async def test_where_one_can_not_begin_none_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    supervisor = Supervisor(tmp_path)
    await supervisor.reloader.reload("start")
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(RekeydError, match="is gone"):
        await supervisor.crew.open()
    assert not supervisor.crew._hired
    await supervisor.shut()
