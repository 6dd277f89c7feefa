"""The daemon writes where its settings say, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from rekeyd.confinement import written_by
from rekeyd.settings import describe
from support.daemon import Daemon
from support.generations import settings_of
from support.live import Connection, configure, live_site
from support.processes import kernel_has_landlock
from support.secrets import Ledger

NULL = Path(os.devnull)

# An application within the daemon that does what no daemon should: it writes where it is asked to.
APPLICATION = """
from pathlib import Path
from aiohttp import web

async def write(request):
    try:
        Path(request.headers["x-place"]).write_text("written")
    except PermissionError:
        return web.Response(text="kept from it")
    return web.Response(text="written")

def make():
    app = web.Application()
    app.router.add_get("/collections", write)
    return app
"""


def test_the_folders_of_socket_state_and_audit() -> None:
    settings = settings_of(
        admin={"socket": "/run/r/admin.sock"},
        state={"directory": "/s"},
        logging={"audit": "/var/log/r/a.log"},
    )
    assert written_by(settings, {}) == (NULL, Path("/run/r"), Path("/var/log/r"), Path("/s"))


def test_what_is_off_is_not_written() -> None:
    assert written_by(settings_of(admin={"socket": None}, state={"directory": None}), {}) == (NULL,)


def test_the_folder_of_state_may_be_systemds() -> None:
    settings = settings_of(admin={"socket": None})
    assert written_by(settings, {"STATE_DIRECTORY": "/var/lib/x:/y"}) == (NULL, Path("/var/lib/x"))


@pytest.mark.skipif(not kernel_has_landlock(), reason="this kernel has no Landlock (ABI 3)")
async def test_a_daemon_is_kept_from_writing_elsewhere_and_works(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "run").mkdir()
    (tmp_path / "writer.py").write_text(APPLICATION)
    sections = {"admin": {"socket": "run/admin.sock"}, "logging": {"level": "debug", "audit": "logs/audit"}}
    site = live_site(tmp_path, **sections)
    async with Daemon.running(ledger, site.file, environ={"PYTHONPATH": str(tmp_path)}) as daemon:
        confined = await daemon.event("process.confined")
        assert confined["writes"]
        assert confined["landlock"] >= 3
        # Only an application tells what the process itself may do. It came in with a reload.
        configure(site, upstream={"http": "app:writer:make"}, **sections)
        await daemon.event("reload.applied", trigger="watch")
        async with Connection.to(daemon, site.authority) as client:
            for place, said in (("elsewhere", "kept from it"), ("state/x", "written")):
                answer = await client.ask(headers={"x-place": str(tmp_path / place)})
                assert (answer.status, answer.body.decode()) == (200, said)
        since = daemon.mark()
        site.rotate()
        await daemon.event("reload.applied", since=since)
    assert (tmp_path / "logs" / "audit").read_bytes().count(b"auth.allowed") == 2
    assert (tmp_path / "state" / "usage.json").exists()
    assert not (tmp_path / "elsewhere").exists()
    assert not (tmp_path / "run" / "admin.sock").exists()


async def test_an_application_of_ones_own_is_not_confined(ledger: Ledger, tmp_path: Path) -> None:
    (tmp_path / "writer.py").write_text(APPLICATION)
    site = live_site(tmp_path, upstream={"http": "app:writer:make"}, logging={"level": "debug"})
    async with Daemon.running(ledger, site.file, environ={"PYTHONPATH": str(tmp_path)}) as daemon:
        assert not (await daemon.event("process.confined"))["writes"]
        async with Connection.to(daemon, site.authority) as client:
            answer = await client.ask(headers={"x-place": str(tmp_path / "elsewhere")})
            assert answer.body == b"written"


def test_nothing_has_begun_a_thread_that_would_be_left_out() -> None:
    count = "import os, rekeyd.cli; print(len(os.listdir('/proc/self/task')))"
    done = subprocess.run([sys.executable, "-c", count], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_none_of_these_folders_moves_while_it_runs() -> None:
    """What was allowed at the start is what is written to until the end."""
    places = {"admin.socket", "state.directory", "logging.audit"}
    fixed = {described.key for described in describe() if not described.reloadable}
    assert places <= fixed
