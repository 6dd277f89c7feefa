import asyncio
import os
import socket
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector

from rekeyd.errors import SettingsError
from rekeyd.listeners.admin import AdminListener, NoDaemon, ask, can_be_made


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


def listener(path: Path) -> AdminListener:
    return AdminListener(path, reload=reload, status=status)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "admin.sock"


@pytest.fixture
async def running(path: Path) -> AsyncIterator[AdminListener]:
    admin = listener(path)
    await admin.start()
    yield admin
    await admin.stop()


async def asked(path: Path, method: str, target: str) -> tuple[int, dict[str, Any]]:
    return await asyncio.to_thread(ask, path, method, target, timeout=10)


async def refusal(admin: AdminListener) -> str:
    with pytest.raises(SettingsError) as caught:
        await admin.start()
    await admin.stop()
    (problem,) = caught.value.problems
    assert problem.key == "admin.socket"
    assert problem.fix
    return problem.message


async def test_a_reload_is_awaited_and_its_outcome_answered(running: AdminListener) -> None:
    outcome: dict[str, Any] = {"outcome": "refused", "trigger": "admin", "generation": 3}
    outcome["lines"] = ["as a person is told"]
    assert await asked(running.path, "POST", "/reload") == (200, outcome)


async def test_the_status_is_answered(running: AdminListener) -> None:
    assert await asked(running.path, "GET", "/status") == (200, {"generation": 3})


@pytest.mark.parametrize(
    ("method", "target", "code"),
    [("GET", "/reload", 405), ("POST", "/status", 405), ("HEAD", "/status", 405), ("GET", "/", 404)],
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
    admin = AdminListener(path, reload=broken_reload, status=status)
    await admin.start()
    code, answer = await asked(path, "POST", "/reload")
    assert code == 500
    assert "s3cret" not in str(answer)
    await admin.stop()


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
async def test_the_socket_is_open_to_its_owner_and_group_whatever_the_umask(path: Path, umask: int) -> None:
    previous = os.umask(umask)
    try:
        admin = listener(path)
        await admin.start()
    finally:
        os.umask(previous)
    assert stat.S_IMODE(path.lstat().st_mode) == 0o660
    assert [each.name for each in path.parent.iterdir()] == ["admin.sock"]
    await admin.stop()
    assert not path.exists()


async def test_a_socket_left_by_a_crash_is_replaced(path: Path) -> None:
    script = "import os, socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1]); os._exit(9)"
    await asyncio.to_thread(
        subprocess.run, [sys.executable, "-c", script, str(path)], check=False, timeout=20
    )
    assert stat.S_ISSOCK(path.lstat().st_mode)
    admin = listener(path)
    await admin.start()
    assert await asked(path, "GET", "/status") == (200, {"generation": 3})
    await admin.stop()


async def test_a_living_daemon_keeps_its_socket(running: AdminListener) -> None:
    assert "another daemon answers there" in await refusal(listener(running.path))
    assert (await asked(running.path, "GET", "/status"))[0] == 200


async def test_a_daemon_too_busy_to_accept_counts_as_living(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as busy, socket.socket(socket.AF_UNIX) as first:
        busy.bind(str(path))
        busy.listen(0)
        first.connect(str(path))
        assert "another daemon answers there" in await refusal(listener(path))


async def test_a_file_that_is_no_socket_is_left_alone(path: Path) -> None:
    path.write_text("precious")
    assert "not a socket" in await refusal(listener(path))
    assert path.read_text() == "precious"


async def test_a_link_is_not_followed(path: Path, tmp_path: Path) -> None:
    path.symlink_to(tmp_path / "elsewhere")
    assert "not a socket" in await refusal(listener(path))


async def test_a_folder_that_is_not_there_is_an_error_with_a_remedy(tmp_path: Path) -> None:
    assert "No such file" in await refusal(listener(tmp_path / "none" / "admin.sock"))
    assert not can_be_made(tmp_path / "none" / "admin.sock")
    assert can_be_made(tmp_path / "admin.sock")


async def test_a_path_too_long_for_a_socket_is_said_to_be_so(tmp_path: Path) -> None:
    assert "107 bytes" in await refusal(listener(tmp_path / ("x" * 108)))


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
