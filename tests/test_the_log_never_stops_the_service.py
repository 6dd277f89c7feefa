"""A closed pipe, a pipe that nobody reads and a full disk cost log lines, and nothing else."""

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.daemon import SOURCE_ROOT
from support.generations import API_KEY, Site
from support.live import Connection, live_site, seconds_until_shown, trusting

REQUESTS = 150
"""Their lines fill a pipe of a page many times over."""
SMALLEST_PIPE = 4096
SLOWEST = 5.0
"""Seconds for one request: a service that waited for its log would never answer."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


@contextlib.contextmanager
def writing_to(stdout: int, site: Site) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "rekeyd", "serve", "-c", str(site.file)],
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


@contextlib.contextmanager
def closed_pipe() -> Iterator[int]:
    """The reader is gone before the first line."""
    reader, writer = os.pipe()
    os.close(reader)
    yield writer
    os.close(writer)


@contextlib.contextmanager
def stuck_pipe() -> Iterator[int]:
    """The reader is there and never reads."""
    reader, writer = os.pipe()
    fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, SMALLEST_PIPE)
    yield writer
    os.close(writer)
    os.close(reader)


@contextlib.contextmanager
def full_disk() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


async def listening(process: subprocess.Popen[bytes], port: int) -> None:
    """Wait until it takes connections: its log can't tell."""
    deadline = time.monotonic() + 15
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionError:
            assert process.poll() is None
            assert time.monotonic() < deadline
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return


@pytest.mark.parametrize("output", [closed_pipe, stuck_pipe, full_disk])
async def test_it_goes_on_serving_reloading_and_ending(
    tmp_path: Path, output: Callable[[], contextlib.AbstractContextManager[int]]
) -> None:
    port = free_port()
    site = live_site(tmp_path, service={"http_port": port}, tls={"watch": False})
    trust = trusting(site.authority)
    with output() as stdout, writing_to(stdout, site) as process:
        await listening(process, port)
        async with Connection.to(port, trust) as client:
            for number in range(REQUESTS):
                began = time.monotonic()
                key = API_KEY if number % 2 else None
                assert (await client.ask(f"/{number}", key=key)).status in {200, 401}
                assert time.monotonic() - began < SLOWEST
        leaf = site.rotate()
        process.send_signal(signal.SIGHUP)
        await seconds_until_shown(leaf, port, site.authority, within=10)
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 15) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
