"""`rekeyd demo`: what it stages, and that what it tells people to try works."""

import asyncio
import contextlib
import json
import os
import pty
import re
import shutil
import signal
import ssl
import stat
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio
from cryptography import x509

from rekeyd.demo import Stage, state_directory
from rekeyd.settings import parse
from support.daemon import SOURCE_ROOT, Daemon
from support.live import Connection, serial_of
from support.secrets import Ledger
from support.waiting import eventually

# The real command, save that it needn't be waited for so long.
EVERY = 0.5
DEMO = f"""
import functools
from rekeyd import cli
cli.Stage = functools.partial(cli.Stage, every={EVERY})
cli.entry_point()
"""


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    stage = Stage(tmp_path / "demo")
    stage.set()
    return stage


def served_by(stage: Stage) -> x509.Certificate:
    return x509.load_pem_x509_certificate((stage.directory / "current" / "tls.crt").read_bytes())


def test_all_that_it_writes_is_its_owners_alone(stage: Stage) -> None:
    for path in [stage.directory, *stage.directory.rglob("*")]:
        if not path.is_symlink():
            assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_its_settings_are_good_and_its_keys_random(stage: Stage, tmp_path: Path) -> None:
    other = Stage(tmp_path / "other")
    other.set()
    keys = set()
    for each in (stage, other):
        parsed = parse(each.settings_file.read_bytes(), file=each.settings_file, environ={})
        assert parsed.warnings == ()
        service = parsed.settings.service
        assert service.api_key is not None
        assert service.read_only_api_key is not None
        keys |= {service.api_key.get_secret_value(), service.read_only_api_key.get_secret_value()}
        assert parsed.settings.admin.socket == each.directory / "admin.sock"
    assert len(keys) == 4


def test_each_rotation_is_a_new_pair_behind_the_same_link(stage: Stage) -> None:
    authority = x509.load_pem_x509_certificate(stage.ca_file.read_bytes())
    seen = set()
    for _ in range(4):
        certificate = served_by(stage)
        certificate.verify_directly_issued_by(authority)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(
            stage.directory / "current" / "tls.crt", stage.directory / "current" / "tls.key"
        )
        seen.add(certificate.serial_number)
        stage.rotate()
    assert len(seen) == 4
    pairs = sorted(path.name for path in stage.directory.glob("pair-*"))
    assert pairs == ["pair-4", "pair-5"], "what is read at this moment may still be the one before"


def test_what_an_earlier_demo_left_is_no_hindrance(stage: Stage) -> None:
    stage.rotate()
    (stage.directory / "current.new").symlink_to("nowhere")
    again = Stage(stage.directory)
    again.set()
    assert [path.name for path in again.directory.glob("pair-*")] == ["pair-1"]
    served_by(again).verify_directly_issued_by(x509.load_pem_x509_certificate(again.ca_file.read_bytes()))


def test_a_state_directory_too_deep_for_a_socket_does_without_one(tmp_path: Path) -> None:
    stage = Stage(tmp_path / ("deep" * 30))
    stage.set()
    assert "admin" not in stage.settings_file.read_text()


@pytest.mark.parametrize(
    ("environ", "directory"),
    [
        ({"XDG_STATE_HOME": "/var/tmp/state"}, Path("/var/tmp/state/rekeyd/demo")),  # noqa: S108 - not written to
        ({"XDG_STATE_HOME": "relative"}, Path.home() / ".local/state/rekeyd/demo"),
        ({}, Path.home() / ".local/state/rekeyd/demo"),
    ],
)
def test_its_files_go_where_state_belongs(environ: dict[str, str], directory: Path) -> None:
    assert state_directory(environ) == directory


# The command


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def demo(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Daemon]:
    """Its output is a pipe. It may tell its keys on stderr, and there alone."""
    state = tmp_path_factory.mktemp("state")
    daemon = Daemon([sys.executable, "-c", DEMO, "demo", "--state", str(state)], ledger=ledger)
    try:
        await daemon.event("daemon.started")
        await eventually(lambda: "Ctrl-C" in daemon.stderr, what="the lines to copy")
        yield daemon
        await daemon.stop(quiet=False)
    finally:
        daemon.kill()


