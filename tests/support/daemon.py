"""The real rekeyd as a process: started, listened to, signalled, stopped.

    async with Daemon.running(ledger, settings_file, secrets=[key]) as daemon:
        since = daemon.mark()
        daemon.signal(signal.SIGHUP)
        await daemon.event("reload.applied", since=since, trigger="signal")

Leaving the block stops the daemon with SIGTERM and asserts that it exits with status 0, that it said nothing
on stderr, and that none of the session's secrets is in anything that it told.
"""

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from support.secrets import Ledger

_SERVICE_MANAGERS = {"NOTIFY_SOCKET", "FDSTORE", "WATCHDOG_USEC", "WATCHDOG_PID"}
SOURCE_ROOT = Path(__file__).parents[2] / "daemon"
Event = dict[str, Any]


class Daemon:
    """A running process that tells its events as JSON lines. Events may be awaited from one event loop."""

    def __init__(
        self,
        command: Sequence[str],
        *,
        ledger: Ledger,
        environ: Mapping[str, str] | None = None,
        descriptors: Mapping[str, int] | None = None,
    ) -> None:
        """`descriptors` are handed over by name, as a service manager does it (sd_listen_fds(3))."""
        self.events: list[Event] = []
        self.stray: list[str] = []
        """Lines of stdout that are no JSON object."""
        self._ledger = ledger
        self._changed = threading.Condition()
        self._wakers: set[Callable[[], None]] = set()
        self._ended = False
        handed = descriptors or {}
        self.process = subprocess.Popen(
            [*_handing_over(handed), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=_environment({**_workers(command), **(environ or {})}),
            pass_fds=tuple(handed.values()),
            start_new_session=True,
        )
        self.pid = self.process.pid
        self.transcripts = {
            name: ledger.transcript(f"{self.pid}.{name}") for name in ("stdout", "stderr", "cmdline")
        }
        for path in self.transcripts.values():
            path.touch()
        self._readers = [self._read(self.process.stdout, "stdout"), self._read(self.process.stderr, "stderr")]

    @classmethod
    @contextlib.asynccontextmanager
    async def running(
        cls,
        ledger: Ledger,
        settings: Path,
        *,
        secrets: Iterable[str] = (),
        environ: Mapping[str, str] | None = None,
        descriptors: Mapping[str, int] | None = None,
        command: Sequence[str] = (sys.executable, "-X", "faulthandler", "-m", "rekeyd", "serve", "-c"),
    ) -> AsyncIterator["Daemon"]:
        """`command` with `settings` at its end, ready to serve; stopped and looked through at the end."""
        for secret in secrets:
            ledger.add(secret, settings.name)
        daemon = cls([*command, str(settings)], ledger=ledger, environ=environ, descriptors=descriptors)
        try:
            await daemon.event("daemon.started")
            daemon.note_command_line()
            yield daemon
            await daemon.stop()
        finally:
            daemon.kill()
        daemon.assert_nothing_leaked()

    # What it says

    def mark(self) -> int:
        """Where the events stand now: `since` for what comes later."""
        return len(self.events)

    def told(self, name: str, *, since: int = 0, **fields: Any) -> list[Event]:
        """The events of that name that have come, in which each of `fields` is as given."""
        return [
            event
            for event in self.events[since:]
            if event.get("event") == name and all(event.get(key) == value for key, value in fields.items())
        ]

    async def event(
        self,
        name: str,
        *,
        since: int = 0,
        timeout: float = 10.0,  # noqa: ASYNC109 - what was said instead is told here
        **fields: Any,
    ) -> Event:
        """The first such event, waited for; AssertionError with what was said instead after `timeout` s."""
        return (await self.several(1, name, since=since, timeout=timeout, **fields))[0]

    async def several(
        self,
        count: int,
        name: str,
        *,
        since: int = 0,
        timeout: float = 10.0,  # noqa: ASYNC109 - what was said instead is told here
        **fields: Any,
    ) -> list[Event]:
        """At least `count` such events, as soon as they have come."""
        loop = asyncio.get_running_loop()
        news = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(news.set)

        with self._changed:
            self._wakers.add(wake)
        try:
            async with asyncio.timeout(timeout):
                while len(found := self.told(name, since=since, **fields)) < count:
                    assert not self._ended, self._story(f"it ended before {count} {name} {fields}")
                    await news.wait()
                    news.clear()
        except TimeoutError:
            raise AssertionError(self._story(f"not within {timeout:g} s: {count} {name} {fields}")) from None
        finally:
            with self._changed:
                self._wakers.discard(wake)
        return found

    @property
    def started(self) -> Event:
        return self.told("daemon.started")[0]

    def port_of(self, listener: str) -> int:
        """The port of a listener, as `daemon.started` tells it."""
        return next(int(each["port"]) for each in self.started["listeners"] if each["name"] == listener)

    @property
    def port(self) -> int:
        return self.port_of("http")

    @property
    def url(self) -> str:
        tls = next(each["tls"] for each in self.started["listeners"] if each["name"] == "http")
        return f"{'https' if tls else 'http'}://127.0.0.1:{self.port}"

    @property
    def stderr(self) -> str:
        return self.transcripts["stderr"].read_text(errors="backslashreplace")

    @property
    def workers(self) -> int:
        """How many serve. What is promised of each (README, "Several processes") counts so many times."""
        return len({event["worker"] for event in self.told("worker.started")}) or 1

    # What is done to it

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def stop(
        self,
        *,
        timeout: float = 15.0,  # noqa: ASYNC109 - what was said instead is told here
        status: int = 0,
        quiet: bool = True,
    ) -> None:
        """SIGTERM, and assert that it exits with `status`, having said nothing on stderr if `quiet`."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        assert await self.exited(timeout=timeout) == status, self._story("its exit status is another")
        assert not (quiet and self.stderr), self._story("it wrote on stderr")

    async def exited(
        self,
        *,
        timeout: float = 15.0,  # noqa: ASYNC109 - what was said instead is told here
    ) -> int:
        """Its exit status, once it ends by itself."""
        try:
            status = await asyncio.to_thread(self.process.wait, timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(self._story(f"it has not ended within {timeout:g} s")) from None
        await asyncio.to_thread(self._finish_reading)
        return status

    def kill(self) -> None:
        """Make sure that it is gone."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._finish_reading()

    # What must not be told

    def secret(self, value: str) -> str:
        """`value`, from now on looked for in all that is told."""
        self._ledger.add(value, f"daemon {self.pid}")
        return value

    def note_command_line(self) -> None:
        """Keep what other users see of it in /proc."""
        self.transcripts["cmdline"].write_bytes(Path(f"/proc/{self.pid}/cmdline").read_bytes())

    def assert_nothing_leaked(self) -> None:
        leaks = [leak for path in self.transcripts.values() for leak in self._ledger.leaks_in(path)]
        assert not leaks, "\n".join(leaks)

    # Reading

    def _read(self, stream: IO[bytes] | None, name: str) -> threading.Thread:
        assert stream is not None
        thread = threading.Thread(
            target=self._keep, args=(stream, name), name=f"{self.pid}.{name}", daemon=True
        )
        thread.start()
        return thread

    def _keep(self, stream: IO[bytes], name: str) -> None:
        with self.transcripts[name].open("ab", buffering=0) as transcript, stream:
            for line in stream:
                transcript.write(line)
                if name == "stdout":
                    self._take(line)
        if name == "stdout":
            self._ended = True
            self._wake()

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if isinstance(event, dict):
            self.events.append(event)
        else:
            self.stray.append(line.decode(errors="backslashreplace"))
        self._wake()

    def _wake(self) -> None:
        with self._changed:
            for wake in self._wakers:
                wake()

    def _finish_reading(self) -> None:
        for thread in self._readers:
            thread.join(5)

    def _story(self, problem: str) -> str:
        said = self.transcripts["stdout"].read_text(errors="backslashreplace").splitlines()[-30:]
        lines = [f"{problem} (exit status {self.process.poll()})", *said, "stderr:", self.stderr[-4000:]]
        return "\n".join(lines)


_HAND_OVER = """
import fcntl, os, sys
names, numbers, *command = sys.argv[1:]
away = [fcntl.fcntl(int(number), fcntl.F_DUPFD, 100) for number in numbers.split(",")]
for place, number in enumerate(away, start=3):
    os.dup2(number, place)
    os.close(number)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(away)), "LISTEN_FDNAMES": names}
os.execv(command[0], command)
"""


def _handing_over(descriptors: Mapping[str, int]) -> list[str]:
    """What is put before a command so that it finds these where it looks for them, from 3 on."""
    if not descriptors:
        return []
    numbers = ",".join(map(str, descriptors.values()))
    return [sys.executable, "-c", _HAND_OVER, ":".join(descriptors), numbers]


WORKERS = "REKEYD_TEST_WORKERS"
"""How many workers each daemon has, where its own settings don't say."""


def _environment(own: Mapping[str, str]) -> dict[str, str]:
    """Ours without rekeyd's settings and the service manager's, so that no test depends on who runs it."""
    kept = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("REKEYD__", "QDRANT__", "COV_", "PYTEST_")) and key not in _SERVICE_MANAGERS
    }
    path = os.pathsep.join(filter(None, [str(SOURCE_ROOT), os.environ.get("PYTHONPATH", "")]))
    unbuffered = {"PYTHONPATH": path, "PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "1"}
    return kept | unbuffered | dict(own)


def _workers(command: Sequence[str]) -> dict[str, str]:
    """How many workers a daemon has whose settings, of which the command names the file, don't say it."""
    files = [Path(argument) for argument in command if argument.endswith(".yaml")]
    told = any("workers" in file.read_text(errors="replace") for file in files if file.is_file())
    return {"REKEYD__SERVICE__WORKERS": os.environ[WORKERS]} if WORKERS in os.environ and not told else {}
