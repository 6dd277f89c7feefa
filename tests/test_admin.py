import asyncio
import json
import socket
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from rekeyd.errors import SettingsError
from rekeyd.listeners.admin import AdminListener
from rekeyd.settings import Admin
from rekeyd.system.admin_client import SETTINGS, NoDaemon, ask, socket_named_by
from rekeyd.telemetry.hub import MISSED, SUBSCRIBERS, Hub
from support.waiting import eventually


class Outcome:
    def __init__(self, **fields: Any) -> None:
        self._fields = fields

    def fields(self) -> Mapping[str, Any]:
        return self._fields

    def lines(self) -> list[str]:
        return ["as a person is told"]


async def reload(*, trigger: str) -> Outcome:
    await asyncio.sleep(0)
    return Outcome(outcome="refused", trigger=trigger, generation=3)


async def broken_reload(*, trigger: str) -> Outcome:
    raise RuntimeError(f"s3cret {trigger}")


async def status() -> dict[str, Any]:
    return {"generation": 3}


async def exposition(accept: str) -> tuple[bytes, str]:
    return b"rekeyd_generation 3\n", f"text/plain; version=0.0.4; asked={accept}"


def listener(path: Path, *, hub: Hub | None = None, heartbeat: float = 15) -> AdminListener:
    return AdminListener(
        path,
        settings=path.with_name("rekeyd.yaml"),
        reload=reload,
        status=status,
        exposition=exposition,
        hub=hub or Hub(),
        heartbeat=heartbeat,
    )


def told(**fields: Any) -> dict[str, Any]:
    event = {"timestamp": "2026-11-23T18:00:00Z", "level": "info", "event": "reload.applied", "generation": 3}
    return event | fields


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
async def running(path: Path) -> AsyncIterator[AdminListener]:
    admin = listener(path)
    await admin.start()
    yield admin
    await admin.stop()


async def asked(
    path: Path, method: str, target: str, settings: Path | None = None
) -> tuple[int, dict[str, Any]]:
    return await asyncio.to_thread(ask, path, method, target, settings=settings, timeout=10)


async def refusal(admin: AdminListener) -> str:
    with pytest.raises(SettingsError) as caught:
        await admin.start()
    await admin.stop()
    (problem,) = caught.value.problems
    assert problem.key == "admin.socket"
    assert problem.fix
    return problem.message


@pytest.mark.parametrize(
    ("admin", "runtime_directory", "named"),
    [
        (Admin(), "", Path("/run/rekeyd/admin.sock")),
        (Admin(), "/run/rekeyd-one", Path("/run/rekeyd-one/admin.sock")),
        (Admin(), "/run/first:/run/second", Path("/run/first/admin.sock")),
        (Admin(), "relative", Path("/run/rekeyd/admin.sock")),
        (Admin(socket=Path("/srv/own.sock")), "/run/rekeyd-one", Path("/srv/own.sock")),
        (Admin(socket=Path("/run/rekeyd/admin.sock")), "/run/rekeyd-one", Path("/run/rekeyd/admin.sock")),
        (Admin(socket=None), "/run/rekeyd-one", None),
    ],
)
def test_the_folder_that_systemd_makes_is_the_default(
    admin: Admin, runtime_directory: str, named: Path | None
) -> None:
    assert socket_named_by(admin, {"RUNTIME_DIRECTORY": runtime_directory}) == named


async def test_a_reload_is_awaited_and_its_outcome_answered(running: AdminListener) -> None:
    outcome: dict[str, Any] = {"outcome": "refused", "trigger": "admin", "generation": 3}
    outcome["lines"] = ["as a person is told"]
    assert await asked(running.path, "POST", "/reload") == (200, outcome)


async def test_the_status_is_answered(running: AdminListener) -> None:
    assert await asked(running.path, "GET", "/status") == (200, {"generation": 3})


@pytest.mark.parametrize(("method", "target"), [("POST", "/reload"), ("GET", "/status")])
async def test_who_means_a_daemon_with_another_settings_file_is_not_answered_by_this_one(
    running: AdminListener, monkeypatch: pytest.MonkeyPatch, method: str, target: str
) -> None:
    folder = running.path.parent
    own = folder / "rekeyd.yaml"
    with pytest.raises(NoDaemon) as caught:
        await asked(running.path, method, target, folder / "other.yaml")
    assert str(caught.value) == f"{running.path}: another daemon answers there ({own})"

    (folder / "größe 1").symlink_to(folder)
    monkeypatch.chdir(folder)
    for same in (own, folder / "größe 1" / "rekeyd.yaml", Path("rekeyd.yaml"), None):
        assert (await asked(running.path, method, target, same))[0] == 200


