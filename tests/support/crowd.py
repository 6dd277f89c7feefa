"""Clients as processes of their own, who ask all the time and count what they get.

    async with crowd(daemon, authority, tmp_path, key=KEY) as clients:
        ...
    tally = await clients.tally()
    assert tally.failures == []

Half of them make a new connection for each request, half keep one for as long as the server does.
"""

import asyncio
import contextlib
import itertools
import json
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.daemon import Daemon
from support.live import Connection
from support.pki import Authority

PAUSE = 0.01
MOST_FAILURES = 20
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True, slots=True)
class Tally:
    """What a crowd got: `serials` are those that it was shown, `failures` one sentence each."""

    requests: int
    serials: frozenset[int]
    failures: list[str]


class Crowd:
    """Processes that ask until they are told to stop."""

    def __init__(self, processes: list[asyncio.subprocess.Process]) -> None:
        self._processes = processes

    async def tally(self) -> Tally:
        """Stop them all, and add up what they got."""
        ended = await asyncio.gather(*(process.communicate(b"") for process in self._processes))
        told = [json.loads(answer) for answer, _ in ended]
        return Tally(
            requests=sum(each["requests"] for each in told),
            serials=frozenset(itertools.chain.from_iterable(each["serials"] for each in told)),
            failures=list(itertools.chain.from_iterable(each["failures"] for each in told)),
        )

    async def kill(self) -> None:
        for process in self._processes:
            if process.returncode is None:
                process.kill()
                await process.wait()


@contextlib.asynccontextmanager
async def crowd(
    daemon: Daemon, authority: Authority, folder: Path, *, key: str, processes: int = 2, tasks: int = 4
) -> AsyncIterator[Crowd]:
    """So many processes of so many clients each; every other one shows a certificate of `authority`."""
    ca = authority.write(folder / "crowd-ca.pem")
    client = folder / "crowd-client.pem"
    leaf = authority.issue("crowd", client=True)
    client.write_bytes(leaf.chain_pem + leaf.key_pem)
    orders = [
        {"port": daemon.port, "ca": str(ca), "own": str(client) if number % 2 else None, "tasks": tasks}
        for number in range(processes)
    ]
    started = Crowd([await _start(order, key) for order in orders])
    try:
        yield started
    finally:
        await started.kill()


async def _start(order: dict[str, Any], key: str) -> asyncio.subprocess.Process:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "support.crowd",
        json.dumps(order),
        cwd=_TESTS,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    process.stdin.write(f"{key}\n".encode())  # not in the arguments, which everybody may see
    await process.stdin.drain()
    return process


# In the process


class _Client:
    def __init__(self, port: int, trust: ssl.SSLContext, key: str) -> None:
        self.port, self.trust, self.key = port, trust, key
        self.requests = 0
        self.serials: set[int] = set()
        self.failures: list[str] = []

    async def run(self, stop: asyncio.Event, *, keeps: bool) -> None:
        while not stop.is_set() and len(self.failures) < MOST_FAILURES:
            try:
                await self._converse(stop, most=sys.maxsize if keeps else 1)
            except (OSError, EOFError, ValueError, TimeoutError) as error:
                how = "on a kept connection" if keeps else "on a new connection"
                self.failures.append(f"{type(error).__name__} {how}: {error}")

    async def _converse(self, stop: asyncio.Event, most: int) -> None:
        async with Connection.to(self.port, self.trust) as connection:
            self.serials.add(connection.serial)
            for _ in range(most):
                answer = await connection.ask("/collections", key=self.key)
                self.requests += 1
                if answer.status != 200:
                    self.failures.append(f"status {answer.status}: {answer.body[:200]!r}")
                if stop.is_set() or answer.fields.get("connection") == "close":
                    return
                await asyncio.sleep(PAUSE)


async def _main(order: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    key = (await loop.run_in_executor(None, sys.stdin.readline)).strip()
    trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    trust.load_verify_locations(cadata=Path(order["ca"]).read_text())
    if order["own"]:
        trust.load_cert_chain(order["own"])
    stop = asyncio.Event()
    clients = [_Client(order["port"], trust, key) for _ in range(order["tasks"])]
    running = [asyncio.create_task(c.run(stop, keeps=bool(n % 2))) for n, c in enumerate(clients)]
    await loop.run_in_executor(None, sys.stdin.read)  # until it is closed
    stop.set()
    await asyncio.gather(*running)
    print(  # noqa: T201 - its answer
        json.dumps(
            {
                "requests": sum(c.requests for c in clients),
                "serials": list(set().union(*(c.serials for c in clients))),
                "failures": list(itertools.chain.from_iterable(c.failures for c in clients)),
            }
        )
    )


if __name__ == "__main__":
    asyncio.run(_main(json.loads(sys.argv[1])))
