"""The harness itself, on a stand-in for the daemon: it must hear what is said, and find what must not be."""

import asyncio
import signal
import socket
import sys
from pathlib import Path

import pytest

from rekeyd.system.event_loop import VARIABLE
from support.daemon import Daemon
from support.loops import Timers, new_loop
from support.secrets import Ledger
from support.waiting import eventually

STAND_IN = """
import json, os, signal, sys, time
def tell(event, **fields):
    print(json.dumps({"timestamp": "", "level": "info", "event": event} | fields), flush=True)
def hangup(*_): tell("reload.applied", trigger="signal", number=next(numbers))
def term(*_): raise SystemExit(int(os.environ.get("STATUS", "0")))
numbers = iter(range(100))
signal.signal(signal.SIGHUP, hangup); signal.signal(signal.SIGTERM, term)
with open(sys.argv[1]) as script: exec(script.read())
tell("daemon.started", pid=os.getpid(), listeners=[{"name": "http", "host": "::", "port": 6333, "tls": True}])
while True: signal.pause()
"""
SECRET = 'a "made-up" secret'


@pytest.fixture
def own_ledger(tmp_path: Path) -> Ledger:
    """Not the session's: here secrets are told on purpose."""
    folder = tmp_path / "transcripts"
    folder.mkdir()
    return Ledger(folder)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "stand-in.py"
    path.touch()
    return path


COMMAND = (sys.executable, "-c", STAND_IN)


async def test_events_are_awaited_matched_and_counted(own_ledger: Ledger, script: Path) -> None:
    async with Daemon.running(own_ledger, script, command=COMMAND) as daemon:
        assert daemon.started["pid"] == daemon.pid
        assert (daemon.port, daemon.url) == (6333, "https://127.0.0.1:6333")
        daemon.signal(signal.SIGHUP)
        await daemon.event("reload.applied", trigger="signal", number=0)
        since = daemon.mark()
        daemon.signal(signal.SIGHUP)
        assert (await daemon.event("reload.applied", since=since))["number"] == 1
        assert len(await daemon.several(2, "reload.applied")) == 2


async def test_an_event_that_does_not_come_is_told_with_what_came_instead(
    own_ledger: Ledger, script: Path
) -> None:
    script.write_text("tell('something.else')\n")
    async with Daemon.running(own_ledger, script, command=COMMAND) as daemon:
        with pytest.raises(AssertionError, match=r"(?s)not within 0\.1 s.*something\.else"):
            await daemon.event("reload.applied", timeout=0.1)


async def test_a_daemon_that_ends_early_is_not_waited_for(own_ledger: Ledger, script: Path) -> None:
    script.write_text("raise SystemExit('the settings are wrong')\n")
    with pytest.raises(AssertionError, match=r"(?s)it ended before.*the settings are wrong"):
        async with Daemon.running(own_ledger, script, command=COMMAND):
            pass


async def test_a_daemon_that_ends_badly_or_writes_on_stderr_fails_its_test(
    own_ledger: Ledger, script: Path
) -> None:
    with pytest.raises(AssertionError, match="exit status is another"):
        async with Daemon.running(own_ledger, script, command=COMMAND, environ={"STATUS": "1"}):
            pass
    script.write_text("print('Traceback', file=sys.stderr)\n")
    with pytest.raises(AssertionError, match="wrote on stderr"):
        async with Daemon.running(own_ledger, script, command=COMMAND):
            pass


async def test_a_daemon_is_gone_when_its_test_fails(own_ledger: Ledger, script: Path) -> None:
    running = Daemon.running(own_ledger, script, command=COMMAND)
    daemon = await running.__aenter__()
    assert Path(f"/proc/{daemon.pid}").exists()
    assert not await running.__aexit__(RuntimeError, RuntimeError("the test fails"), None)
    assert not Path(f"/proc/{daemon.pid}").exists()


@pytest.mark.parametrize(
    ("line", "form"),
    [
        ("tell('x', key=SECRET)", "JSON"),
        ("tell('x', key=repr(SECRET))", "JSON"),
        ("print(SECRET)", "it is"),
        ("tell('x', url='/?key=' + urllib.parse.quote(SECRET))", "percent-encoded"),
        ("tell('x', key=base64.b64encode(SECRET.encode()).decode())", "base64"),
    ],
)
async def test_a_secret_in_any_form_is_found_and_not_told_again(
    own_ledger: Ledger, script: Path, line: str, form: str
) -> None:
    script.write_text(f"import base64, urllib.parse\nSECRET = {SECRET!r}\n{line}\n")
    with pytest.raises(AssertionError, match=form) as caught:
        async with Daemon.running(own_ledger, script, command=COMMAND, secrets=[SECRET]):
            pass
    assert SECRET not in str(caught.value)
    assert own_ledger.leaks()


async def test_a_secret_on_the_command_line_is_found(own_ledger: Ledger, script: Path) -> None:
    with pytest.raises(AssertionError, match="cmdline tells a secret"):
        async with Daemon.running(own_ledger, script, command=(*COMMAND, str(script), SECRET)) as daemon:
            daemon.secret(SECRET)


async def test_a_secret_in_the_environment_is_no_leak(own_ledger: Ledger, script: Path) -> None:
    environ = {"REKEYD__SERVICE__API_KEY": SECRET}
    async with Daemon.running(own_ledger, script, command=COMMAND, environ=environ, secrets=[SECRET]):
        pass
    assert own_ledger.leaks() == []


def test_a_secret_that_could_be_found_by_chance_is_refused(own_ledger: Ledger) -> None:
    with pytest.raises(ValueError, match="by chance"):
        own_ledger.add("short", "a test")


async def test_eventually_gives_the_value_or_says_what_did_not_come() -> None:
    answers = iter([None, 0, "yes"])
    assert await eventually(lambda: next(answers)) == "yes"
    with pytest.raises(AssertionError, match="not within 0 s: the moon"):
        await eventually(lambda: False, timeout=0, what="the moon")


def test_a_connection_that_is_left_open_is_told_and_keeps_no_loop_from_its_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(VARIABLE, "uvloop")
    near, far = socket.socketpair()

    async def leave_open() -> None:
        await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, sock=near)

    runner = asyncio.Runner(loop_factory=new_loop)
    runner.run(leave_open())
    with far, pytest.raises(ResourceWarning, match="unclosed resource <UnixTransport"):
        runner.close()


async def test_timers_are_seen_until_they_are_due_or_cancelled() -> None:
    loop = asyncio.get_running_loop()
    timers = Timers(loop)
    due = asyncio.Event()
    loop.call_later(0.01, due.set)
    later, cancelled = loop.call_at(loop.time() + 1000, due.set), loop.call_later(1000, due.set)
    cancelled.cancel()
    assert len(timers.waiting) == 2
    await due.wait()
    assert timers.waiting == [later]
    later.cancel()
    assert timers.waiting == []
