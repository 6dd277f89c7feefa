"""Whatever lies on the disk, the last good certificate is served, and the log says what and why."""

import asyncio
import contextlib
import shutil
import signal
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
import pytest_asyncio

from support.daemon import Daemon, Event
from support.generations import API_KEY, Site
from support.live import live_site, seconds_until_shown, serial_of, serial_text, shown_serial, trusting
from support.pki import Authority, Leaf, now, replace_file, write_in_place, write_torn
from support.secrets import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

PROBE_EVERY = 0.05
SETTLE = 0.3
"""Seconds: what is told after it is told soon here."""
BY_ITSELF = {"watch", "retry"}


class Served:
    """A daemon, and a client that looks at its certificate all the time."""

    def __init__(self, daemon: Daemon, site: Site) -> None:
        self.daemon = daemon
        self.site = site
        self.pki = site.folder / "pki"
        self._trust = trusting(site.authority)

    def rotate(self) -> Leaf:
        self.site.leaf = self.site.authority.issue()
        self.site.leaf.write(self.pki)
        return self.site.leaf

    @contextlib.asynccontextmanager
    async def watched(self) -> AsyncIterator[list[int]]:
        """The serials that new connections are shown, in the order in which they change."""
        seen: list[int] = []

        async def look() -> None:
            while True:
                serial = await shown_serial(self.daemon, self._trust)
                if not seen or seen[-1] != serial:
                    seen.append(serial)
                await asyncio.sleep(PROBE_EVERY)

        watcher = asyncio.create_task(look())
        yield seen
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """One daemon for all: each story leaves it with good material."""
    site = live_site(
        tmp_path_factory.mktemp("site"), tls={"cert": "pki/tls.crt", "key": "pki/tls.key", "settle": SETTLE}
    )
    site.leaf.write(site.folder / "pki")
    async with Daemon.running(ledger, site.file, secrets=[API_KEY]) as daemon:
        yield Served(daemon, site)


# None of these ever shows a whole pair, not even for a moment: it would be served, and rightly.


def truncated(pki: Path, leaf: Leaf) -> None:
    write_torn(pki / "tls.crt", leaf.chain_pem)
    replace_file(pki / "tls.key", leaf.key_pem)


def emptied(pki: Path, leaf: Leaf) -> None:
    write_in_place(pki / "tls.key", b"")
    replace_file(pki / "tls.crt", leaf.chain_pem)


def of_another_pair(pki: Path, leaf: Leaf) -> None:
    replace_file(pki / "tls.key", Authority().issue().key_pem)
    replace_file(pki / "tls.crt", leaf.chain_pem)


def garbage(pki: Path, leaf: Leaf) -> None:
    write_in_place(pki / "tls.crt", b"\x00\xff" * 500)


def expired(pki: Path, leaf: Leaf) -> None:
    ended = now().replace(year=2020)
    Authority().issue(not_before=ended.replace(year=2019), not_after=ended).write(pki)


def gone(pki: Path, leaf: Leaf) -> None:
    shutil.rmtree(pki)


def replaced_by_a_folder(pki: Path, leaf: Leaf) -> None:
    (pki / "tls.crt").unlink()
    (pki / "tls.crt").mkdir()


WAYS = [
    (truncated, "truncated_pem", "pki/tls.crt: a PEM block begins and does not end"),
    (emptied, "empty", "pki/tls.key: the file is empty"),
    (of_another_pair, "key_mismatch", "the private key does not belong to the certificate with serial"),
    (garbage, "no_pem_block", "pki/tls.crt: there is no certificate in the file"),
    (expired, "expired", "expired at 2020-"),
    (gone, "unreadable", "nor does its folder"),
    (replaced_by_a_folder, "unreadable", "pki/tls.crt is a directory"),
]


