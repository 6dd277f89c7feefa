"""What it takes to run a server that is measured, and rekeyd as one of them."""

import json
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from bench.processes import cpu_of, memory_of
from bench.wire import connect, trusting
from support.peers import free_port
from support.pki import Leaf, replace_file

KEY = "a-made-up-key-that-may-do-everything"
CONF = Path(__file__).parent / "conf"
SYSTEM = "/usr/sbin:/usr/bin:/sbin:/bin"
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a server is started for."""

    folder: Path
    """A new one, for this server alone."""
    leaf: Leaf
    upstream: int
    """The port of the upstream."""
    grpc: bool
    """Serve gRPC, over HTTP/2 to both sides, instead of HTTP/1.1."""
    log: bool
    """Write a line for every request."""
    program: str
    """The path of the server's program."""
    settings: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """More settings for rekeyd."""


class MissingError(Exception):
    """A server that is not to be had here, and what would help."""


class RefusedError(Exception):
    """A server that will not start with these settings."""


class Server:
    """One that runs. What it writes on its standard output and error is in `folder/out`."""

    program: ClassVar[str]
    """What it is started as."""
    debian: ClassVar[str | None] = None
    """The package of Debian that has it."""
    remedy: ClassVar[str]
    """What else to do to have it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.folder = task.folder
        self.port = free_port()
        self.show(task.leaf)
        self._out: IO[bytes] = (self.folder / "out").open("wb")
        self.process = subprocess.Popen(
            self.command(),
            stdin=subprocess.DEVNULL,
            stdout=self._out,
            stderr=subprocess.STDOUT,
            cwd=self.folder,
            env=self.environ(),
        )

    @classmethod
    def find(cls) -> str:
        """The program's path: that of the virtual environment before the system's. Raises MissingError."""
        own = Path(sys.executable).with_name(cls.program)
        found = str(own) if own.exists() else shutil.which(cls.program, path=SYSTEM)
        if found is None:
            remedy = f"apt-get install {cls.debian}" if cls.debian else cls.remedy
            raise MissingError(f"{cls.program} is not installed: {remedy}")
        return found

    @classmethod
    def version(cls, program: str) -> str:
        raise NotImplementedError

    def command(self) -> list[str]:
        """How it is started, with its configuration written."""
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return {"PATH": SYSTEM, "HOME": str(self.folder)}

    def configure(self, template: str, **words: object) -> Path:
        """A file of `conf`, written with its values: `@word@` stands for one."""
        return self.write(template, (CONF / template).read_text(), **words)

    def write(self, name: str, text: str, **words: object) -> Path:
        known = {"folder": self.folder, "port": self.port, "upstream": self.task.upstream, "key": KEY}
        for word, value in {**words, **known}.items():
            text = text.replace(f"@{word}@", str(value))
        path = self.folder / name
        path.write_text(text)
        return path

    def show(self, leaf: Leaf) -> None:
        """Write a certificate and its key, in two files and in one."""
        leaf.write(self.folder)
        replace_file(self.folder / "tls.pem", leaf.chain_pem + leaf.key_pem)

    def rotate(self, leaf: Leaf) -> None:
        """Serve another certificate from now on, in the way that the server has for it."""
        raise NotImplementedError

    def await_start(self, authority: Path) -> None:
        """Until it shows its certificate.

        Raises:
            RefusedError: it does not take its settings.
            RuntimeError: it does not serve; with what it said.
        """
        trust, deadline = trusting(str(authority)), time.monotonic() + PATIENCE
        while True:
            try:
                connect(self.port, trust).close()
            except OSError:
                if self.process.poll() == 2:
                    raise RefusedError(self.said()) from None
                if self.process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"{self.program} does not serve: {self.said()}") from None
                threading.Event().wait(0.05)
            else:
                return

    def said(self) -> str:
        return (self.folder / "out").read_text(errors="replace")[-2000:]

    def cpu(self) -> float:
        """Seconds of CPU that it and its children have spent."""
        return cpu_of(self.process.pid)

    def memory(self) -> int:
        return memory_of(self.process.pid)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._out.close()


def told_by(*command: str) -> str:
    """What a command says on either output."""
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True)
    return done.stdout


class Rekeyd(Server):
    program = "rekeyd"
    remedy = "make .venv/.installed-dev"

    def command(self) -> list[str]:
        http, grpc = (free_port(), self.port) if self.task.grpc else (self.port, None)
        upstream = f"127.0.0.1:{self.task.upstream}"
        own: dict[str, dict[str, Any]] = {
            "service": {
                "host": "127.0.0.1",
                "http_port": http,
                "grpc_port": grpc,
                "enable_tls": True,
                "api_key": KEY,
                "idle_timeout": 600,
            },
            "tls": {"cert": "tls.crt", "key": "tls.key"},
            "upstream": {"http": "demo", "grpc": upstream} if grpc else {"http": f"http://{upstream}"},
            "access": {"failures_per_minute": 1_000_000},
            "admin": {"socket": "admin.sock"},
            "state": {"directory": "state"},
            "logging": {"decisions": "all" if self.task.log else "denied"},
        }
        more = self.task.settings
        settings = {name: {**own.get(name, {}), **more.get(name, {})} for name in {**own, **more}}
        return [self.task.program, "serve", "-c", str(self.write("rekeyd.yaml", json.dumps(settings)))]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "--version").split()[-1]

    def rotate(self, leaf: Leaf) -> None:
        self.show(leaf)  # the file watch does the rest
