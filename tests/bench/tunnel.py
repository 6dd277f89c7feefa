"""What a MiB through a tunnel costs beside nginx's `stream`: in tests,
`python -m bench.tunnel [MiB] [rounds]`.

Two processes of each kind stand between a sender and a receiver: one takes plaintext and wraps it in mutual
TLS 1.3, the other unwraps it. They take turns, so that the moods of the machine hit all alike. CPU is what
the kernel counts for all their processes, user and system; nothing of the sender and the receiver is in it.
Needs nginx with its stream module (Debian: nginx-light, libnginx-mod-stream). Nothing is asserted.
"""

# ruff: noqa: T201 - what it prints is what it is for

import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from support.peers import free_port
from support.pki import Authority

ROOT = Path(__file__).parents[2]
TICKS = os.sysconf("SC_CLK_TCK")
PIECE = b"x" * (256 * 1024)
MIB = 1 << 20


class Pair:
    """Two processes that make a tunnel: what is sent to `entrance` comes out at `exit_port`."""

    def __init__(self, name: str, folder: Path, authority: Authority) -> None:
        self.name = name
        self.folder = folder / name
        self.folder.mkdir()
        self.entrance, self.between, self.exit_port = free_port(), free_port(), free_port()
        self.processes: list[subprocess.Popen[bytes]] = []
        for side in ("one", "two"):
            authority.issue(f"{side}.test", peer=True).write(self.folder / side)
            authority.write(self.folder / side / "ca.crt")

    def start(self) -> None:
        raise NotImplementedError

    def stop(self) -> None:
        for process in self.processes:
            process.terminate()
            process.wait(15)

    def cpu(self) -> float:
        """Seconds that its processes and their children used so far."""
        return sum(map(_cpu_of, self._pids()))

    def _pids(self) -> Iterator[int]:
        for process in self.processes:
            yield process.pid
            yield from map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split())

    def _run(self, *command: str) -> None:
        self.processes.append(
            subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=self.folder)
        )


class Rekeyd(Pair):
    def start(self) -> None:
        self._start(
            "two",
            {
                "port": self.between,
                "upstream": f"127.0.0.1:{self.exit_port}",
                "allowed_peers": ["dns:one.test"],
            },
        )
        leads_to = {
            "listen": f"127.0.0.1:{self.entrance}",
            "connect": f"127.0.0.1:{self.between}",
            "expect": "dns:two.test",
        }
        self._start("one", {"port": free_port(), "upstream": "127.0.0.1:1", "peers": [leads_to]})

    def _start(self, side: str, p2p: dict[str, object]) -> None:
        settings = {
            "service": {"host": "127.0.0.1", "http_port": 0, "insecure": True},
            "tls": {"cert": "tls.crt", "key": "tls.key", "ca_cert": "ca.crt"},
            "upstream": {"http": "demo"},
            "admin": {"socket": None},
            "cluster": {"p2p": {"enable_tls": True, **p2p}},
        }
        file = self.folder / side / "rekeyd.yaml"
        file.write_text(json.dumps(settings))
        self._run(sys.executable, "-m", "rekeyd", "serve", "-c", str(file))


class Nginx(Pair):
    COMMON = """
    daemon off; worker_processes 1; pid {folder}/{side}/pid; error_log {folder}/{side}/error.log;
    {module}
    events {{ worker_connections 256; }}
    stream {{
      server {{
        listen 127.0.0.1:{listen}{ssl};
        proxy_pass 127.0.0.1:{to};
        {tls}
      }}
    }}
    """
    OURS = (
        "{p}_certificate {folder}/{side}/tls.crt; {p}_certificate_key {folder}/{side}/tls.key;"
        "{p}_protocols TLSv1.3;"
    )

    def start(self) -> None:
        accepting = self.OURS + " ssl_client_certificate {folder}/{side}/ca.crt; ssl_verify_client on;"
        dialing = (
            "proxy_ssl on; proxy_ssl_verify on; proxy_ssl_name two.test;"
            "proxy_ssl_trusted_certificate {folder}/{side}/ca.crt;" + self.OURS
        )
        self._start("two", accepting, listen=self.between, to=self.exit_port, ssl=" ssl", p="ssl")
        self._start("one", dialing, listen=self.entrance, to=self.between, ssl="", p="proxy_ssl")

    def _start(self, side: str, tls: str, **words: object) -> None:
        common = {"folder": self.folder, "side": side}
        module = next(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"), None)
        load = f"load_module {module};" if module else ""
        text = self.COMMON.format(**common, **words, module=load, tls=tls.format(**common, **words))
        file = self.folder / side / "nginx.conf"
        file.write_text(text)
        self._run("nginx", "-c", str(file), "-p", str(self.folder / side))


def _cpu_of(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def _connect(port: int) -> socket.socket:
    """A connection, once somebody listens."""
    for _ in range(200):
        try:
            return socket.create_connection(("127.0.0.1", port))
        except ConnectionRefusedError:
            threading.Event().wait(0.05)
    raise SystemExit(f"nobody listens on {port}")


def transfer(pair: Pair, size: int) -> tuple[float, float]:
    """Send so many bytes through; CPU seconds of the tunnel, and seconds on the clock."""
    with socket.create_server(("127.0.0.1", pair.exit_port)) as listening:
        entrance = _connect(pair.entrance)
        arrived, _ = listening.accept()
        with entrance, arrived:
            before, began = pair.cpu(), time.monotonic()
            sender = threading.Thread(target=_send, args=(entrance, size))
            sender.start()
            left, buffer = size, bytearray(MIB)
            while left:
                count = arrived.recv_into(buffer)
                if count == 0:
                    raise SystemExit(f"{pair.name}: it broke off with {left} bytes to come")
                left -= count
            took = time.monotonic() - began
            sender.join()
            return pair.cpu() - before, took


def _send(to: socket.socket, size: int) -> None:
    for _ in range(size // len(PIECE)):
        to.sendall(PIECE)


@contextmanager
def pairs(folder: Path) -> Iterator[list[Pair]]:
    authority = Authority()
    made: list[Pair] = [Rekeyd("rekeyd", folder, authority)]
    if shutil.which("nginx"):
        made.append(Nginx("nginx", folder, authority))
    with ExitStack() as stack:
        for pair in made:
            stack.callback(pair.stop)
            pair.start()
        yield made


def main(mebibytes: int = 256, rounds: int = 5) -> None:
    costs: dict[str, list[float]] = {}
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, pairs(Path(folder)) as made:
        for number in range(rounds + 1):
            for pair in made:
                cpu, took = transfer(pair, mebibytes * MIB)
                if number:  # the first warms up
                    costs.setdefault(pair.name, []).append(cpu / mebibytes)
                    rates.setdefault(pair.name, []).append(mebibytes / took)
    for name, cost in costs.items():
        median, rate = statistics.median(cost), statistics.median(rates[name])
        print(f"{name:8} {median * 1e6:7.0f} µs of CPU per MiB, {rate:6.0f} MiB/s")
    if "nginx" in costs:
        ratio = statistics.median(costs["rekeyd"]) / statistics.median(costs["nginx"])
        print(f"rekeyd / nginx: {ratio:.2f}")
    else:
        print("nginx is not installed: nothing to compare with")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
