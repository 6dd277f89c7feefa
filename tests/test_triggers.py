"""The timer and the watch: whatever way files change, the reload comes, and soon."""

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Collection, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.reload.outcome import Outcome, Result
from rekeyd.reload.reloader import Reloader
from rekeyd.reload.triggers import Changes, Events, Watch, directory_events, run_timer
from support.generations import Site
from support.pki import Leaf, replace_file, write_in_place, write_torn
from support.waiting import eventually

IN_TIME = 1.0  # seconds from the change to the new certificate being served
POLLED = 3.0  # where only polling finds it, which takes half a second on a machine that is not busy
Logs = list[Any]


class Watched:
    """A site whose watch runs, and what comes of it."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.current = Current()
        self.outcomes: asyncio.Queue[Outcome] = asyncio.Queue()
        self.reloader = Reloader(
            self.current, site.disk.load, serving_of, on_outcome=[self.outcomes.put_nowait]
        )

    @property
    def served(self) -> str | None:
        generation = self.current.generation
        return generation.default.leaf.sha256 if generation and generation.default else None

    async def outcome(self, result: Result, *, within: float = 5.0) -> Outcome:
        """The next outcome of that kind."""
        async with asyncio.timeout(within):
            while (outcome := await self.outcomes.get()).result is not result:
                pass
        return outcome

    async def serves(self, leaf: Leaf, *, within: float = IN_TIME) -> float:
        """Wait until `leaf` is served; the seconds it took."""
        started = time.monotonic()
        async with asyncio.timeout(within):
            while self.served != leaf.fingerprint:
                await self.outcomes.get()
        return time.monotonic() - started


@asynccontextmanager
async def watching(site: Site, events: Events = directory_events) -> AsyncIterator[Watched]:
    """A served site and its watch, past the first look."""
    watched = Watched(site)
    await watched.reloader.reload("start")
    await watched.outcome(Result.APPLIED)
    task = asyncio.create_task(Watch(lambda: site.disk.paths, watched.reloader.reload, events=events).run())
    try:
        assert (await watched.outcome(Result.UNCHANGED)).trigger == "watch"
        yield watched
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await watched.reloader.close()


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


@pytest.fixture
def logs() -> Iterator[Logs]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


def in_place(site: Site, leaf: Leaf) -> None:
    write_in_place(site.key, leaf.key_pem)
    write_in_place(site.cert, leaf.chain_pem)


def by_rename(site: Site, leaf: Leaf) -> None:
    leaf.write(site.folder)


def removed_and_recreated(site: Site, leaf: Leaf) -> None:
    site.cert.unlink()
    site.key.unlink()
    leaf.write(site.folder)


def touched_back(site: Site, leaf: Leaf) -> None:
    """As rsync --times does: the new file bears the old one's time."""
    times = site.cert.stat()
    in_place(site, leaf)
    os.utime(site.cert, ns=(times.st_atime_ns, times.st_mtime_ns))


WAYS = pytest.mark.parametrize("change", [by_rename, in_place, removed_and_recreated, touched_back])


@WAYS
async def test_a_change_is_served_within_a_second(
    change: Callable[[Site, Leaf], None], site: Site, logs: Logs
) -> None:
    async with watching(site) as watched:
        for _ in range(3):
            leaf = site.authority.issue()
            change(site, leaf)
            await watched.serves(leaf)


async def polling_only(_directories: Collection[Path]) -> AsyncGenerator[Changes, None]:
    """A watch that can't be had: what the kernel says when fs.inotify.max_user_watches is used up."""
    raise OSError(28, "No space left on device")
    yield set()


@WAYS
async def test_without_inotify_polling_serves_it_within_a_second(
    change: Callable[[Site, Leaf], None], site: Site, logs: Logs
) -> None:
    async with watching(site, polling_only) as watched:
        for _ in range(3):
            leaf = site.authority.issue()
            change(site, leaf)
            await watched.serves(leaf, within=POLLED)

    degraded = [line for line in logs if line["event"] == "watch.degraded"]
    assert [line["log_level"] for line in degraded] == ["warning"]
    assert degraded[0]["reason"] == "No space left on device"
    assert degraded[0]["directories"] == [str(site.folder.resolve())]


async def silence(_directories: Collection[Path]) -> AsyncGenerator[Changes, None]:
    """A watch on a mount whose events never come."""
    while True:
        await asyncio.sleep(0.5)
        yield set()


async def test_where_events_never_come_polling_finds_it(site: Site, logs: Logs) -> None:
    async with watching(site, silence) as watched:
        leaf = site.rotate()
        await watched.serves(leaf, within=POLLED)


async def test_a_change_in_a_flood_of_events_is_found(site: Site, logs: Logs) -> None:
    """More events than inotify(7) queues (max_queued_events): what runs over is lost."""
    async with watching(site) as watched:
        for number in range(20_000):
            (site.folder / f"unrelated-{number}").symlink_to("nowhere")
        await watched.serves(site.rotate(), within=POLLED)


