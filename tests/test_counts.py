"""What workers count is one sum."""

from pathlib import Path

from support.generations import API_KEY
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
