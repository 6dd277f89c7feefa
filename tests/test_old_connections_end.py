"""The real process: what becomes of connections that were made before something changed."""

import asyncio
import contextlib
import json
import resource
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from conftest import StartDaemon
from support.daemon import Daemon, Event
from support.gateway import stage
from support.generations import API_KEY, Site
from support.live import Answer, Connection, HeldUpstream, configure, live_site, measured, upstream
from support.loops import Timers
from support.streams import WebSocket, ended, goes_on, streaming, uploading
from support.waiting import eventually
from support.wire import answering, ok, request

OTHER_KEY = "a-made-up-key-of-somebody-else"
NEXT_KEY = "a-made-up-key-that-comes-after"
WITHIN = 5.0
"""Seconds in which an end must come where trust was taken away."""


async def reloaded(daemon: Daemon) -> Event:
    """Reload, and what was applied."""
    since = daemon.mark()
    daemon.signal(signal.SIGHUP)
    return await daemon.event("reload.applied", since=since, trigger="sighup")


async def rotated(daemon: Daemon, site: Site) -> Event:
    site.rotate()
    return await reloaded(daemon)


async def counted_in_status(daemon: Daemon) -> dict[str, int]:
    command = [sys.executable, "-m", "rekeyd", "status", "--json", "--socket", daemon.started["admin"]]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=30)
    counts: dict[str, int] = json.loads(done.stdout)["connections_by_generation"]
    return counts


async def counted_in_metrics(daemon: Daemon) -> dict[str, int]:
    url = f"http://127.0.0.1:{daemon.port_of('metrics')}/metrics"
    async with ClientSession() as session, session.get(url) as response:
        families = list(text_string_to_metric_families(await response.text()))
    (family,) = (family for family in families if family.name == "rekeyd_connections")
    return {sample.labels["generation"]: int(sample.value) for sample in family.samples}


async def until_counted(daemon: Daemon, expected: dict[str, int]) -> None:
    """A connection's end is seen a moment later than its client sees it."""
    deadline = time.monotonic() + 5
    while (counts := await counted_in_metrics(daemon)) != expected:
        assert time.monotonic() < deadline, counts
        await asyncio.sleep(0.02)