async def test_two_writes_in_one_tick_of_the_clock_are_both_seen(site: Site, logs: Logs) -> None:
    """Same size, same inode, same timestamps: only reading again finds the second one."""
    frozen = time.time_ns()
    one, two = (site.authority.issue(key=site.leaf.private_key) for _ in range(2))
    while len(one.chain_pem) != len(two.chain_pem):
        two = site.authority.issue(key=site.leaf.private_key)

    async with watching(site, silence) as watched:
        write_in_place(site.cert, one.chain_pem)
        os.utime(site.cert, ns=(frozen, frozen))
        await watched.serves(one, within=POLLED)
        write_in_place(site.cert, two.chain_pem)
        os.utime(site.cert, ns=(frozen, frozen))
        await watched.serves(two, within=POLLED)


async def test_fifty_kubernetes_swaps_in_a_row_are_all_followed(site: Site, logs: Logs) -> None:
    volume = site.folder / "volume"
    volume.mkdir()
    site.configure(tls={"cert": "volume/tls.crt", "key": "volume/tls.key"})

    def swap(number: int) -> Leaf:
        leaf = site.authority.issue()
        leaf.write(volume / f"..{number}")
        (volume / "..data_tmp").symlink_to(f"..{number}")
        (volume / "..data_tmp").replace(volume / "..data")
        if number:
            shutil.rmtree(volume / f"..{number - 1}")
        return leaf

    swap(0)
    for name in ("tls.crt", "tls.key"):
        (volume / name).symlink_to(f"..data/{name}")
    async with watching(site) as watched:
        for number in range(1, 51):
            last = swap(number)
            await asyncio.sleep(0.01)  # other swaps meet the watch at other moments
        await watched.serves(last, within=POLLED)
        await watched.serves(swap(51), within=POLLED)


async def test_certbots_links_are_followed_to_each_new_archive(site: Site, logs: Logs) -> None:
    live, archive = site.folder / "live", site.folder / "archive"
    live.mkdir()
    site.configure(tls={"cert": "live/fullchain.pem", "key": "live/privkey.pem"})

    def renew(number: int) -> Leaf:
        leaf = site.authority.issue()
        leaf.write(archive, cert=f"fullchain{number}.pem", key=f"privkey{number}.pem")
        for name in ("privkey", "fullchain"):
            (live / "next").symlink_to(f"../archive/{name}{number}.pem")
            (live / "next").replace(live / f"{name}.pem")
        return leaf

    renew(1)
    async with watching(site) as watched:
        for number in (2, 3):
            await watched.serves(renew(number))


async def test_a_deleted_directory_leaves_the_old_certificate_and_comes_back(site: Site, logs: Logs) -> None:
    certs = site.folder / "deep" / "certs"
    old = site.authority.issue()
    old.write(certs)
    site.configure(tls={"cert": "deep/certs/tls.crt", "key": "deep/certs/tls.key"})

    async with watching(site) as watched:
        for _ in range(2):
            shutil.rmtree(site.folder / "deep")
            borne = await watched.outcome(Result.SETTLING, within=POLLED)
            assert "nor does its folder" in borne.findings[0].message
            assert watched.served == old.fingerprint
            old = site.authority.issue()
            old.write(certs)
            await watched.serves(old, within=POLLED)
            old = site.authority.issue()
            old.write(certs)
            await watched.serves(old, within=POLLED)


async def test_a_directory_that_is_replaced_by_another_is_noticed(site: Site, logs: Logs) -> None:
    site.authority.issue().write(site.folder / "certs")
    site.configure(tls={"cert": "certs/tls.crt", "key": "certs/tls.key"})

    async with watching(site) as watched:
        for number in range(2):
            leaf = site.authority.issue()
            leaf.write(site.folder / "next")
            (site.folder / "certs").rename(site.folder / f"old{number}")
            (site.folder / "next").rename(site.folder / "certs")
            await watched.serves(leaf, within=POLLED)


async def test_a_change_of_settings_brings_other_files_under_watch(site: Site, logs: Logs) -> None:
    async with watching(site) as watched:
        elsewhere = site.authority.issue()
        elsewhere.write(site.folder / "elsewhere")
        site.configure(tls={"cert": "elsewhere/tls.crt", "key": "elsewhere/tls.key"})
        await watched.serves(elsewhere, within=POLLED)

        leaf = site.authority.issue()
        leaf.write(site.folder / "elsewhere")
        await watched.serves(leaf, within=POLLED)


async def test_a_file_that_new_settings_name_is_watched_until_it_comes(site: Site, logs: Logs) -> None:
    async with watching(site) as watched:
        site.configure(tls={"cert": "later/tls.crt", "key": "later/tls.key"})
        await watched.outcome(Result.SETTLING, within=POLLED)

        leaf = site.authority.issue()
        leaf.write(site.folder / "later")
        await watched.serves(leaf, within=POLLED)


