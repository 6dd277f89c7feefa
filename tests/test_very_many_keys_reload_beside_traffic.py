"""A thousand keys in YAML and a hundred thousand in JSON reload while requests go on. What it costs is told:
`pytest -o log_cli=true --log-cli-level=INFO`."""

import asyncio
import json
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from support.daemon import Daemon
from support.generations import API_KEY
from support.key_files import digest_of, entry, secret_of
from support.live import Connection, live_site, measured
from support.pki import replace_file

ROUND = "2027-03-01T00:00:00Z"


def json_of(count: int) -> bytes:
    return json.dumps({"keys": [entry(f"k{n}", "read", note=f"caller {n}") for n in range(count)]}).encode()


def yaml_text_of(count: int) -> bytes:
    """As people write it."""
    entries = (
        f"  - id: k{n}\n    right: read\n    note: caller {n}\n    secrets:\n"
        f"      - digest: {digest_of(f'k{n}')}\n        expires: {ROUND}\n"
        for n in range(count)
    )
    return f"keys:\n{''.join(entries)}...\n".encode()


class Pulse:
    """One client that asks all the time, and how long its longest wait was, in seconds."""

    def __init__(self, client: Connection) -> None:
        self._client = client
        self.longest = 0.0
        self.answers = 0

    async def beat(self) -> None:
        while True:
            began = time.perf_counter()
            assert (await self._client.ask("/collections")).status == 200
            self.longest = max(self.longest, time.perf_counter() - began)
            self.answers += 1
            await asyncio.sleep(0.002)


@pytest.mark.timeout(180)
@pytest.mark.parametrize(
    ("name", "source", "count"),
    [("keys.yaml", yaml_text_of, 1_000), ("keys.json", json_of, 100_000)],
    ids=["YAML", "JSON"],
)
async def test_they_reload_while_requests_go_on(
    start_daemon: Callable[..., Awaitable[Daemon]],
    tmp_path: Path,
    name: str,
    source: Callable[[int], bytes],
    count: int,
) -> None:
    keys = tmp_path / name
    replace_file(keys, source(1))
    site = live_site(tmp_path, access={"keys_file": name}, tls={"watch": False})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with Connection.to(daemon, site.authority) as client:
        pulse = Pulse(client)
        beating = asyncio.create_task(pulse.beat())
        replace_file(keys, source(count))
        since = daemon.mark()
        daemon.signal(signal.SIGHUP)
        event = await daemon.event("reload.applied", since=since, timeout=60)
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
    assert event["parts"]["keys"]["added_count"] == count - 1
    assert pulse.answers
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask("/collections", key=secret_of(f"k{count - 1}"))).status == 200
        assert (await client.ask("/collections", key=secret_of(f"k{count}"))).status == 401
    resident = Path(f"/proc/{daemon.pid}/status").read_text().split("VmRSS:")[1].split()[0]
    measured(
        f"{count} keys in {name}",
        {
            "bytes": keys.stat().st_size,
            "reload, s": event["duration"],
            "longest answer, ms": round(1000 * pulse.longest, 1),
            "resident, MiB": int(resident) // 1024,
        },
    )
