"""The servers that are compared, each told to do the same: serve TLS with one certificate, let in one API key
and answer 401 to everybody else, pass on to one upstream, with one worker, and write a JSON line for each
request or none.

Where defaults are for another purpose they are set as rekeyd is: bodies are passed on as they come, not
stored first, connections to the upstream are kept, and idle clients may stay.
"""

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, ClassVar

from bench.processes import cpu_of, memory_of
from support.peers import free_port
from support.pki import Authority, Leaf

KEY = "a-made-up-key-that-may-do-everything"
PATIENCE = 20.0


@dataclass(frozen=True, slots=True)
class Task:
    """What a server is started for."""

    folder: Path
    """A new one, for this server alone."""
    authority: Authority
    leaf: Leaf
    upstream: int
    """The port of the upstream."""
    log: bool
    """Write a line for every request."""
    program: str
    """The path of the server's program."""
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)
    """More settings for rekeyd."""


class MissingError(Exception):
    """A server that is not to be had here, and what would help."""


class Server:
    """One that runs. What it writes on its standard output and error is in `folder/out`."""

    program: ClassVar[str]
    """What it is started as."""
    package: ClassVar[str]
    """What to install to have it."""

    def __init__(self, task: Task) -> None:
        self.task = task
        self.folder = task.folder
        self.port = free_port()
        task.leaf.write(self.folder)
        pem = (self.folder / "tls.crt").read_bytes() + (self.folder / "tls.key").read_bytes()
        (self.folder / "tls.pem").write_bytes(pem)
        task.authority.write(self.folder / "ca.crt")
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
        found = str(own) if own.exists() else shutil.which(cls.program, path="/usr/sbin:/usr/bin:/sbin:/bin")
        if found is None:
            raise MissingError(f"{cls.program} is not installed: {cls.package}")
        return found

    @classmethod
    def version(cls, program: str) -> str:
        raise NotImplementedError

    def command(self) -> list[str]:
        """How it is started, with its configuration written."""
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": str(self.folder)}

    def write(self, name: str, text: str, **words: object) -> Path:
        """A file of configuration: `@word@` stands for a value."""
        known = {"folder": self.folder, "port": self.port, "upstream": self.task.upstream, "key": KEY}
        for word, value in {**known, **words}.items():
            text = text.replace(f"@{word}@", str(value))
        path = self.folder / name
        path.write_text(text)
        return path

    def await_start(self) -> None:
        """Until it takes connections. Raises RuntimeError with what it said if it does not."""
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
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
    package = "make .venv/.installed-dev"

    def command(self) -> list[str]:
        own: dict[str, dict[str, Any]] = {
            "service": {
                "host": "127.0.0.1",
                "http_port": self.port,
                "enable_tls": True,
                "api_key": KEY,
                "idle_timeout": 600,
            },
            "tls": {"cert": "tls.crt", "key": "tls.key"},
            "upstream": {"http": f"http://127.0.0.1:{self.task.upstream}"},
            "access": {"failures_per_minute": 1_000_000},
            "admin": {"socket": "admin.sock"},
            "state": {"directory": "state"},
            "logging": {"decisions": "all" if self.task.log else "denied"},
        }
        more = self.task.settings
        settings = {name: {**own.get(name, {}), **more.get(name, {})} for name in own | more}
        return [self.task.program, "serve", "-c", str(self.write("rekeyd.yaml", json.dumps(settings)))]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "--version").split()[-1]


class Nginx(Server):
    program = "nginx"
    package = "apt-get install nginx-light"

    def command(self) -> list[str]:
        log = "access_log @folder@/access.log json" if self.task.log else "access_log off"
        return [self.task.program, "-c", str(self.write("nginx.conf", NGINX.replace("@log@", log)))]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "-v").rpartition("/")[2].strip()


class Haproxy(Server):
    program = "haproxy"
    package = "apt-get install haproxy"

    def command(self) -> list[str]:
        log = HAPROXY_LOG if self.task.log else "no log"
        return [self.task.program, "-W", "-f", str(self.write("haproxy.cfg", HAPROXY.replace("@log@", log)))]

    @classmethod
    def version(cls, program: str) -> str:
        return told_by(program, "-v").split()[2].partition("-")[0]


NGINX = """
daemon off; worker_processes 1; worker_rlimit_nofile 20000; pid @folder@/pid; error_log @folder@/error.log;
events { worker_connections 20000; }
http {
  log_format json escape=json '{"timestamp":"$time_iso8601","client":"$remote_addr",'
    '"method":"$request_method","path":"$uri","status":$status,"request_id":"$request_id","duration":$request_time,"tls":"$ssl_protocol"}';
  @log@;
  client_body_temp_path @folder@; proxy_temp_path @folder@; fastcgi_temp_path @folder@;
  uwsgi_temp_path @folder@; scgi_temp_path @folder@;
  keepalive_timeout 600; keepalive_requests 1000000000; client_max_body_size 32m;
  ssl_certificate @folder@/tls.crt; ssl_certificate_key @folder@/tls.key; ssl_protocols TLSv1.2 TLSv1.3;
  upstream service { server 127.0.0.1:@upstream@; keepalive 64; keepalive_requests 1000000000; }
  server {
    listen 127.0.0.1:@port@ ssl;
    location / {
      if ($http_api_key != "@key@") { return 401; }
      proxy_pass http://service; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_set_header Host $host; proxy_set_header api-key "";
      proxy_request_buffering off; proxy_max_temp_file_size 0;
    }
  }
}
"""

HAPROXY = """
global
  nbthread 1
  maxconn 9000
  ssl-default-bind-options ssl-min-ver TLSv1.2
defaults
  mode http
  timeout connect 5s
  timeout client 600s
  timeout server 600s
  timeout http-keep-alive 600s
  option http-keep-alive
frontend door
  bind 127.0.0.1:@port@ ssl crt @folder@/tls.pem alpn http/1.1
  http-request deny deny_status 401 unless { req.hdr(api-key) -m str @key@ }
  http-request del-header api-key
  @log@
  default_backend service
backend service
  http-reuse always
  server one 127.0.0.1:@upstream@
"""
HAPROXY_LOG = """log stdout format raw local0 info
  log-format '{"timestamp":"%[date,ltime(%FT%T)]","client":"%ci","method":"%HM",\
"path":"%[var(txn.path),json]","status":%ST,"duration":%Ta,"tls":"%sslv"}'
  http-request set-var(txn.path) path"""

SERVERS: dict[str, type[Server]] = {"rekeyd": Rekeyd, "nginx": Nginx, "haproxy": Haproxy}
