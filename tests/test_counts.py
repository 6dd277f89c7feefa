"""What workers count is one sum."""

import time
from pathlib import Path
from typing import Any

import pytest

from rekeyd.telemetry.evidence import Evidence
from rekeyd.telemetry.metrics import Metrics
from rekeyd.workers.counts import Counts
from rekeyd.workers.member import WorkerError
from rekeyd.workers.roster import Roster
from support.generations import API_KEY
from support.hands import hand
from support.supervisor import Supervisor
from support.waiting import eventually


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


COUNTED = {"name": "x", "help": "", "type": "counter", "samples": [["x_total", {}, 1.0]]}
NOTHING = {"connections": 0, "metrics": [COUNTED], "usage": '{"version":1,"since":1,"keys":{}}'}


@pytest.mark.parametrize(
    "nonsense",
    [
        {"metrics": [{"name": "x"}]},
        {"metrics": [COUNTED | {"samples": [["x_total", {}, "many"]]}]},
        {"metrics": [COUNTED | {"type": "opinion"}]},
        {"usage": '{"version":2}'},
        {"connections": "many"},
    ],
)
async def test_who_tells_nonsense_is_killed_and_harms_no_sum(
    nonsense: dict[str, Any], tmp_path: Path
) -> None:
    async with hand(tmp_path) as worker:
        evidence = Evidence(lambda: None, now=time.time)
        counts = Counts(Roster(), evidence, Metrics(version="", generation=lambda: None, connections=dict))
        counts.add(worker.member, NOTHING)
        with pytest.raises(WorkerError, match="nonsense"):
            counts.add(worker.member, NOTHING | nonsense)
        await eventually(worker.ended.is_set, what="its end")
        counts.depart(worker.member)
        body, _ = await counts.exposition("")
        assert b"x_total 1.0" in body
