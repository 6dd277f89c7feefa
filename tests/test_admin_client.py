"""What a command hears of the daemon. What the daemon answers is seen in `test_admin`."""

import subprocess
import sys
from pathlib import Path

import pytest

from rekeyd.settings import Admin
from rekeyd.system.admin_client import NoDaemon, ask, socket_named_by


def test_where_nobody_listens_there_is_no_daemon(tmp_path: Path) -> None:
    with pytest.raises(NoDaemon, match="no daemon answers there"):
        ask(tmp_path / "nobody.sock", "GET", "/status")


def test_the_socket_follows_the_service_manager_unless_it_is_set(tmp_path: Path) -> None:
    environ = {"RUNTIME_DIRECTORY": "/run/rekeyd-one"}
    assert socket_named_by(Admin(), environ) == Path("/run/rekeyd-one/admin.sock")
    assert socket_named_by(Admin(socket=tmp_path / "own.sock"), environ) == tmp_path / "own.sock"


def test_a_command_that_asks_does_not_load_a_server() -> None:
    told = subprocess.run(
        [sys.executable, "-c", "import sys, rekeyd.cli; print('aiohttp' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "False\n"