async def test_each_connection_is_counted_under_its_generation_and_by_default_goes_on(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, tls={"watch": False}, metrics={"port": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with contextlib.AsyncExitStack() as stack:

        async def come() -> Connection:
            client = await stack.enter_async_context(Connection.to(daemon, site.authority))
            assert (await client.ask()).status == 200
            return client

        first = [await come() for _ in range(3)]
        await rotated(daemon, site)
        second = [await come() for _ in range(2)]
        await until_counted(daemon, {"1": 3, "2": 2})  # rekeyd's own probe is gone, too
        assert await counted_in_status(daemon) == {"1": 3, "2": 2}

        for number, client in enumerate(first + second):
            answer = await client.ask(f"/still-here/{number}")
            assert (answer.status, answer.fields.get("connection")) == (200, None)
        for number, made_under in enumerate([1, 1, 1, None, None]):  # lines of several workers may cross
            line = await daemon.event("auth.allowed", path=f"/still-here/{number}", generation=2)
            assert line.get("connection_generation") == made_under
        assert len([line for line in daemon.told("auth.allowed") if "/still-here" in line["path"]]) == 5

        await first.pop().close()
        await until_counted(daemon, {"1": 2, "2": 2})
        assert await counted_in_status(daemon) == {"1": 2, "2": 2}
    await until_counted(daemon, {})
    assert daemon.told("connection.cut") == []


@contextlib.asynccontextmanager
async def crowd_of(count: int, daemon: Daemon, site: Site) -> AsyncIterator[list[Connection]]:
    """So many open connections that have been used; a hundred are made at a time."""
    async with contextlib.AsyncExitStack() as stack:
        gate = asyncio.Semaphore(100)

        async def come() -> Connection:
            async with gate:
                client = await stack.enter_async_context(Connection.to(daemon, site.authority))
                assert (await client.ask("/quick")).status == 200
                return client

        yield await asyncio.gather(*(come() for _ in range(count)))


class Service(HeldUpstream):
    """Answers `/quick` at once, `/half` with half an answer until it is released, else when released."""

    async def handle(self, asked: web.Request) -> web.StreamResponse:
        if asked.path == "/quick":
            return web.Response(text="quick")
        if asked.path != "/half":
            return await self.answer(asked)
        response = web.StreamResponse(headers={"Content-Length": "200000"})
        await response.prepare(asked)
        await response.write(b"a" * 100_000)
        await self.answer(asked)
        await response.write(b"b" * 100_000)
        return response


async def drained(daemon: Daemon, site: Site, service: Service, count: int, drain: float) -> None:
    """A quarter waits for its answer, a quarter is in the middle of one, the rest is idle; then rotate."""
    async with crowd_of(count, daemon, site) as clients:
        asking, midway = clients[0::4], clients[1::4]
        idle = clients[2::4] + clients[3::4]
        for target, group in (("/held", asking), ("/half", midway)):
            for client in group:
                await client.send(target)
        await service.holds(len(asking) + len(midway))
        await rotated(daemon, site)
        began = time.monotonic()
        gone = asyncio.gather(*(ended(client, since=began, patience=3 * drain) for client in idle))
        await asyncio.sleep(drain / 4)
        service.release.set()
        answers = await asyncio.gather(*(client.answer() for client in asking + midway))
        check_answers(answers[: len(asking)], answers[len(asking) :])
        seconds = sorted(await gone)
        await asyncio.gather(*(ended(client, patience=3 * drain) for client in asking + midway))
        measured(f"a drain of {count} connections within {drain:g} s ended after", time.monotonic() - began)
        assert seconds[-1] < drain + 1
        assert seconds[len(seconds) // 2] > drain / 5, "spread, not all at once"
    assert daemon.told("connection.cut") == []


def check_answers(asking: list[Answer], midway: list[Answer]) -> None:
    """All whole. Those whose head came after the moment to go say that it is the last."""
    assert {answer.status for answer in asking + midway} == {200}
    assert {len(answer.body) for answer in midway} == {200_000}
    said = [answer.fields.get("connection") for answer in asking]
    assert said.count("close") > len(said) / 10
    assert set(said) <= {"close", None}


async def test_a_drain_closes_three_hundred_connections_and_breaks_off_no_answer(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    service, rules = Service(), {"after_rotation": "drain", "drain": 4}
    async with upstream(service.handle) as address:
        site = live_site(
            tmp_path, upstream={"http": address}, connections=rules, tls={"watch": False}, metrics={"port": 0}
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        await drained(daemon, site, service, 300, 4)
        await until_counted(daemon, {})


@pytest.mark.soak
@pytest.mark.timeout(600)
async def test_a_drain_closes_five_thousand_connections_and_breaks_off_no_answer(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 20_000), hard))
    service, rules = Service(), {"after_rotation": "drain", "drain": 20}
    try:
        async with upstream(service.handle) as address:
            site = live_site(
                tmp_path,
                upstream={"http": address},
                connections=rules,
                tls={"watch": False},
                metrics={"port": 0},
            )
            daemon = await start_daemon(site.file, secrets=[API_KEY])
            await drained(daemon, site, service, 5000, 20)
            await until_counted(daemon, {})
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_a_drain_cuts_streams_at_its_end_and_no_newer_ones(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    rules = {"after_rotation": "drain", "drain": 2}
    site = live_site(tmp_path, tls={"watch": False}, connections=rules)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with (
        streaming(daemon, site.authority) as stream,
        WebSocket.to(daemon, site.authority) as socket,
    ):
        await rotated(daemon, site)
        began = time.monotonic()
        async with streaming(daemon, site.authority) as newer:
            assert await socket.echo("until the end")
            ends = await asyncio.gather(ended(stream, since=began), ended(socket.connection, since=began))
            assert all(1.5 < seconds < 3.5 for seconds in ends), ends
            assert await goes_on(newer)
    lines = await daemon.several(2, "auth.allowed", failure="rotation")
    assert {line["path"] for line in lines} == {"/stream", "/socket"}
    cuts = daemon.told("connection.cut", reason="rotation", connection_generation=1)
    assert len(cuts) == len(daemon.told("connection.cut")) == 2


async def test_max_age_ends_connections_and_its_change_is_for_new_ones(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, tls={"watch": False}, connections={"max_age": 1, "drain": 1})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with (
        Connection.to(daemon, site.authority) as idle,
        streaming(daemon, site.authority) as stream,
    ):
        began = time.monotonic()
        assert (await idle.ask()).fields.get("connection") is None
        configure(site, tls={"watch": False})
        await reloaded(daemon)
        async with Connection.to(daemon, site.authority) as newer:
            assert (await newer.ask()).status == 200
            assert 0.5 < await ended(idle, since=began) < 1.9
            assert 1.5 < await ended(stream, since=began) < 3.5
            assert (await newer.ask()).status == 200
    assert (await daemon.event("auth.allowed", path="/stream"))["failure"] == "max_age"
    assert len(daemon.told("connection.cut")) == 1


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        ({"api_key": NEXT_KEY, "alt_api_key": OTHER_KEY}, "key api_key was removed"),
        (
            {"api_key": NEXT_KEY, "alt_api_key": OTHER_KEY, "read_only_api_key": API_KEY},
            "key read_only_api_key is not enough any more: right_too_small",
        ),
    ],
    ids=["removed", "smaller right"],
)
async def test_a_key_that_is_gone_ends_what_it_opened_within_five_seconds(
    start_daemon: StartDaemon, tmp_path: Path, keys: dict[str, Any], reason: str
) -> None:
    site = live_site(tmp_path, tls={"watch": False}, service={"alt_api_key": OTHER_KEY})
    daemon = await start_daemon(site.file, secrets=[API_KEY, OTHER_KEY, NEXT_KEY])
    async with (
        streaming(daemon, site.authority) as stream,
        WebSocket.to(daemon, site.authority) as socket,
        uploading(daemon, site.authority) as upload,
        uploading(daemon, site.authority) as short,
        streaming(daemon, site.authority, key=OTHER_KEY) as other,
    ):
        configure(site, tls={"watch": False}, service=keys)
        await reloaded(daemon)
        began = time.monotonic()
        short.writer.write(b"0\r\n\r\n")
        assert (await short.answer()).json()["what"]["body_bytes"] == 5
        ends = await asyncio.gather(
            *(ended(each, since=began) for each in (stream, socket.connection, upload))
        )
        assert max(ends) < WITHIN, ends
        assert await goes_on(other)
        assert (await short.ask(key=NEXT_KEY)).status == 200, "the connection is as good as before"
    lines = await daemon.several(3, "auth.allowed", failure=reason, key_id="api_key")
    assert sorted(line["path"] for line in lines) == ["/socket", "/stream", "/upload"]
    assert len(daemon.told("connection.cut", reason=reason)) == len(daemon.told("connection.cut")) == 3


async def test_nothing_is_left_of_a_thousand_connections_with_a_max_age(tmp_path: Path) -> None:
    timers = Timers(asyncio.get_running_loop())
    async with stage(tmp_path, answering(ok()), connections={"max_age": 1000, "drain": 1000}) as scene:

        async def come_and_go() -> None:
            client = await scene.client()
            client.send(request("GET", "/.rekeyd/livez"))
            assert (await client.answer()).status == 200
            client.close()
            await client.closed()
            scene.forget(client)

        await come_and_go()
        await eventually(lambda: len(scene.ledger) == 0)
        before = len(timers.waiting)
        for _ in range(100):
            await asyncio.gather(*(come_and_go() for _ in range(10)))
        await eventually(lambda: len(scene.ledger) == 0, what="an empty ledger")
        assert scene.ledger.per_generation() == {}
        assert len(timers.waiting) <= before + 5
        await scene.several(1001)


@pytest.mark.parametrize("tls", [True, False])
async def test_who_has_yet_to_take_an_answer_is_not_idle(tmp_path: Path, *, tls: bool) -> None:
    body = b"a" * 180_000
    async with stage(tmp_path, answering(ok(body)), tls=tls) as scene:
        client = await scene.client(buffer=4096)
        client.transport.pause_reading()
        client.send(request(key=API_KEY))
        await scene.record()  # all of it is written
        (connection,) = scene.gateway._guests.open
        connection.retire()
        await asyncio.sleep(2.5)  # longer than a TLS connection that closes waits for its client
        client.transport.resume_reading()
        answer = await client.answer()
        assert (answer.whole, len(answer.body)) == (True, len(body))
        await client.closed()