@pytest.mark.parametrize(("spoil", "rule", "words"), WAYS, ids=[way.__name__ for way, *_ in WAYS])
async def test_the_old_certificate_is_served_until_the_files_are_good_again(
    served: Served, spoil: Callable[[Path, Leaf], None], rule: str, words: str
) -> None:
    daemon, site = served.daemon, served.site
    old, leaf = site.leaf, site.authority.issue()
    async with served.watched() as seen:
        since = daemon.mark()
        spoil(served.pki, leaf)
        refused = await _refused(daemon, since, words)
        assert refused["level"] == "error"
        assert refused["trigger"] in BY_ITSELF
        assert rule in {finding["rule"] for finding in refused["findings"]}
        assert all(finding["fix"] for finding in refused["findings"])
        if (served.pki / "tls.crt").is_dir():
            (served.pki / "tls.crt").rmdir()
        site.leaf = leaf
        since = daemon.mark()
        leaf.write(served.pki)
        await seconds_until_shown(leaf, daemon, site.authority, within=10)
        applied = await daemon.event("reload.applied", since=since)
        await asyncio.sleep(2 * PROBE_EVERY)
    assert seen == [old.serial, leaf.serial]
    assert serial_of(applied) == serial_text(leaf)
    assert applied["generation"] == refused["generation"] + 1, "what was refused is no generation"


async def _refused(daemon: Daemon, since: int, words: str) -> Event:
    """The refusal that says `words`; what is written in several steps may be refused for each of them."""
    while True:
        refused = await daemon.event("reload.refused", since=since)
        since = daemon.events.index(refused) + 1
        if words in str(refused["findings"]):
            return refused


@pytest.mark.parametrize("first", ["tls.key", "tls.crt"])
async def test_certificate_and_key_may_come_a_second_apart_in_either_order(
    served: Served, first: str
) -> None:
    daemon, site = served.daemon, served.site
    old, leaf = site.leaf, site.authority.issue()
    halves = {"tls.key": leaf.key_pem, "tls.crt": leaf.chain_pem}
    async with served.watched() as seen:
        since = daemon.mark()
        replace_file(served.pki / first, halves.pop(first))
        refused = await daemon.event("reload.refused", since=since)
        await asyncio.sleep(1)
        assert await shown_serial(daemon, trusting(site.authority)) == old.serial
        ((second, data),) = halves.items()
        replace_file(served.pki / second, data)
        site.leaf = leaf
        await seconds_until_shown(leaf, daemon, site.authority, within=10)
        await daemon.event("reload.applied", since=since)
        await asyncio.sleep(2 * PROBE_EVERY)
    assert [finding["rule"] for finding in refused["findings"]] == ["key_mismatch"]
    assert seen == [old.serial, leaf.serial]
    assert len(daemon.told("reload.refused", since=since)) == 1, "the watch says it once"
    assert len(daemon.told("reload.applied", since=since)) == 1


async def test_a_directory_that_stays_away_is_told_once_by_the_watch_and_each_time_to_who_asks(
    served: Served,
) -> None:
    daemon, site = served.daemon, served.site
    since = daemon.mark()
    served.pki.rename(served.pki.with_name("away"))
    assert (await daemon.event("reload.refused", since=since))["trigger"] in BY_ITSELF
    await asyncio.sleep(1.2)  # the watch polls twice a second
    assert len(daemon.told("reload.refused", since=since)) == 1
    daemon.signal(signal.SIGHUP)
    await daemon.event("reload.refused", since=since, trigger="sighup")
    assert await shown_serial(daemon, trusting(site.authority)) == site.leaf.serial
    served.pki.with_name("away").rename(served.pki)
    mended = await daemon.event("reload.unchanged", since=since)
    assert mended["trigger"] in BY_ITSELF
    await seconds_until_shown(served.rotate(), daemon, site.authority, within=10)


async def test_bad_settings_refuse_good_certificates_too(served: Served) -> None:
    daemon, site = served.daemon, served.site
    good, old = site.file.read_bytes(), site.leaf
    since = daemon.mark()
    site.configure(service={"api_kee": "a-made-up-key-in-a-wrong-place"}, tls={"cert_ttl": "soon"})
    served.rotate()
    refused = await _refused(daemon, since, "service.api_kee")
    assert "tls.cert_ttl" in str(refused["findings"]), "every problem at once"
    assert await shown_serial(daemon, trusting(site.authority)) == old.serial
    replace_file(site.file, good)
    await seconds_until_shown(site.leaf, daemon, site.authority, within=10)