@pytest.mark.parametrize("named", ["", "rekeyd.yaml", "/%00", "/%ff", "/" + "x" * 5000])
async def test_a_settings_file_that_is_nobodys_is_another_ones(running: AdminListener, named: str) -> None:
    async with (
        ClientSession(connector=UnixConnector(str(running.path))) as session,
        session.post("http://rekeyd/reload", headers={SETTINGS: named}) as response,
    ):
        own = str(running.path.with_name("rekeyd.yaml"))
        assert response.status == 409
        assert await response.json() == {"error": f"This daemon runs with {own}", "settings": own}


async def test_metrics_are_answered_in_the_form_that_is_asked_for(running: AdminListener) -> None:
    async with (
        ClientSession(connector=UnixConnector(str(running.path))) as session,
        session.get("http://rekeyd/metrics", headers={"Accept": "this"}) as response,
    ):
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/plain; version=0.0.4; asked=this"
        assert await response.read() == b"rekeyd_generation 3\n"


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [
        ("GET", "/reload", 405),
        ("POST", "/status", 405),
        ("HEAD", "/status", 405),
        ("POST", "/metrics", 405),
        ("POST", "/events", 405),
        ("GET", "/", 404),
    ],
)
async def test_nothing_else_is_served(running: AdminListener, method: str, target: str, code: int) -> None:
    async with (
        ClientSession(connector=UnixConnector(str(running.path))) as session,
        session.request(method, f"http://rekeyd{target}") as response,
    ):
        assert response.status == code
        assert response.headers["Cache-Control"] == "no-store"
        assert response.content_type == "application/json"


async def test_a_reload_that_breaks_is_answered_without_its_reason(path: Path) -> None:
    admin = AdminListener(
        path, settings=path, reload=broken_reload, status=status, exposition=exposition, hub=Hub()
    )
    await admin.start()
    code, answer = await asked(path, "POST", "/reload")
    assert code == 500
    assert "s3cret" not in str(answer)
    await admin.stop()


async def test_a_living_daemon_keeps_its_socket(running: AdminListener) -> None:
    assert "another daemon answers there" in await refusal(listener(running.path))
    assert (await asked(running.path, "GET", "/status"))[0] == 200


async def test_daemons_that_start_at_once_do_not_both_get_the_path(path: Path) -> None:
    one, other = listener(path), listener(path)
    results = await asyncio.gather(one.start(), other.start(), return_exceptions=True)
    assert [type(each) for each in results].count(SettingsError) == 1
    assert (await asked(path, "GET", "/status"))[0] == 200
    await one.stop()
    await other.stop()


async def test_on_stop_a_successors_socket_stays(path: Path, tmp_path: Path) -> None:
    old, new = listener(path), listener(tmp_path / "new.sock")
    await old.start()
    await new.start()
    (tmp_path / "new.sock").rename(path)
    await old.stop()
    assert (await asked(path, "GET", "/status"))[0] == 200
    await new.stop()