def lines_to_copy(daemon: Daemon) -> list[str]:
    return [line.strip() for line in daemon.stderr.splitlines() if line.startswith("  curl")]


def shell(line: str, *, seconds: int = 20) -> bytes:
    """What a line prints when it is pasted into a shell; a stream is ended after so many seconds."""
    done = subprocess.run(["timeout", str(seconds), "sh", "-c", line], capture_output=True, timeout=40)  # noqa: PLW1510
    assert done.returncode in {0, 124}, done.stderr.decode()
    return done.stdout


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.asyncio(loop_scope="module")
async def test_every_line_that_it_tells_to_copy_works(demo: Daemon) -> None:
    allowed, reader, forbidden, stranger, serial, stream = lines_to_copy(demo)
    told = json.loads(await asyncio.to_thread(shell, allowed))
    assert told["who"] == {"key": "api_key", "right": "manage"}
    assert told["how"]["tls"] == "TLSv1.3"
    assert told["what"]["method"] == "PUT"
    assert json.loads(await asyncio.to_thread(shell, reader))["who"]["key"] == "read_only_api_key"
    assert b"Forbidden" in await asyncio.to_thread(shell, forbidden)
    assert await asyncio.to_thread(shell, stranger) == b"Invalid API key or JWT"
    shown = await asyncio.to_thread(shell, serial)
    assert re.fullmatch(rb"Serial Number:\s*[0-9a-fA-F]+\n", shown)
    assert (await asyncio.to_thread(lambda: shell(stream, seconds=2))).startswith(b"data: ")


@pytest.mark.asyncio(loop_scope="module")
async def test_its_certificate_changes_while_a_connection_stays_open(demo: Daemon) -> None:
    trust = ssl.create_default_context(cafile=Path(demo.started["admin"]).parent / "ca.pem")
    async with Connection.to(demo, trust) as stays:
        before = demo.mark()
        first, second = await demo.several(2, "reload.applied", since=before, trigger="watch")
        assert serial_of(first) != serial_of(second)
        answer = await stays.ask("/", key=None)
        assert answer.json()["who"] == {"key": "none", "right": "none"}
        async with Connection.to(demo, trust) as fresh:
            assert fresh.serial != stays.serial


@pytest.mark.asyncio(loop_scope="module")
async def test_into_a_pipe_it_tells_json_and_no_key(demo: Daemon) -> None:
    assert demo.events
    assert demo.stray == []
    keys = set(re.findall(r"api-key: (demo-[\w-]+)", demo.stderr))
    assert len(keys) == 2
    told = demo.transcripts["stdout"].read_text()
    assert not [key for key in keys if key in told]


@contextlib.contextmanager
def on_a_terminal(*arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The command on a terminal; and the terminal's other end."""
    ours, theirs = pty.openpty()
    environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT), "TERM": "xterm-256color"}
    environ.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-c", DEMO, *arguments], stdin=theirs, stdout=theirs, stderr=theirs, env=environ
    )
    os.close(theirs)
    try:
        yield process, ours
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        os.close(ours)


def read_until(terminal: int, mark: bytes) -> bytes:
    seen = b""
    while mark not in seen:
        seen += os.read(terminal, 4096)
    return seen


def test_on_a_terminal_it_is_human_and_coloured(tmp_path: Path) -> None:
    with on_a_terminal("demo", "--state", str(tmp_path)) as (process, terminal):
        seen = read_until(terminal, b"Ctrl-C ends it.")
        seen += read_until(terminal, b"watch")
        process.send_signal(signal.SIGINT)
        seen += read_until(terminal, b"daemon.stopped")
        assert process.wait(15) == 0
    text = seen.decode()
    assert "\x1b[32mreload.applied" in text
    assert "server_certificate serial" in text
    assert '{"' not in text
    plain = re.sub(r"\x1b\[\d+m", "", text)
    assert "\x1b" not in plain
    assert re.search(r"^\d\d:\d\d:\d\d  daemon.started ", plain, re.MULTILINE)