async def test_client_ca_and_policy_are_watched_as_well(site: Site, logs: Logs) -> None:
    site.authority.write(site.folder / "ca.pem")
    (site.folder / "policy.yaml").write_text("rights: {GET /a: read}\n")
    site.configure(
        tls={"ca_cert": "ca.pem"},
        service={"verify_https_client_certificate": True},
        access={"policy": "policy.yaml"},
    )
    async with watching(site) as watched:
        replace_file(site.folder / "policy.yaml", b"rights: {GET /b: read}\n")
        assert [c.part for c in (await watched.outcome(Result.APPLIED, within=IN_TIME)).changes] == ["policy"]

        write_in_place(site.folder / "ca.pem", site.authority.intermediate().pem)
        assert [c.part for c in (await watched.outcome(Result.APPLIED, within=IN_TIME)).changes] == [
            "client_ca"
        ]


@pytest.mark.parametrize("first", ["tls.crt", "tls.key"])
async def test_a_pair_in_two_writes_is_one_swap_and_no_error(first: str, site: Site, logs: Logs) -> None:
    old, leaf = site.leaf, site.authority.issue()
    parts = {"tls.crt": leaf.chain_pem, "tls.key": leaf.key_pem}
    async with watching(site) as watched:
        replace_file(site.folder / first, parts.pop(first))
        borne = await watched.outcome(Result.SETTLING, within=IN_TIME)
        assert [finding.rule for finding in borne.findings] == ["key_mismatch"]
        assert watched.served == old.fingerprint

        [(second, pem)] = parts.items()
        replace_file(site.folder / second, pem)
        await watched.serves(leaf)
        assert watched.current.number == 2

    assert not [line for line in logs if line["log_level"] == "error"]


async def test_a_truncated_certificate_is_refused_and_the_old_one_stays(site: Site, logs: Logs) -> None:
    site.configure(tls={"settle": 0.2})
    async with watching(site) as watched:
        write_torn(site.cert, site.authority.issue().chain_pem)
        refused = await watched.outcome(Result.REFUSED, within=POLLED)

        assert [finding.rule for finding in refused.findings] == ["truncated_pem"]
        assert watched.served == site.leaf.fingerprint


async def test_other_files_in_the_directory_ask_for_nothing(
    site: Site, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rekeyd.reload.trail._RACY", 0)  # else what was just made is looked at again
    requests: asyncio.Queue[str] = asyncio.Queue()
    looks: asyncio.Queue[Changes] = asyncio.Queue()

    async def reload(trigger: str) -> None:
        requests.put_nowait(trigger)

    async def seen(directories: Collection[Path]) -> AsyncGenerator[Changes, None]:
        async with contextlib.aclosing(directory_events(directories)) as events:
            async for changes in events:
                looks.put_nowait(changes)
                yield changes

    site.disk.load()
    task = asyncio.create_task(Watch(lambda: site.disk.paths, reload, events=seen).run())
    async with asyncio.timeout(5):
        assert await requests.get() == "watch"
        await looks.get()
        (site.folder / "unrelated.log").write_text("a line")
        while not await looks.get():
            pass
        await looks.get()
    task.cancel()

    assert requests.empty()


async def test_a_watch_that_comes_back_is_told(
    site: Site, logs: Logs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("rekeyd.reload.triggers.RETRY", 0.5)
    used_up = True

    def sometimes(directories: Collection[Path]) -> AsyncGenerator[Changes, None]:
        return polling_only(directories) if used_up else directory_events(directories)

    async with watching(site, sometimes) as watched:
        await eventually(lambda: "watch.degraded" in told(logs))
        used_up = False
        await eventually(lambda: "watch.restored" in told(logs))
        await watched.serves(site.rotate(), within=POLLED)
    assert [event for event in told(logs) if event.startswith("watch.")] == [
        "watch.degraded",
        "watch.restored",
    ]


def told(logs: Logs) -> list[str]:
    return [line["event"] for line in logs]


async def test_cancelling_the_watch_ends_it_at_once(site: Site, logs: Logs) -> None:
    async with watching(site):
        started = time.monotonic()

    assert time.monotonic() - started < 0.3


async def test_a_watch_leaves_no_descriptor_behind(site: Site, logs: Logs) -> None:
    async with watching(site) as watched:
        await watched.serves(site.rotate())
    before = descriptors()

    for _ in range(3):
        async with watching(site) as watched:
            await watched.serves(site.rotate())

    await asyncio.sleep(0.2)  # the thread that held the last watch sees its end within a step
    assert descriptors() <= before


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def test_the_timer_asks_again_and_again() -> None:
    asked: asyncio.Queue[str] = asyncio.Queue()

    async def reload(trigger: str) -> None:
        asked.put_nowait(trigger)

    task = asyncio.create_task(run_timer(0.01, reload))
    async with asyncio.timeout(5):
        assert [await asked.get() for _ in range(3)] == ["ttl"] * 3
    task.cancel()


async def test_with_the_watch_off_the_timer_finds_the_change(site: Site, logs: Logs) -> None:
    watched = Watched(site)
    await watched.reloader.reload("start")
    timer: Awaitable[None] = run_timer(0.1, watched.reloader.reload)
    task = asyncio.ensure_future(timer)

    await watched.serves(site.rotate(), within=1.1)

    task.cancel()
    await watched.reloader.close()
