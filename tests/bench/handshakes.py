"""CPU of a full handshake and one request, through rekeyd and through HAProxy, in turns; the memory of an
idle connection; and how long requests on open connections take while others shake hands as fast as they can.
Prints numbers, asserts none.

    .venv/bin/python tests/bench/handshakes.py [CONNECTIONS]

The certificate (ECDSA P-256), the check of the key and the upstream are the same for both, and so is the
client: blocking sockets in processes of their own, a new TLS session each time.
"""

# ruff: noqa: T201 - what it prints is what it is for

import asyncio
import contextlib
import os
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from support.daemon import Daemon  # noqa: E402
from support.generations import API_KEY  # noqa: E402
from support.live import live_site  # noqa: E402
from support.secrets import Ledger  # noqa: E402

CONNECTIONS = int(sys.argv[1]) if sys.argv[1:2] and sys.argv[1].isdigit() else 1_000
ROUNDS = 5
IDLE = 2_000
FLOOD_SECONDS = 4.0
FLOODERS = 3
REQUEST = f"GET /collections HTTP/1.1\r\nHost: localhost\r\napi-key: {API_KEY}\r\n%s\r\n"
HAPROXY = """
global
  nbthread 1
  maxconn 4000
defaults
  mode http
  timeout connect 5s
  timeout client 120s
  timeout server 60s
frontend front
  bind 127.0.0.1:{port} ssl crt {pem} alpn http/1.1 ssl-min-ver TLSv1.2 curves X25519:P-256
  http-request deny deny_status 401 unless {{ req.hdr(api-key) -m str {key} }}
  default_backend back
backend back
  http-reuse always
  server one 127.0.0.1:{upstream}
"""
UPSTREAM = """
import asyncio
ANSWER = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\nContent-Length: 2\\r\\n\\r\\n{}"

class Answering(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(ANSWER * data.count(b"\\r\\n\\r\\n"))

async def main():
    server = await asyncio.get_running_loop().create_server(Answering, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


class Proxy:
    """A server at work: its name, process and port."""

    def __init__(self, name: str, pid: int, port: int) -> None:
        self.name, self.pid, self.port = name, pid, port

    def cpu(self) -> float:
        """Seconds that its threads have run (/proc/PID/schedstat)."""
        tasks = Path(f"/proc/{self.pid}/task").iterdir()
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks) / 1e9

    def memory(self) -> int:
        """Bytes that it holds of its own."""
        rollup = Path(f"/proc/{self.pid}/smaps_rollup").read_text()
        return 1024 * sum(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Private"))


# Clients, each in a process of its own.


def client_context(*, resuming: bool = False) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if not resuming:
        context.options |= ssl.OP_NO_TICKET
    return context


def visit(port: int, context: ssl.SSLContext, session: ssl.SSLSession | None = None) -> ssl.SSLSession | None:
    """A connection, a request, its answer, and the end."""
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall((REQUEST % "Connection: close\r\n").encode())
        answer = b""
        while piece := tls.recv(65536):
            answer += piece
        assert answer.startswith(b"HTTP/1.1 200"), (port, answer)
        return tls.session


def visits(port: int, count: int, *, resuming: bool) -> None:
    context = client_context(resuming=resuming)
    session = None
    for _ in range(count):
        session = visit(port, context, session if resuming else None)


def flood(port: int, until: float) -> int:
    """Full handshakes, eight at once, and nothing else; how many were done."""
    context, done = client_context(), 0
    while time.monotonic() < until:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            begun = [stack.enter_context(begin(port, context)) for _ in range(8)]
            for tls in begun:
                tls.settimeout(10)
                tls.do_handshake()
                done += 1
    return done


def begin(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    sock = socket.create_connection(("127.0.0.1", port))
    sock.settimeout(0)
    tls = context.wrap_socket(sock, do_handshake_on_connect=False)
    with contextlib.suppress(ssl.SSLWantReadError):
        tls.do_handshake()
    return tls


def client_main(what: str, port: str, much: str) -> None:
    match what:
        case "flood":
            print(flood(int(port), time.monotonic() + float(much)))
        case _:
            visits(int(port), int(much), resuming=what == "resumed")


def start(count: int, what: str, port: int, much: float) -> list[subprocess.Popen[str]]:
    """Clients, each a process of its own."""
    command = [sys.executable, __file__, "client", what, str(port), str(much)]
    return [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(count)]


def finish(crowd: list[subprocess.Popen[str]]) -> list[str]:
    said = [each.communicate()[0] for each in crowd]
    assert not any(each.returncode for each in crowd)
    return said


# What is measured.


def measure_handshakes(proxies: list[Proxy], *, resuming: bool) -> None:
    spent: dict[str, list[float]] = {proxy.name: [] for proxy in proxies}
    for turn in range(ROUNDS + 1):
        for proxy in proxies:
            before = proxy.cpu()
            finish(start(2, "resumed" if resuming else "full", proxy.port, CONNECTIONS // 2))
            if turn:  # the first round warms up
                spent[proxy.name].append((proxy.cpu() - before) / CONNECTIONS * 1e6)
    told(f"{'resumed' if resuming else 'full'} handshake and a request, µs of CPU", spent)


def measure_memory(proxies: list[Proxy]) -> None:
    spent: dict[str, list[float]] = {}
    for proxy in proxies:
        context = client_context()
        before = proxy.memory()
        with contextlib.ExitStack() as stack:
            for _ in range(IDLE):
                sock = stack.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
                tls = stack.enter_context(context.wrap_socket(sock, server_hostname="localhost"))
                tls.sendall((REQUEST % "").encode())
                assert tls.recv(65536)
            time.sleep(1)  # noqa: TID251 - what ends is to end
            spent[proxy.name] = [(proxy.memory() - before) / IDLE / 1024]
    told(f"idle connection after one request, KiB of {IDLE}", spent)


def measure_flood(proxies: list[Proxy]) -> None:
    for proxy in proxies:
        alone = latencies(proxy.port, FLOOD_SECONDS)
        crowd = start(FLOODERS, "flood", proxy.port, FLOOD_SECONDS + 1)
        time.sleep(0.5)  # noqa: TID251 - the flood rises
        beside = latencies(proxy.port, FLOOD_SECONDS)
        rate = sum(int(said) for said in finish(crowd)) / (FLOOD_SECONDS + 1)
        print(f"{proxy.name:8} alone {shown(alone)}; in a flood {shown(beside)}; {rate:.0f} handshakes/s")


def latencies(port: int, seconds: float) -> list[float]:
    """Of requests on one open connection, a hundred in a second."""
    found = []
    context, request = client_context(), (REQUEST % "").encode()
    with (
        socket.create_connection(("127.0.0.1", port)) as sock,
        context.wrap_socket(sock, server_hostname="localhost") as tls,
    ):
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            began = time.monotonic()
            tls.sendall(request)
            assert tls.recv(65536).startswith(b"HTTP/1.1 200")
            found.append(time.monotonic() - began)
            time.sleep(0.01)  # noqa: TID251 - a steady load
    return found


def shown(found: list[float]) -> str:
    cuts = statistics.quantiles(found, n=100)
    return f"p50 {cuts[49] * 1e3:.2f} ms p99 {cuts[98] * 1e3:.2f} ms max {max(found) * 1e3:.2f} ms"


def told(what: str, spent: dict[str, list[float]]) -> None:
    medians = {name: statistics.median(values) for name, values in spent.items()}
    print(what)
    for name, values in spent.items():
        ratio = medians[name] / medians.get("haproxy", medians[name])
        print(f"  {name:8} {medians[name]:8.1f}  ({min(values):.1f} to {max(values):.1f})  {ratio:.2f}x")


# Who is measured.


@contextlib.contextmanager
def upstream() -> Iterator[int]:
    process = subprocess.Popen([sys.executable, "-c", UPSTREAM], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def haproxy(folder: Path, pem: Path, at: int) -> Iterator[Proxy]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    config = folder / "haproxy.cfg"
    config.write_text(HAPROXY.format(port=port, pem=pem, key=API_KEY, upstream=at))
    process = subprocess.Popen(["haproxy", "-db", "-f", str(config)], stderr=subprocess.DEVNULL)
    try:
        yield Proxy("haproxy", process.pid, port)
    finally:
        process.terminate()
        process.wait()


@contextlib.asynccontextmanager
async def rekeyd(folder: Path, at: int) -> AsyncIterator[tuple[Proxy, Path]]:
    site = live_site(
        folder,
        service={"enable_tls": True, "api_key": API_KEY, "max_connections": 10_000},
        upstream={"http": f"http://127.0.0.1:{at}"},
        logging={"decisions": "denied"},
    )
    pem = folder / "both.pem"
    pem.write_bytes(site.leaf.chain_pem + site.leaf.key_pem)
    async with Daemon.running(Ledger(Path(tempfile.mkdtemp())), site.file) as daemon:
        yield Proxy("rekeyd", daemon.pid, daemon.port_of("http")), pem


async def main() -> None:
    folder = Path(tempfile.mkdtemp())
    which = os.environ.get("MEASURE", "full resumed memory flood").split()
    with upstream() as at:
        async with rekeyd(folder, at) as (ours, pem):
            with haproxy(folder, pem, at) as theirs:
                await asyncio.sleep(0.5)
                both = [ours, theirs]
                if "full" in which:
                    await asyncio.to_thread(measure_handshakes, both, resuming=False)
                if "resumed" in which:
                    await asyncio.to_thread(measure_handshakes, both, resuming=True)
                if "memory" in which:
                    await asyncio.to_thread(measure_memory, both)
                if "flood" in which:
                    await asyncio.to_thread(measure_flood, both)


if __name__ == "__main__":
    if sys.argv[1:2] == ["client"]:
        client_main(*sys.argv[2:])
    else:
        asyncio.run(main())
