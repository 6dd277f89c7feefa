"""What the checks are; that readiness and status agree with them is seen in `test_server` and `test_cli`."""

import datetime as dt
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rekeyd.condition import Checks, Condition
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.reload.reloader import Reloader
from rekeyd.telemetry.evidence import Evidence
from rekeyd.telemetry.report import Report
from rekeyd.upstream.grpc import GrpcDialer
from rekeyd.upstream.grpc_health import GrpcHealth
from rekeyd.upstream.pools import Pools
from support.generations import Site
from support.grpc_upstream import grpc_upstream


class Place:
    """A condition, and what is looked at for it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.current = Current()
        self.reloader = Reloader(self.current, site.disk.load, serving_of)
        self.checks = Checks(self.current, Pools())
        evidence = Evidence(lambda: self.current.generation, now=lambda: 1_800_000_000.0)
        self.condition = Condition(self.current, self.reloader, site.disk, evidence, self._report, lambda: 2)

    async def _report(self) -> Report:
        return Report(await self.checks.all(), grpc_health=await self.checks.grpc_health())

    async def close(self) -> None:
        await self.reloader.close()
        await self.checks.pools.close()


@pytest.fixture
async def place(tmp_path: Path) -> AsyncIterator[Place]:
    place = Place(Site(tmp_path))
    yield place
    await place.close()


async def test_before_the_first_generation_nothing_is_ready(place: Place) -> None:
    assert await place.checks.all() == {"generation": False}
    status = await place.condition.status(stopping=False)
    assert (status["serving"], status["generation"]) == (False, None)


async def test_a_generation_with_an_upstream_is_ready_and_stopping_is_not_serving(place: Place) -> None:
    await place.reloader.reload("start")
    assert await place.checks.all() == {"upstream": True, "certificate": True}
    assert (await place.condition.status(stopping=False))["serving"] is True
    assert (await place.condition.status(stopping=True))["serving"] is False


async def test_an_expired_certificate_is_not_ready(place: Place) -> None:
    ended = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    place.site.rotate(not_before=ended - dt.timedelta(days=30), not_after=ended)
    place.current.publish(serving_of(place.site.disk.load().generation(1)))
    assert (await place.checks.all())["certificate"] is False


async def test_the_summary_says_generation_expiry_and_refusal(place: Place) -> None:
    await place.reloader.reload("start")
    assert place.current.generation is not None
    assert place.current.generation.default is not None
    until = f"{place.current.generation.default.leaf.not_after:%Y-%m-%d %H:%M} UTC"
    assert place.condition.summary() == f"generation 1, certificate until {until}, 2 connections"
    place.site.cert.write_bytes(b"")
    await place.reloader.reload("sighup")
    assert place.reloader.refused_since is not None
    since = dt.datetime.fromtimestamp(place.reloader.refused_since, dt.UTC)
    refused = f"refused since {since:%Y-%m-%d %H:%M} UTC: empty"
    assert place.condition.summary() == f"generation 1, certificate until {until}, 2 connections, {refused}"
    place.site.rotate()
    await place.reloader.reload("sighup")
    assert place.condition.summary().endswith(", 2 connections")


@pytest.mark.parametrize(("answer", "health"), [(b"\x08\x01", "serving"), (b"\x08\x02", "not_serving")])
async def test_where_grpc_is_served_its_upstream_counts(place: Place, answer: bytes, health: str) -> None:
    async with grpc_upstream() as upstream:
        upstream.health = answer
        place.site.configure(service={"grpc_port": 0}, upstream={"grpc": upstream.address})
        await place.reloader.reload("start")
        place.checks = replace(place.checks, grpc=GrpcHealth(GrpcDialer()))
        assert (await place.checks.all())["grpc_upstream"] is (health == "serving")
        status = await place.condition.status(stopping=False)
        assert status["upstream"]["grpc"] == {"address": f"http://{upstream.address}", "health": health}
        assert status["serving"] is (health == "serving")
