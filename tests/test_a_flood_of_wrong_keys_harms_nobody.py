"""Ten thousand wrong keys from one address: the valid caller beside them goes on, and the log stays short."""

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from statistics import median

from conftest import StartDaemon
from support.daemon import SOURCE_ROOT
from support.generations import API_KEY
from support.live import Connection, live_site, measured

GUESSES, CONNECTIONS = 10_000, 50
ALONE, KINDS = 50, 2
"""Denials of a network that are told alone, and the kinds that are told together after that, each second."""
TESTS = Path(__file__).parent


async def durations(client: Connection, count: int) -> list[float]:
    """Seconds of each of `count` valid requests in a row."""
    seconds = []
    for _ in range(count):
        began = time.perf_counter()
        assert (await client.ask("/collections")).status == 200
        seconds.append(time.perf_counter() - began)
    return seconds


async def test_a_flood_of_wrong_keys_leaves_few_lines_and_the_valid_caller_alone(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, tls={"watch": False}, access={"failures_per_minute": 60})
    ca = site.authority.write(site.folder / "ca.pem")
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with Connection.to(daemon, site.authority) as client:
        alone = await durations(client, 500)
        since = daemon.mark()
        guesser = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "support.guesser",
                str(daemon.port),
                str(ca),
                str(CONNECTIONS),
                str(GUESSES),
            ),
            stdout=asyncio.subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join([str(SOURCE_ROOT), str(TESTS)])},
        )
        await daemon.event("auth.denied", since=since)
        began = time.monotonic()
        beside: list[float] = []
        over = asyncio.create_task(guesser.communicate())
        while not over.done():
            beside += await durations(client, 50)
        statuses = {int(status): count for status, count in json.loads((await over)[0]).items()}

        seconds = time.monotonic() - began
        assert guesser.returncode == 0
        assert statuses.keys() == {401, 429}
        assert sum(statuses.values()) == GUESSES
        assert statuses[401] < (60 + 60) * daemon.workers, "a burst, and one a second, of each worker"
        assert (await client.ask("/collections")).status == 200, "a known key is never locked out"

    await daemon.stop()
    denials = daemon.told("auth.denied", since=since)
    assert sum(line.get("count", 1) for line in denials) == GUESSES, "none is dropped"
    assert len(denials) < (ALONE + KINDS * (seconds + 3)) * daemon.workers
    measured("valid caller beside a flood, ratio of medians", round(median(beside) / median(alone), 2))
    measured("valid caller: alone and beside, ms", [round(median(s) * 1000, 2) for s in (alone, beside)])
