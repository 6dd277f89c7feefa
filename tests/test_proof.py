"""Whether a door still lets anybody in, found out at real doors."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.listeners.door import Door, Limits
from rekeyd.proof import DoorWay, Pulse, reason_against
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current, Serving
from rekeyd.system.sockets import bind
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.telemetry.metrics import Metrics
from support.generations import Site
from support.live import Connection
from support.waiting import eventually

WITHIN = 0.5
PATIENT = 10.0


class Silent(asyncio.Protocol):
    """What serves: it takes connections and says nothing."""

    def __init__(self, left: Callable[[], None]) -> None:
        self._left = left

    def connection_lost(self, _: Exception | None) -> None:
        self._left()


class House:
    """A door with its generation, and what it told. While `holding` is set no handshake comes to an end."""

    def __init__(self, folder: Path, *, tls: bool, most: int) -> None:
        self.site = Site(folder)
        self.current = Current()
        self.publish()
        self.told: list[str] = []
        self.metrics = Metrics(version="", generation=lambda: None, connections=dict)
        self.listening = bind("127.0.0.1", 0)
        self.port = int(self.listening.getsockname()[1])
        self.held = asyncio.Event()
        self.holding = False
        self.door = Door(
            "http",
            self.listening,
            tls=tls,
            current=self.current,
            protocol=lambda _: Silent(self.door.left),
            limits=Limits(PATIENT, most),
            handshakes=HandshakeLog(lambda *arguments, **_: self.told.append(str(arguments)), self.metrics),
        )
        self.kept: list[socket.socket] = []
        self._begin, self.door._shaking.begin = self.door._shaking.begin, self._hold  # type: ignore[method-assign]

    def _hold(self, sock: socket.socket, *arguments: Any, **named: Any) -> None:
        if self.holding:
            self.kept.append(sock)
            self.held.set()
        else:
            self._begin(sock, *arguments, **named)

    def publish(self) -> None:
        number = self.current.next_number
        self.current.publish(serving_of(self.site.disk.load().generation(number)))

    @property
    def serving(self) -> Serving:
        assert self.current.serving is not None
        return self.current.serving


@asynccontextmanager
async def house(folder: Path, *, tls: bool = True, most: int = 100) -> AsyncIterator[House]:
    made = House(folder, tls=tls, most=most)
    made.door.open()
    try:
        yield made
    finally:
        made.door.close()
        for sock in made.kept:
            sock.close()
        await made.door.closed()


async def doubt(pulse: Pulse, there: House, within: float = PATIENT) -> str | None:
    return await pulse.reason_for_doubt(there.serving, [DoorWay(there.door)], within)


@pytest.mark.parametrize("tls", [True, False])
async def test_a_door_that_lets_somebody_in_lives_and_nobody_hears_of_the_visit(
    tmp_path: Path, *, tls: bool
) -> None:
    async with house(tmp_path, tls=tls) as there:
        for _ in range(3):
            assert await doubt(Pulse(), there) is None
        await eventually(lambda: there.door.connections == 0)
        assert (there.told, there.door.let_in) == ([], 0)
        assert "rekeyd_handshakes_total{" not in there.metrics.exposition()[0].decode()


@pytest.mark.parametrize("tls", [True, False])
async def test_a_door_that_is_gone_is_dead_once_it_was_known_to_live(tmp_path: Path, *, tls: bool) -> None:
    async with house(tmp_path, tls=tls) as there:
        pulse = Pulse()
        assert await doubt(pulse, there) is None
        there.door.close()
        assert "the listener http lets nobody in" in str(await doubt(pulse, there, WITHIN))


@pytest.mark.parametrize("tls", [True, False])
async def test_a_door_that_listens_and_accepts_nobody_is_dead(tmp_path: Path, *, tls: bool) -> None:
    async with house(tmp_path, tls=tls) as there:
        pulse = Pulse()
        assert await doubt(pulse, there) is None
        asyncio.get_running_loop().remove_reader(there.listening)
        assert f"within {WITHIN:g} seconds" in str(await doubt(pulse, there, WITHIN))


async def test_a_door_whose_handshakes_do_not_end_is_dead(tmp_path: Path) -> None:
    async with house(tmp_path) as there:
        pulse = Pulse()
        assert await doubt(pulse, there) is None
        there.holding = True
        assert f"no handshake within {WITHIN:g} seconds" in str(await doubt(pulse, there, WITHIN))


async def test_a_door_that_breaks_every_handshake_off_is_dead(tmp_path: Path) -> None:
    async with house(tmp_path) as there:
        pulse = Pulse()
        assert await doubt(pulse, there) is None
        there.door._context = lambda _: None
        assert "lets nobody in" in str(await doubt(pulse, there, WITHIN))


async def test_a_door_that_is_full_lives(tmp_path: Path) -> None:
    async with house(tmp_path, most=1) as there:
        pulse = Pulse()
        assert await doubt(pulse, there) is None
        await eventually(lambda: there.door.connections == 0)
        async with Connection.to(there.port, there.site.authority):
            assert there.door.is_full
            assert await doubt(pulse, there, WITHIN) is None


async def test_a_door_that_lets_others_in_meanwhile_lives(tmp_path: Path) -> None:
    async with house(tmp_path) as there:
        pulse = Pulse()
        assert await doubt(pulse, there) is None
        there.holding = True
        looking = asyncio.create_task(doubt(pulse, there, WITHIN))
        await there.held.wait()
        there.holding = False
        async with Connection.to(there.port, there.site.authority):
            assert await looking is None


@pytest.mark.parametrize("tls", [True, False])
async def test_what_was_never_proven_is_told_once_and_not_missed(tmp_path: Path, *, tls: bool) -> None:
    structlog.reset_defaults()
    with capture_logs() as logs:
        async with house(tmp_path, tls=tls) as there:
            asyncio.get_running_loop().remove_reader(there.listening)
            pulse = Pulse()
            assert await doubt(pulse, there, WITHIN) is None
            assert await doubt(pulse, there, WITHIN) is None
    assert [(line["event"], line["listener"]) for line in logs] == [("watchdog.blind", "http")]


async def test_what_is_shown_is_compared_with_what_is_served(tmp_path: Path) -> None:
    async with house(tmp_path) as there:
        before = there.serving
        assert await reason_against(before, DoorWay(there.door)) is None
        there.site.rotate()
        there.publish()
        assert "it showed the certificate" in str(await reason_against(before, DoorWay(there.door)))
        assert await reason_against(there.serving, DoorWay(there.door)) is None
