"""Somebody who guesses keys, as a process of its own: `guesser.py PORT CA_FILE CONNECTIONS GUESSES`.

Prints how often each status was the answer, as JSON.
"""

import asyncio
import json
import ssl
import sys
from collections import Counter
from pathlib import Path

from support.live import Connection


async def guess(port: int, trust: ssl.SSLContext, name: int, count: int) -> Counter[int]:
    """`count` guesses on one connection, each another key, one after the other."""
    said: Counter[int] = Counter()
    async with Connection.to(port, trust) as client:
        for number in range(count):
            said[(await client.ask("/collections", key=f"guess-{name}-{number}")).status] += 1
    return said


async def flood(port: int, ca: Path, connections: int, guesses: int) -> Counter[int]:
    trust = ssl.create_default_context(cafile=ca)
    each = guesses // connections
    return sum(
        await asyncio.gather(*(guess(port, trust, name, each) for name in range(connections))), Counter()
    )


if __name__ == "__main__":
    port, ca, connections, guesses = sys.argv[1:]
    print(json.dumps(asyncio.run(flood(int(port), Path(ca), int(connections), int(guesses)))))  # noqa: T201
