"""(Way of change x state of the files) against the real process.

For each pair: which certificate is served before, during and after, and what is said of it. The log, what
`rekeyd reload` prints and exits with, and `rekeyd status --json` say the same words.

One daemon lives through all states of one way: the states that are refused leave the last good certificate
where it is, and a good one by the same way mends them.
"""

import asyncio
import contextlib
import datetime as dt
import io
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import StartDaemon
from rekeyd.cli import main
from support.daemon import Daemon, Event
from support.generations import API_KEY
from support.live import live_site, serial_of, serial_text, shown_serial, trusting
from support.pki import DAY, Authority, Leaf, now, replace_file, write_in_place
from support.waiting import eventually

SETTLE = 0.6
SWAPS = 50


# The states


@dataclass(frozen=True)
class Files:
    """What is to be on disk, and the leaf that is served if it is good."""

    chain: bytes
    key: bytes
    leaf: Leaf


def good(authority: Authority) -> Files:
    return of(authority.issue())


def of(leaf: Leaf) -> Files:
    return Files(leaf.chain_pem, leaf.key_pem, leaf)


def truncated(authority: Authority) -> Files:
    leaf = authority.issue()
    return Files(leaf.chain_pem[: len(leaf.chain_pem) // 2], leaf.key_pem, leaf)


def key_of_another_pair(authority: Authority) -> Files:
    leaf = authority.issue()
    return Files(leaf.chain_pem, authority.issue().key_pem, leaf)


def empty(authority: Authority) -> Files:
    leaf = authority.issue()
    return Files(b"", leaf.key_pem, leaf)


def expired(authority: Authority) -> Files:
    return of(authority.issue(not_before=now() - 9 * DAY, not_after=now() - DAY))


def weak_rsa(authority: Authority) -> Files:
    return of(authority.issue(key="rsa1024"))


def not_yet_valid(authority: Authority) -> Files:
    return of(authority.issue(not_before=now() + dt.timedelta(seconds=3)))


@dataclass(frozen=True)
class State:
    """`rule` is the finding that refuses; `borne` whether the watch gives it time before it says so."""

    make: Callable[[Authority], Files]
    rule: str | None = None
    borne: bool = False
    held: bool = False


STATES = (
    State(good),
    State(truncated, "truncated_pem", borne=True),
    State(key_of_another_pair, "key_mismatch", borne=True),
    State(empty, "empty", borne=True),
    State(expired, "expired"),
    State(weak_rsa, "weak_key"),
    State(not_yet_valid, "not_yet_valid", held=True),
)


# The ways


Gap = Callable[[], Awaitable[object]]
"""Waits until the daemon has seen what there is, half way through a change."""


class Way:
    """How files change. `gap` is awaited in the middle, by ways that have one."""

    def __init__(self, folder: Path, first: Files) -> None:
        self.folder = folder
        self.cert, self.key = folder / "tls.crt", folder / "tls.key"
        self.lay_out(first)

    def lay_out(self, first: Files) -> None:
        write_in_place(self.key, first.key)
        write_in_place(self.cert, first.chain)

    async def change(self, files: Files, gap: Gap, /) -> None:
        raise NotImplementedError


class RenameOver(Way):
    async def change(self, files: Files, _gap: Gap) -> None:
        replace_file(self.key, files.key)
        replace_file(self.cert, files.chain)


class WriteInPlace(Way):
    async def change(self, files: Files, _gap: Gap) -> None:
        write_in_place(self.cert, files.chain)
        write_in_place(self.key, files.key)


class RemoveAndRecreate(Way):
    async def change(self, files: Files, gap: Gap) -> None:
        self.cert.unlink()
        self.key.unlink()
        await gap()
        self.lay_out(files)


class CertificateThenKey(Way):
    async def change(self, files: Files, gap: Gap) -> None:
        replace_file(self.cert, files.chain)
        await gap()
        replace_file(self.key, files.key)


class KeyThenCertificate(Way):
    async def change(self, files: Files, gap: Gap) -> None:
        replace_file(self.key, files.key)
        await gap()
        replace_file(self.cert, files.chain)


class KubernetesSwap(Way):
    """Links to `..data`, a link to a dated folder that is replaced as a whole."""

    def lay_out(self, first: Files) -> None:
        self.number = 0
        self.swap(first)
        for file in (self.cert, self.key):
            file.symlink_to(f"..data/{file.name}")

    async def change(self, files: Files, _gap: Gap) -> None:
        self.swap(files)

    def swap(self, files: Files) -> None:
        self.number += 1
        dated = self.folder / f"..2026_01_02_03_04_05.{self.number}"
        dated.mkdir()
        write_in_place(dated / "tls.crt", files.chain)
        write_in_place(dated / "tls.key", files.key)
        (self.folder / "..data_tmp").symlink_to(dated.name)
        (self.folder / "..data_tmp").replace(self.folder / "..data")
        if self.number > 1:
            shutil.rmtree(self.folder / f"..2026_01_02_03_04_05.{self.number - 1}")


class CertbotLinks(Way):
    """`live/` links to numbered files in `archive/`; a link is removed and made anew, as certbot does."""

    def lay_out(self, first: Files) -> None:
        self.archive, self.number = self.folder / "archive", 0
        self.archive.mkdir()
        self.renew(first)

    async def change(self, files: Files, _gap: Gap) -> None:
        self.renew(files)

    def renew(self, files: Files) -> None:
        self.number += 1
        for link, kind, pem in ((self.key, "privkey", files.key), (self.cert, "fullchain", files.chain)):
            target = self.archive / f"{kind}{self.number}.pem"
            write_in_place(target, pem)
            link.unlink(missing_ok=True)
            link.symlink_to(f"archive/{target.name}")


class DirectoryVanishes(Way):
    async def change(self, files: Files, gap: Gap) -> None:
        shutil.rmtree(self.folder)
        await gap()
        self.folder.mkdir()
        self.lay_out(files)


WAYS = (
    RenameOver,
    WriteInPlace,
    RemoveAndRecreate,
    CertificateThenKey,
    KeyThenCertificate,
    KubernetesSwap,
    CertbotLinks,
    DirectoryVanishes,
)


# The stage


@dataclass
class Stage:
    """A daemon, the way its files change, and all that clients are shown meanwhile."""

    daemon: Daemon
    way: Way
    settings: Path
    authority: Authority
    served: Leaf
    generation: int = 1
    refused: bool = False
    """Whether the trouble that there is was told: what follows it, until all is well, is not borne aloud."""
    shown: list[int] = field(default_factory=list)

    async def look(self) -> None:
        """Make one new connection after the other, and note what each is shown."""
        trust = trusting(self.authority)
        while True:
            self.shown.append(await shown_serial(self.daemon, trust))
            await asyncio.sleep(0.03)

    async def shows(self) -> int:
        return await shown_serial(self.daemon, trusting(self.authority))

    async def change(self, files: Files) -> int:
        """Change the files; where the events stood before."""
        since = self.daemon.mark()
        self.shown.clear()

        async def gap() -> None:
            await self.daemon.event(f"reload.{'refused' if self.refused else 'settling'}", since=since)

        await self.way.change(files, gap)
        return since

    async def command(self, *arguments: str) -> tuple[int, str]:
        """`rekeyd ARGUMENTS -c FILE`: its exit status and what it prints."""
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            status = await asyncio.to_thread(main, [*arguments, "-c", str(self.settings)])
        return status, printed.getvalue()

    def errors(self, since: int) -> list[Event]:
        return [event for event in self.daemon.events[since:] if event["level"] in {"error", "critical"}]


@contextlib.asynccontextmanager
async def stage(way: type[Way], folder: Path, start_daemon: StartDaemon) -> AsyncIterator[Stage]:
    authority = Authority()
    first = good(authority)
    (folder / "certs").mkdir()
    laid = way(folder / "certs", first)
    site = live_site(
        folder,
        tls={"cert": str(laid.cert), "key": str(laid.key), "settle": SETTLE},
        logging={"level": "debug", "decisions": "denied"},
    )
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    made = Stage(daemon, laid, site.file, authority, first.leaf)
    assert await made.shows() == first.leaf.serial
    spectator = asyncio.create_task(made.look())
    try:
        yield made
    finally:
        spectator.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await spectator


# What must hold


async def goes_live(on: Stage, files: Files, since: int) -> None:
    """It is applied once, under the next number, to all who connect from then on, and nothing is an error."""
    await becomes(on, files.leaf, since)
    assert not on.errors(since)
    await all_say(on, "unchanged", 0)


async def becomes(on: Stage, leaf: Leaf, since: int) -> None:
    applied = await on.daemon.event("reload.applied", since=since)
    assert await on.shows() == leaf.serial
    assert serial_of(applied) == serial_text(leaf)
    assert applied["generation"] == on.generation + 1
    assert in_order(on.shown, [on.served.serial, leaf.serial])
    assert len(on.daemon.told("reload.applied", since=since)) == 1
    on.served, on.generation, on.refused = leaf, applied["generation"], False


def in_order(shown: list[int], serials: list[int]) -> bool:
    """Nothing else was shown, and nobody was shown the old one after the new."""
    return set(shown) <= set(serials) and shown == sorted(shown, key=serials.index)


async def is_refused(on: Stage, state: State, since: int) -> None:
    """The last good one goes on; the reason is told, after its time where that may mend it."""
    if state.borne:
        await on.daemon.event("reload.settling", since=since)
        assert not on.errors(since)
    refused = await on.daemon.event("reload.refused", since=since, outcome="refused")
    assert rules_of(refused) == [state.rule]
    assert refused["generation"] == on.generation
    assert refused["level"] == ("warning" if state.held else "error")
    assert ("held_until" in refused) is state.held
    assert len(on.errors(since)) == (0 if state.held else 1)
    on.refused = True
    lines = await all_say(on, "refused", 1)
    assert str(state.rule) in lines
    assert await on.shows() == on.served.serial
    assert set(on.shown) <= {on.served.serial}
    assert not on.daemon.told("reload.applied", since=since)


def rules_of(event: Event) -> list[str]:
    return [finding["rule"] for finding in event["findings"] if finding["severity"] != "warn"]


async def all_say(on: Stage, outcome: str, status: int) -> str:
    """The command, its exit status, the log and the status agree; what the command prints."""
    since = on.daemon.mark()
    exit_status, printed = await on.command("reload")
    assert (exit_status, printed.split()[0].rstrip(":")) == (status, outcome)
    told = await on.daemon.event(f"reload.{outcome}", since=since, trigger="admin")
    assert (told["outcome"], told["generation"]) == (outcome, on.generation)
    _, printed_status = await on.command("status", "--json")
    said = json.loads(printed_status)
    assert (said["last_reload"]["outcome"], said["generation"]) == (outcome, on.generation)
    assert said["serving"]
    return printed


async def is_mended(on: Stage) -> None:
    """A good pair by the same way ends the trouble, and no error is told from then on."""
    files = good(on.authority)
    await goes_live(on, files, await on.change(files))


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
async def test_each_state_is_served_or_refused_as_it_should(
    way: type[Way], tmp_path: Path, start_daemon: StartDaemon
) -> None:
    async with stage(way, tmp_path, start_daemon) as on:
        for state in STATES:
            files = state.make(on.authority)
            since = await on.change(files)
            if state.rule is None:
                await goes_live(on, files, since)
                continue
            await is_refused(on, state, since)
            if state.held:
                await becomes(on, files.leaf, since)
                await all_say(on, "unchanged", 0)
            else:
                await is_mended(on)


async def test_fifty_swaps_of_a_kubernetes_volume_end_with_the_last(
    tmp_path: Path, start_daemon: StartDaemon
) -> None:
    async with stage(KubernetesSwap, tmp_path, start_daemon) as on:
        since, way = on.daemon.mark(), on.way
        assert isinstance(way, KubernetesSwap)
        leaves = [on.authority.issue() for _ in range(SWAPS)]
        for leaf in leaves:
            way.swap(of(leaf))
            await asyncio.sleep(0.01)  # others meet the watch at other moments
        last = serial_text(leaves[-1])
        await eventually(lambda: last in map(serial_of, on.daemon.told("reload.applied", since=since)))

        assert await on.shows() == leaves[-1].serial
        assert in_order(on.shown, [on.served.serial, *(leaf.serial for leaf in leaves)])
        assert not on.errors(since)
        on.generation = on.daemon.told("reload.applied")[-1]["generation"]
        await all_say(on, "unchanged", 0)
