"""What the checks are; that readiness and status agree with them is seen in `test_server` and `test_cli`."""

import datetime as dt
from dataclasses import replace
from pathlib import Path

import pytest

from rekeyd.condition import Condition
from rekeyd.ledger import Ledger
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.reload.reloader import Reloader
from rekeyd.telemetry.evidence import Evidence
from rekeyd.upstream.grpc import GrpcDialer
from rekeyd.upstream.grpc_health import GrpcHealth
from rekeyd.upstream.pools import Pools
from support.generations import Site
from support.grpc_upstream import grpc_upstream


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
async def condition(site: Site) -> Condition:
    current = Current()
    reloader = Reloader(current, site.disk.load, serving_of)
    evidence = Evidence(lambda: current.generation, now=lambda: 1_800_000_000.0)
    return Condition(current, reloader, Ledger(), Pools(), site.disk, evidence)


async def test_before_the_first_generation_nothing_is_ready(condition: Condition) -> None:
    assert await condition.checks() == {"generation": False}
    status = await condition.status(stopping=False)
    assert (status["serving"], status["generation"]) == (False, None)


async def test_a_generation_with_an_upstream_is_ready_and_stopping_is_not_serving(
    condition: Condition,
) -> None:
    await condition.reloader.reload("start")
    assert await condition.checks() == {"upstream": True, "certificate": True}
    assert (await condition.status(stopping=False))["serving"] is True
    assert (await condition.status(stopping=True))["serving"] is False
    await condition.pools.close()


async def test_an_expired_certificate_is_not_ready(condition: Condition, site: Site) -> None:
    ended = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    site.rotate(not_before=ended - dt.timedelta(days=30), not_after=ended)
    condition.current.publish(serving_of(site.disk.load().generation(1)))
    assert (await condition.checks())["certificate"] is False
    await condition.pools.close()


async def test_the_summary_says_generation_expiry_and_refusal(condition: Condition, site: Site) -> None:
    await condition.reloader.reload("start")
    until = f"{site.leaf.not_after:%Y-%m-%d %H:%M} UTC" if hasattr(site.leaf, "not_after") else "UTC"
    assert condition.summary().startswith("generation 1, certificate until ")
    assert until in condition.summary()
    site.cert.write_bytes(b"")
    condition.reloader.last = replace(await condition.reloader.reload("sighup"))
    assert condition.summary().endswith("the last reload was refused")
    await condition.reloader.close()


@pytest.mark.parametrize(("answer", "health"), [(b"\x08\x01", "serving"), (b"\x08\x02", "not_serving")])
async def test_where_grpc_is_served_its_upstream_counts(
    condition: Condition, site: Site, answer: bytes, health: str
) -> None:
    async with grpc_upstream() as upstream:
        upstream.health = answer
        site.configure(service={"grpc_port": 0}, upstream={"grpc": upstream.address})
        await condition.reloader.reload("start")
        looking = replace(condition, grpc=GrpcHealth(GrpcDialer()))
        assert (await looking.checks())["grpc_upstream"] is (health == "serving")
        status = await looking.status(stopping=False)
        assert status["upstream"]["grpc"] == {"address": f"http://{upstream.address}", "health": health}
        assert status["serving"] is (health == "serving")
        await condition.pools.close()
