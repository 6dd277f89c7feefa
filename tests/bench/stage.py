"""What every measurement stands on: an authority and a leaf, an upstream, clients, and servers that are
started and stopped. All of it is gone at the end."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.job import Job, Result
from bench.servers import Server, Task
from support.pki import Authority

TESTS = Path(__file__).parents[1]
SETTLES = 0.25
"""Seconds between a server's last answer and the look at its time: lines may wait to be written."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server, and how it is to be set."""

    name: str
    kind: type[Server]
    program: str
    settings: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """More settings for rekeyd."""


class Stage:
    """Opened with `stage()`."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.authority = Authority()
        self.leaf = self.authority.issue()
        self.authority_file = self.authority.write(folder / "authority.crt")
        self.folder = folder
        self._servers = 0
        self._upstreams: dict[str, int] = {}
        self._stack = stack

    def upstream(self, module: str = "bench.upstream") -> int:
        """The port of an upstream, which runs from the first time that it is asked for."""
        if module not in self._upstreams:
            process = self._stack.enter_context(_child(module))
            assert process.stdout is not None
            self._upstreams[module] = int(process.stdout.readline())
        return self._upstreams[module]

    @contextlib.contextmanager
    def running(
        self, contenders: Sequence[Contender], *, log: bool = False, grpc: bool = False
    ) -> Iterator[dict[str, Server]]:
        """All of them, ready to serve."""
        with ExitStack() as stack:
            servers = {each.name: self._started(each, log, grpc, stack) for each in contenders}
            for server in servers.values():
                server.await_start(self.authority_file)
            yield servers

    def _started(self, contender: Contender, log: bool, grpc: bool, stack: ExitStack) -> Server:
        self._servers += 1
        folder = self.folder / f"{self._servers}-{contender.kind.program}"
        upstream = self.upstream("bench.grpc_upstream" if grpc else "bench.upstream")
        task = Task(folder, self.leaf, upstream, grpc, log, contender.program, contender.settings)
        server = contender.kind(task)
        stack.callback(server.stop)
        return server


@contextlib.contextmanager
def stage() -> Iterator[Stage]:
    with TemporaryDirectory(prefix="rekeyd-bench-") as folder, ExitStack() as stack:
        yield Stage(Path(folder), stack)


@contextlib.contextmanager
def _child(module: str) -> Iterator["subprocess.Popen[str]"]:
    """A process of our own that ends when its standard input does."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(TESTS)},
    )
    with process:
        yield process


class Load:
    """Clients that are connected and warm, and wait for `run`."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process

    @classmethod
    @contextlib.contextmanager
    def of(cls, job: Job) -> Iterator["Load"]:
        with _child("bench.clients") as process:
            load = cls(process)
            load._say(json.dumps(asdict(job)))
            load._hear()
            yield load

    def run(self) -> Result:
        self.start()
        return self.result()

    def start(self) -> None:
        self._say("go")

    def result(self) -> Result:
        """Of what was started, waited for."""
        return Result(**json.loads(self._hear()))

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def _hear(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the clients gave up: what they said is above")
        return line


def settle() -> None:
    time.sleep(SETTLES)  # noqa: TID251 - nothing tells that a server has no more to do
