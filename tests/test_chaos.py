"""Files that change in any order, torn, mismatched and at any moment, under load: nobody is the worse for it.

Whatever is on disk, no request fails that should not, no bad pair is ever served, the process goes on, each
answer to `rekeyd reload` is true, and what is served in the end is what is on disk.
"""

import asyncio
import json
import random
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from conftest import StartDaemon
from rekeyd.system.admin_client import ask
from support.crowd import crowd
from support.daemon import Daemon
from support.generations import API_KEY
from support.live import configure, live_site, shown_serial, trusting
from support.pki import DAY, Authority, KeyKind, Leaf, now, pem_of, replace_file, write_in_place
from support.waiting import eventually

SHORT, LONG = 10, 120  # seconds
LONGEST_GAP = 0.1
SETTLE = 0.5
CLIENTS = 8
CROWD_KEY = "a-made-up-key-of-the-crowd-that-stays"

KEYS: tuple[KeyKind, ...] = ("p256", "p384", "ed25519")
Write = Callable[[Path, bytes], Path]


class Chaos:
    """One who writes files badly. It knows at any moment which of them are good."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.random = random.Random(seed)  # noqa: S311 - so that a run can be repeated
        self.site = live_site(folder)
        self.authority, self.other = self.site.authority, Authority("another CA")
        self.ca = folder / "ca.pem"
        self.good: set[int] = {self.site.leaf.serial}
        """Serials that may be served."""
        self.bad: set[int] = set()
        self.pair: Leaf | None = self.site.leaf
        """The good pair that is on disk, if there is one."""
        self.ca_is_good = self.settings_are_good = True
        self.ca.write_bytes(self.authority.pem)
        self.settings()

    @property
    def all_is_good(self) -> bool:
        return self.pair is not None and self.ca_is_good and self.settings_are_good

    async def step(self) -> None:
        """One change, good or bad, of one kind of file."""
        kinds: list[tuple[int, Callable[[], Awaitable[None]]]] = [
            (5, self.good_pair),
            (4, self.bad_pair),
            (2, self.good_ca),
            (1, self.bad_ca),
            (2, self.good_settings),
            (1, self.bad_settings),
        ]
        [change] = self.random.choices([change for _, change in kinds], [weight for weight, _ in kinds])
        await change()

    async def mend(self) -> None:
        """All good again, in some order."""
        steps: list[Callable[[], Awaitable[None]]] = [self.good_pair, self.good_ca, self.good_settings]
        self.random.shuffle(steps)
        for step in steps:
            await step()

    async def good_pair(self) -> None:
        leaf = self.authority.issue(key=self.random.choice(KEYS))
        self.good.add(leaf.serial)
        self.pair = None
        await self.both(leaf.chain_pem, leaf.key_pem)
        self.pair = leaf

    async def bad_pair(self) -> None:
        leaf = self.random.choice([self.authority.issue, self.expired, self.weak])()
        chain, key = leaf.chain_pem, leaf.key_pem
        if leaf.serial not in self.bad:
            chain, key = self.random.choice(
                [(self.torn(chain), key), (chain, self.torn(key)), (chain, self.authority.issue().key_pem)]
            )
        self.bad.add(leaf.serial)
        self.pair = None
        await self.both(chain, key)

    def expired(self) -> Leaf:
        leaf = self.authority.issue(not_before=now() - 9 * DAY, not_after=now() - DAY)
        self.bad.add(leaf.serial)
        return leaf

    def weak(self) -> Leaf:
        leaf = self.authority.issue(key="rsa1024")
        self.bad.add(leaf.serial)
        return leaf

    async def good_ca(self) -> None:
        authorities = [self.authority, *([self.other] if self.random.random() < 1 / 2 else [])]
        await self.put(self.ca, pem_of([authority.certificate for authority in authorities]))
        self.ca_is_good = True

    async def bad_ca(self) -> None:
        self.ca_is_good = False
        await self.put(self.ca, self.torn(self.authority.pem))

    async def good_settings(self) -> None:
        self.settings()
        self.settings_are_good = True

    async def bad_settings(self) -> None:
        self.settings_are_good = False
        source = self.site.file.read_bytes()
        broken = self.random.choice([source[: len(source) // 2], b"service: {htp_port: 1}\n", b""])
        await self.put(self.site.file, broken)

    def settings(self) -> None:
        configure(
            self.site,
            service={
                "api_key": API_KEY,
                "alt_api_key": CROWD_KEY,
                "read_only_api_key": f"a-made-up-key-number-{self.random.randrange(10**6)}",
                "verify_https_client_certificate": "optional",
            },
            tls={"ca_cert": "ca.pem", "settle": SETTLE},
            logging={"decisions": "denied"},
        )

    async def both(self, chain: bytes, key: bytes) -> None:
        files = [(self.site.cert, chain), (self.site.key, key)]
        self.random.shuffle(files)
        for path, data in files:
            await self.put(path, data)

    async def put(self, path: Path, data: bytes) -> None:
        """In one of the ways of the world, and then a while of nothing."""
        way = self.random.choice(["rename", "in place", "torn first", "removed first"])
        if way == "torn first":
            write_in_place(path, self.torn(data))
            await self.gap()
        elif way == "removed first":
            path.unlink(missing_ok=True)
            await self.gap()
        write: Write = replace_file if way == "rename" else write_in_place
        write(path, data)
        await self.gap()

    def torn(self, data: bytes) -> bytes:
        """Without its end: at least the last line is not whole."""
        return data[: self.random.randrange(max(1, len(data) - 10))]

    async def gap(self) -> None:
        await asyncio.sleep(self.random.random() * LONGEST_GAP * self.random.randrange(2))


async def asked(daemon: Daemon, chaos: Chaos) -> dict[str, Any]:
    """What the daemon answers to `rekeyd reload`."""
    status, answer = await asyncio.to_thread(ask, chaos.site.folder / "admin.sock", "POST", "/reload")
    assert status == 200
    return answer


async def tells_the_truth(daemon: Daemon, chaos: Chaos) -> None:
    outcome = (await asked(daemon, chaos))["outcome"]
    serial = await shown_serial(daemon, trusting(chaos.authority))
    if chaos.all_is_good:
        assert outcome in {"applied", "unchanged"}
        assert chaos.pair is not None
        assert serial == chaos.pair.serial
    else:
        assert outcome == "refused"
        assert serial in chaos.good


def descriptors(daemon: Daemon) -> int:
    return len(list(Path(f"/proc/{daemon.pid}/fd").iterdir()))


@pytest.mark.parametrize(
    "seconds", [SHORT, pytest.param(LONG, marks=[pytest.mark.soak, pytest.mark.timeout(LONG + 120)])]
)
async def test_nobody_is_the_worse_for_it(seconds: int, tmp_path: Path, start_daemon: StartDaemon) -> None:
    seed = secrets.randbits(32)
    print(f"seed {seed}")  # noqa: T201 - shown where the test fails
    chaos = Chaos(tmp_path, seed)
    daemon = await start_daemon(chaos.site.file, secrets=[API_KEY, CROWD_KEY])
    before, until = descriptors(daemon), time.monotonic() + seconds

    async with crowd(daemon, chaos.authority, tmp_path, key=CROWD_KEY, tasks=CLIENTS // 2) as clients:
        while time.monotonic() < until:
            await chaos.step()
            if chaos.random.random() < 1 / 5:
                await tells_the_truth(daemon, chaos)
        await chaos.mend()
        await tells_the_truth(daemon, chaos)
        tally = await clients.tally()

    assert tally.failures == []
    assert tally.requests > seconds * 10
    assert tally.serials <= chaos.good
    assert not tally.serials & chaos.bad
    assert daemon.process.poll() is None
    assert len(daemon.told("daemon.started")) == 1
    assert not [event for event in daemon.events if "internal_error" in json.dumps(event)]
    # The upstream's pool keeps a pair of sockets for each client that there was.
    bound = before + 2 * CLIENTS + 5
    await eventually(lambda: descriptors(daemon) <= bound, what="connections and files are closed")
