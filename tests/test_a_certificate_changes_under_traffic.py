"""A certificate changes under live traffic, and nobody but those who look at it can tell."""

import asyncio
import signal
import ssl
from collections import Counter
from pathlib import Path

import pytest

from conftest import StartDaemon
from support.daemon import Daemon
from support.generations import API_KEY, Site
from support.live import (
    Connection,
    Rotator,
    live_site,
    measured,
    seconds_until_shown,
    serial_of,
    serial_text,
    shown_serial,
    trusting,
)


class Load:
    """Clients that open connections, and clients that keep theirs, until told to stop."""

    def __init__(self, daemon: Daemon, site: Site) -> None:
        self._daemon = daemon
        self._trust = trusting(site.authority)
        self._order: dict[int, int] = {site.leaf.serial: 0}
        self._applied = 0
        self._running = True
        self.counts: Counter[str] = Counter()
        self.stale: list[str] = []

    def issued(self, serial: int) -> None:
        self._order[serial] = len(self._order)

    def applied(self) -> None:
        """The last one that was issued is told to be served."""
        self._applied = len(self._order) - 1

    def stop(self) -> None:
        self._running = False

    async def open_and_ask(self) -> None:
        while self._running:
            least = self._applied
            async with Connection.to(self._daemon, self._trust) as client:
                if (shown := self._order[client.serial]) < least:
                    self.stale.append(f"certificate {shown} was shown after {least} was told to be applied")
                await self._ask(client, "new")

    async def keep_asking(self) -> None:
        async with Connection.to(self._daemon, self._trust) as client:
            serial = client.serial
            while self._running:
                await self._ask(client, "kept")
            assert client.serial == serial

    async def _ask(self, client: Connection, kind: str) -> None:
        answer = await client.ask("/collections/books", method="PUT", body=b"{}")
        assert answer.status == 200
        assert answer.json()["what"]["body_bytes"] == 2
        self.counts[kind] += 1


@pytest.mark.parametrize(
    "rotations", [30, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(1200)])]
)
async def test_no_request_fails_and_no_connection_is_shown_what_was_replaced(
    start_daemon: StartDaemon, tmp_path: Path, rotations: int
) -> None:
    site = live_site(tmp_path)
    rotator = Rotator(site)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    load = Load(daemon, site)
    trust = trusting(site.authority)
    async with asyncio.TaskGroup() as group:
        for work in (load.open_and_ask, load.keep_asking, load.open_and_ask, load.keep_asking):
            group.create_task(work())
        for _ in range(rotations):
            since = daemon.mark()
            leaf = rotator.rotate()
            load.issued(leaf.serial)
            applied = await daemon.event("reload.applied", since=since)
            load.applied()
            assert serial_of(applied) == serial_text(leaf)
            assert await shown_serial(daemon, trust) == leaf.serial
        load.stop()
    assert load.stale == []
    assert min(load.counts.values()) > rotations
    assert daemon.told("tls.handshake_failed") == []
    assert daemon.told("upstream.failed") == []
    assert daemon.told("auth.denied") == []
    triggers = [told["trigger"] for told in daemon.told("reload.applied")]
    by_itself = [trigger for trigger in triggers if trigger in {"watch", "retry"}]
    assert len(by_itself) == rotations, "each certificate is live once"
    measured("requests", dict(load.counts))


async def measure(
    daemon: Daemon, site: Site, nudge: signal.Signals | None = None, *, tries: int = 3
) -> list[float]:
    """In seconds, from the change of the files to a connection that is shown it.

    The issue's number must be reached by one of the tries: a busy machine may be late once.
    """
    taken = []
    for _ in range(tries):
        leaf = site.rotate()
        if nudge is not None:
            daemon.signal(nudge)
        taken.append(await seconds_until_shown(leaf, daemon, site.authority, within=10))
    return taken


async def test_the_watch_serves_a_new_certificate_within_a_second(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, tls={"cert_ttl": None})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    taken = await measure(daemon, site)
    measured("seconds_until_served", taken)
    assert min(taken) < 1


async def test_without_a_watch_the_timer_serves_it_within_its_ttl_and_a_second(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, tls={"watch": False, "cert_ttl": 1})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    taken = await measure(daemon, site, tries=2)
    measured("seconds_until_served", taken)
    assert min(taken) < 2
    assert {event["trigger"] for event in daemon.told("reload.applied")} == {"start", "ttl"}


async def test_a_hangup_serves_it_within_half_a_second(start_daemon: StartDaemon, tmp_path: Path) -> None:
    site = live_site(tmp_path, tls={"watch": False, "cert_ttl": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    taken = await measure(daemon, site, signal.SIGHUP)
    measured("seconds_until_served", taken)
    assert min(taken) < 0.5
    assert {event["trigger"] for event in daemon.told("reload.applied")} == {"start", "sighup"}


async def test_a_stream_goes_on_while_the_certificate_changes(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    old = site.leaf
    async with Connection.to(daemon, site.authority) as client:
        await client.send("/stream")
        assert (await client.head())[0] == 200
        lines = client.chunks()
        assert (await anext(lines)).startswith(b"data: ")
        await seconds_until_shown(site.rotate(), daemon, site.authority, within=10)
        assert (await anext(lines)).startswith(b"data: ")
        assert client.serial == old.serial
        await lines.aclose()


async def test_client_certificates_are_required_from_one_connection_to_the_next(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    def demand(what: bool | str) -> None:
        site.configure(
            admin={"socket": "admin.sock"},
            tls={"ca_cert": "ca.pem"},
            service={"verify_https_client_certificate": what},
        )

    site = live_site(tmp_path)
    site.authority.write(tmp_path / "ca.pem")
    demand("optional")
    member = site.authority.issue("someone", client=True)
    own = tmp_path / "member.pem"
    own.write_bytes(member.chain_pem + member.key_pem)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask()).json()["how"]["client_certificate"] == "none"
    demand(True)
    await daemon.event("reload.applied", trigger="watch")
    with pytest.raises((ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)):
        async with Connection.to(daemon, site.authority) as client:
            await client.ask()
    failed = await daemon.event("tls.handshake_failed")
    assert failed["client"] == "127.0.0.1"
    async with Connection.to(daemon, trusting(site.authority, own=own)) as client:
        assert "someone" in (await client.ask()).json()["how"]["client_certificate"]