async def test_nobody_there_is_told_as_such(path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon answers"):
        ask(path, "GET", "/status")
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    with pytest.raises(NoDaemon, match="no daemon answers"):
        ask(path, "GET", "/status")


async def test_a_daemon_that_does_not_answer_is_not_waited_for_for_ever(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as silent:
        silent.bind(str(path))
        silent.listen()
        with pytest.raises(NoDaemon, match=r"within 0\.2 seconds"):
            ask(path, "GET", "/status", timeout=0.2)


async def test_somebody_else_who_answers_is_no_daemon(path: Path) -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 mail.example ESMTP\r\n")
        writer.close()

    server = await asyncio.start_unix_server(talk, path)
    with pytest.raises(NoDaemon):
        await asked(path, "GET", "/status")
    server.close()


# Events


class Reader:
    """A client of `GET /events` that reads only when it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.stream = reader
        self.writer = writer

    @classmethod
    @asynccontextmanager
    async def of(cls, admin: AdminListener, *, status: bytes = b"200") -> AsyncIterator["Reader"]:
        reader, writer = await asyncio.open_unix_connection(admin.path, limit=1 << 16)
        writer.write(b"GET /events HTTP/1.1\r\nHost: rekeyd\r\n\r\n")
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 10)
        assert head.split()[1] == status
        assert b"text/event-stream" in head or status != b"200"
        try:
            yield cls(reader, writer)
        finally:
            writer.close()

    async def piece(self) -> bytes:
        """The next piece of the stream, which is a chunk; empty at the end."""
        async with asyncio.timeout(10):
            size = int(await self.stream.readline(), 16)
            data = await self.stream.readexactly(size)
            await self.stream.readexactly(2)
        return data

    async def event(self) -> tuple[str, dict[str, Any]]:
        """The next event, past comments."""
        while (piece := await self.piece()).startswith(b":"):
            assert piece.endswith(b"\n\n")
        name, data, *end = piece.decode().split("\n")
        assert end == ["", ""]
        return name.removeprefix("event: "), json.loads(data.removeprefix("data: "))


async def test_events_are_streamed_as_the_log_has_them(path: Path) -> None:
    hub = Hub()
    admin = listener(path, hub=hub)
    await admin.start()
    async with Reader.of(admin) as reader:
        assert (await reader.piece()).startswith(b": ")
        for event in (told(parts={}), told(event="auth.denied", path="/x\ny", status=401)):
            hub.publish(event)
            assert await reader.event() == (event["event"], event)

    def forgotten() -> bool:
        hub.publish(told())  # writing to it is what finds out
        return not hub.wanted

    await eventually(forgotten, what="the reader that left")
    await admin.stop()


async def test_a_silent_stream_shows_that_it_lives(path: Path) -> None:
    hub = Hub()
    admin = listener(path, hub=hub, heartbeat=0.05)
    await admin.start()
    async with Reader.of(admin) as reader:
        await reader.piece()
        assert [await reader.piece() for _ in range(3)] == [b": alive\n\n"] * 3
        hub.publish(told())
        assert (await reader.event())[0] == "reload.applied"
    await eventually(lambda: not hub.wanted, what="the sign of life finds out who left")
    await admin.stop()


async def test_a_reader_that_stalls_is_told_how_many_it_missed_and_holds_nobody_up(path: Path) -> None:
    hub = Hub()
    admin = listener(path, hub=hub)
    await admin.start()
    async with Reader.of(admin) as stalled, Reader.of(admin) as quick:
        await quick.piece()
        for number in range(6000):
            hub.publish(told(number=number, padding="x" * 400))
            if number % 50 == 49:
                assert (await quick.event())[1]["number"] == number - 49
                for _ in range(49):
                    await quick.event()
        numbers = []
        while (heard := await stalled.event())[0] != MISSED:
            numbers.append(heard[1]["number"])
        hub.publish(told(number=6000))
        assert (await stalled.event())[1]["number"] == 6000
    assert numbers == list(range(len(numbers)))
    assert heard[1]["count"] == 6000 - len(numbers) > 0
    await admin.stop()


async def test_stopping_ends_every_stream_after_what_it_has_heard(path: Path) -> None:
    hub = Hub()
    admin = listener(path, hub=hub)
    await admin.start()
    async with Reader.of(admin) as reader:
        await reader.piece()
        hub.publish(told(number=1))
        stopping = asyncio.create_task(admin.stop())
        assert (await reader.event())[1]["number"] == 1
        assert await reader.piece() == b""
        await asyncio.wait_for(stopping, 10)
    assert not hub.wanted


async def test_stopping_does_not_wait_for_a_reader_that_stalls(path: Path) -> None:
    hub = Hub()
    admin = listener(path, hub=hub)
    await admin.start()
    async with Reader.of(admin):
        for number in range(3000):
            hub.publish(told(number=number, padding="x" * 400))
        await asyncio.sleep(0)
        began = time.monotonic()
        await admin.stop()
        assert time.monotonic() - began < 4
    assert not hub.wanted


async def test_readers_are_bounded_in_number(path: Path) -> None:
    hub = Hub()
    admin = listener(path, hub=hub)
    await admin.start()
    others = [hub.subscribe() for _ in range(SUBSCRIBERS)]
    async with Reader.of(admin, status=b"503") as refused:
        assert b"listen already" in await refused.stream.readline()
    others[0].close()
    async with Reader.of(admin) as reader:
        await reader.piece()
    await admin.stop()
