"""CPU of a unary call of gRPC through rekeyd, beside nginx's `grpc_pass`, in one run. Prints numbers,
asserts none.

    .venv/bin/python tests/bench/grpc_calls.py [CALLS]

h2load sends, over plaintext, to the same upstream; what is measured is the time that each proxy's processes
spend.
"""

import asyncio
import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
sys.path.insert(0, str(TESTS))

from support.daemon import Daemon  # noqa: E402
from support.generations import API_KEY  # noqa: E402
from support.live import live_site  # noqa: E402
from support.secrets import Ledger  # noqa: E402

CALLS = int(sys.argv[1]) if len(sys.argv) > 1 else 40_000
TICKS = os.sysconf("SC_CLK_TCK")
NGINX = """
daemon off; worker_processes 1; pid {folder}/nginx.pid; error_log {folder}/error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder}; fastcgi_temp_path {folder};
  uwsgi_temp_path {folder}; scgi_temp_path {folder};
  upstream service {{ server 127.0.0.1:{upstream}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} http2; keepalive_requests 100000000;
    location / {{ grpc_pass grpc://service; }}
  }}
}}
"""
UPSTREAM = """
import asyncio, sys
sys.path.insert(0, {tests!r})
from support.http2 import ANSWER, block
from support import grpc_gateway as g
from rekeyd.http2 import frames

class Fast(g._Recording):
    def came(self, frame):
        if not (frame.flags & 1 and frame.kind in (0, 1)):
            return super().came(frame)
        message = frames.frame(0, 0, frame.stream, MESSAGE)
        head, last = (frames.frame(1, f, frame.stream, b) for f, b in ((4, HEAD), (5, TRAILERS)))
        self.send(head, message, last, frames.window_update(0, max(1, len(frame.payload))))
        self.seen.clear()
        self.heads.clear()

HEAD, TRAILERS = block(ANSWER), block([(b"grpc-status", b"0")])
MESSAGE = bytes([0, 0, 0, 0, 5]) + b"hello"

async def main():
    recorder = g.Recorder(answers=False)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Fast(recorder), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu(pid: int) -> float:
    """Seconds that a process and its children have spent so far."""
    pids = [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]
    fields = [Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split() for each in pids]
    return sum((int(each[11]) + int(each[12])) / TICKS for each in fields)


async def load(port: int, calls: int, message: Path) -> None:
    command = ["h2load", "-n", str(calls), "-c", "4", "-m", "10", "-d", str(message)]
    for field in ("content-type: application/grpc", "te: trailers", f"api-key: {API_KEY}"):
        command += ["-H", field]
    process = await asyncio.create_subprocess_exec(
        *command, f"http://127.0.0.1:{port}/test.Service/Echo", stdout=asyncio.subprocess.PIPE
    )
    out, _ = await process.communicate()
    assert f" {calls} succeeded" in out.decode(), out.decode()


async def measure(name: str, pid: int, port: int, message: Path) -> float:
    await load(port, CALLS // 10, message)
    before = cpu(pid)
    await load(port, CALLS, message)
    spent = (cpu(pid) - before) / CALLS * 1e6
    print(f"{name:8} {spent:7.1f} µs of CPU a call")  # noqa: T201
    return spent


@contextlib.asynccontextmanager
async def upstream() -> AsyncIterator[int]:
    process = subprocess.Popen(  # noqa: ASYNC220 - once
        [sys.executable, "-c", UPSTREAM.format(tests=str(TESTS))], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    try:
        yield int(process.stdout.readline())
    finally:
        process.kill()
        process.wait()


async def main() -> None:
    folder = Path(tempfile.mkdtemp())
    message = folder / "message"
    message.write_bytes(b"\0\0\0\0\x05hello")
    async with upstream() as at:
        site = live_site(
            folder,
            service={"grpc_port": 0, "enable_tls": False, "api_key": API_KEY},
            upstream={"http": "demo", "grpc": f"127.0.0.1:{at}"},
            logging={"decisions": "denied"},
        )
        async with Daemon.running(Ledger(Path(tempfile.mkdtemp())), site.file) as daemon:
            ours = await measure("rekeyd", daemon.pid, daemon.port_of("grpc"), message)
        if shutil.which("nginx") is None:
            print("nginx is not installed")  # noqa: T201
            return
        port = free_port()
        (folder / "nginx.conf").write_text(NGINX.format(folder=folder, upstream=at, port=port))
        command = ["nginx", "-c", str(folder / "nginx.conf")]
        process = subprocess.Popen(command)  # noqa: ASYNC220 - once
        try:
            await asyncio.sleep(1)
            theirs = await measure("nginx", process.pid, port, message)
        finally:
            process.terminate()
            process.wait()
    print(f"ratio    {ours / theirs:7.2f}")  # noqa: T201


if __name__ == "__main__":
    asyncio.run(main())
