"""The real process under a watchdog: signs of life while it serves, and none once it doesn't."""

import asyncio
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from conftest import StartDaemon
from support.generations import API_KEY
from support.live import Connection, live_site
from support.manager import Message, ServiceManager

SHORT, LONG = 3.0, 4.5
"""Seconds in which a sign is wanted: to see that there is none, and to see some on a slow machine."""


def is_sign(message: Message) -> bool:
    return message.get("WATCHDOG") == "1"


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify.sock", watchdog=LONG) as manager:
        yield manager


@pytest.fixture
async def hasty(tmp_path: Path) -> AsyncIterator[ServiceManager]:
    with ServiceManager(tmp_path / "hasty.sock", watchdog=SHORT) as manager:
        yield manager


def signs(manager: ServiceManager) -> int:
    return sum(map(is_sign, manager.messages))


async def test_while_it_serves_it_says_so_and_nobody_hears_of_its_visits(
    start_daemon: StartDaemon, tmp_path: Path, manager: ServiceManager
) -> None:
    site = live_site(tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": "127.0.0.1:1"})
    daemon = await start_daemon(site.file, secrets=[API_KEY], environ=manager.environ)
    for _ in range(3):
        await manager.told(is_sign)
    since = daemon.mark()
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask()).status == 200
    await daemon.event("auth.allowed")
    assert [event["event"] for event in daemon.events[since:]] == ["auth.allowed"]
    for event in ("tls.handshake_failed", "connection.broken", "watchdog.withheld", "watchdog.blind"):
        assert not daemon.told(event)


async def test_in_plaintext_too(start_daemon: StartDaemon, tmp_path: Path, manager: ServiceManager) -> None:
    site = live_site(
        tmp_path,
        service={"enable_tls": False, "grpc_port": 0},
        upstream={"http": "demo", "grpc": "127.0.0.1:1"},
    )
    daemon = await start_daemon(site.file, secrets=[API_KEY], environ=manager.environ)
    for _ in range(3):
        await manager.told(is_sign)
    names = {event["event"] for event in daemon.events}
    assert not names & {"connection.broken", "watchdog.withheld", "watchdog.blind", "auth.denied"}
    assert not [name for name in names if name.startswith("upstream")]


async def test_one_that_is_frozen_gives_none_and_afterwards_only_once_it_keeps_time(
    start_daemon: StartDaemon, tmp_path: Path, hasty: ServiceManager
) -> None:
    daemon = await start_daemon(live_site(tmp_path).file, secrets=[API_KEY], environ=hasty.environ)
    await hasty.told(is_sign)
    daemon.signal(signal.SIGSTOP)
    await asyncio.sleep(0.1)  # what it had told by then has come
    before = signs(hasty)
    await asyncio.sleep(SHORT)
    assert signs(hasty) == before
    daemon.signal(signal.SIGCONT)
    withheld = await daemon.event("watchdog.withheld")
    assert "stood still for" in withheld["problem"]
    await daemon.event("watchdog.resumed")
    await hasty.told(is_sign)


async def test_one_whose_listener_has_died_gives_none(
    start_daemon: StartDaemon, tmp_path: Path, hasty: ServiceManager
) -> None:
    site = live_site(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as shared:
        daemon = await start_daemon(
            site.file,
            secrets=[API_KEY],
            environ=hasty.environ,
            descriptors={"http": shared.fileno()},
        )
        for _ in range(2):
            await hasty.told(is_sign)
        shared.shutdown(socket.SHUT_RDWR)
        await daemon.event("listener.lost", listener="http", level="critical")
        withheld = await daemon.event("watchdog.withheld")
        assert "the listener http lets nobody in: nobody listens" in withheld["problem"]
        before = signs(hasty)
        await asyncio.sleep(SHORT)
        assert signs(hasty) == before


async def test_one_that_is_full_lives(
    start_daemon: StartDaemon, tmp_path: Path, manager: ServiceManager
) -> None:
    site = live_site(tmp_path, service={"max_connections": 1})
    daemon = await start_daemon(site.file, secrets=[API_KEY], environ=manager.environ)
    await manager.told(is_sign)
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask()).status == 200
        for _ in range(3):
            await manager.told(is_sign)
    assert not daemon.told("watchdog.withheld")


async def test_while_it_drains_none_is_wanted(
    start_daemon: StartDaemon, tmp_path: Path, manager: ServiceManager
) -> None:
    site = live_site(tmp_path)
    daemon = await start_daemon(site.file, secrets=[API_KEY], environ=manager.environ)
    await manager.told(is_sign)
    async with Connection.to(daemon, site.authority) as client:
        await client.send("/stream")
        await client.head()
        daemon.signal(signal.SIGTERM)
        await manager.told(lambda message: "STOPPING" in message)
    assert await daemon.exited() == 0
    manager.has_more()
    stopping = next(at for at, message in enumerate(manager.messages) if "STOPPING" in message)
    assert not [message for message in manager.messages[stopping:] if is_sign(message)]
    assert not daemon.told("watchdog.withheld")
