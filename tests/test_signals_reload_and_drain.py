"""SIGHUP reloads, SIGTERM lets what runs finish, and no number of either does harm."""

import asyncio
import contextlib
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import StartDaemon
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import Answer, Connection, HeldUpstream, live_site, upstream

REQUESTS = 50
AT_ONCE = 5.0
"""Seconds: far from the drain timeout of 30, and enough for a busy machine."""


@contextlib.asynccontextmanager
async def held(
    start_daemon: StartDaemon, folder: Path, **service: float
) -> AsyncIterator[tuple[Daemon, Site, HeldUpstream]]:
    """A daemon in front of a service that answers when it is told to."""
    holding = HeldUpstream()
    async with upstream(holding.answer) as address:
        site = live_site(folder, service=service, upstream={"http": address}, tls={"watch": False})
        try:
            yield await start_daemon(site.file, secrets=[API_KEY]), site, holding
        finally:
            holding.release.set()


async def asked_once(daemon: Daemon, site: Site) -> Answer:
    async with Connection.to(daemon, site.authority) as client:
        return await client.ask()


async def test_twenty_hangups_at_once_are_one_or_two_reloads(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, tls={"watch": False, "cert_ttl": None})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    leaf = site.rotate()
    for _ in range(20):
        daemon.signal(signal.SIGHUP)
    await daemon.event("reload.applied", trigger="sighup")
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask()).status == 200
        assert client.serial == leaf.serial
    await daemon.stop()
    reloads = [event["event"] for event in daemon.events if event.get("trigger") == "sighup"]
    assert reloads in (["reload.applied"], ["reload.applied", "reload.unchanged"])


async def test_all_fifty_requests_that_run_are_answered_before_it_ends(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    async with held(start_daemon, tmp_path) as (daemon, site, holding):
        asking = [asyncio.create_task(asked_once(daemon, site)) for _ in range(REQUESTS)]
        await holding.holds(REQUESTS)
        daemon.signal(signal.SIGTERM)
        await daemon.event("daemon.stopping", reason="SIGTERM")
        await _refuses_connections(daemon)
        assert daemon.process.poll() is None
        holding.release.set()
        answers = await asyncio.gather(*asking)
        assert [answer.status for answer in answers] == [200] * REQUESTS
        assert all(answer.json() == {"held": True} for answer in answers)
        assert await daemon.exited() == 0
    assert len(daemon.told("auth.allowed", status=200)) == REQUESTS
    assert daemon.events[-1]["event"] == "daemon.stopped"
    assert daemon.told("daemon.cut") == []


async def _refuses_connections(daemon: Daemon) -> None:
    async def refused() -> bool:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", daemon.port)
        except ConnectionError:
            return True
        writer.close()
        return False

    deadline = time.monotonic() + AT_ONCE
    while not await refused():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def test_hangups_while_it_drains_are_harmless(start_daemon: StartDaemon, tmp_path: Path) -> None:
    async with held(start_daemon, tmp_path) as (daemon, site, holding):
        asking = asyncio.create_task(asked_once(daemon, site))
        await holding.holds(1)
        daemon.signal(signal.SIGTERM)
        await daemon.event("daemon.stopping")
        site.rotate()
        for _ in range(5):
            daemon.signal(signal.SIGHUP)
        await daemon.event("reload.applied", trigger="sighup")
        holding.release.set()
        assert (await asking).status == 200
        assert await daemon.exited() == 0


async def test_a_connection_without_a_request_does_not_delay_the_end(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    assert (tmp_path / "admin.sock").is_socket()
    async with Connection.to(daemon, site.authority) as used, Connection.to(daemon, None):
        assert (await used.ask()).status == 200
        async with Connection.to(daemon, site.authority) as unused:
            began = time.monotonic()
            daemon.signal(signal.SIGINT)
            await daemon.event("daemon.stopping", reason="SIGINT")
            async with asyncio.timeout(AT_ONCE):
                assert await used.reader.read() == b""
                assert await unused.reader.read() == b""
    # The half-open handshake is the third: it gets its time (`handshake_timeout`), and was closed above.
    assert await daemon.exited() == 0
    assert time.monotonic() - began < AT_ONCE
    assert not (tmp_path / "admin.sock").exists()


async def test_a_second_sigterm_ends_it_at_once(start_daemon: StartDaemon, tmp_path: Path) -> None:
    async with held(start_daemon, tmp_path) as (daemon, site, holding):
        asking = asyncio.create_task(asked_once(daemon, site))
        await holding.holds(1)
        daemon.signal(signal.SIGTERM)
        await daemon.event("daemon.stopping")
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        assert await daemon.exited() == 0
        assert time.monotonic() - began < AT_ONCE
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await asking
    assert [event["connections"] for event in daemon.told("daemon.cut")] == [1]
    assert daemon.told("upstream.failed") == [], "it is not the upstream's fault"


async def test_the_drain_timeout_cuts_a_stream(start_daemon: StartDaemon, tmp_path: Path) -> None:
    site = live_site(tmp_path, service={"drain_timeout": 0.5})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with Connection.to(daemon, site.authority) as client:
        await client.send("/stream")
        await client.head()
        lines = client.chunks()
        await anext(lines)
        began = time.monotonic()
        daemon.signal(signal.SIGTERM)
        with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
            await _to_its_end(lines)
        assert await daemon.exited() == 0
        assert 0.5 <= time.monotonic() - began < AT_ONCE
    assert [event["connections"] for event in daemon.told("daemon.cut")] == [1]
    assert daemon.told("upstream.failed") == [], "it is not the upstream's fault"


async def _to_its_end(lines: AsyncIterator[bytes]) -> None:
    async for _ in lines:
        pass
