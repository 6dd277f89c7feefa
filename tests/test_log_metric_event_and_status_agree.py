"""The real process: what its log says, its metrics count, its events and its status show is one thing."""

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, UnixConnector
from prometheus_client.parser import text_string_to_metric_families

from conftest import StartDaemon
from rekeyd.telemetry.handshakes import kind_of
from support.daemon import Daemon, Event
from support.generations import API_KEY
from support.live import Connection, live_site, trusting, upstream
from support.pki import Authority, write_torn
from support.waiting import eventually

READER = "a-made-up-key-that-may-read"
REHEARSED = (("applied", 0), ("unchanged", 0), ("refused", 1), ("refused", 1), ("applied", 0))
"""Outcomes in turn, each with the exit status of `rekeyd reload`."""


class Scrape(dict[tuple[str, tuple[str, ...]], float]):
    """Samples by name and label values, in the order of the labels' names."""

    @classmethod
    def of(cls, text: str) -> "Scrape":
        samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
        return cls({(s.name, tuple(s.labels[label] for label in sorted(s.labels))): s.value for s in samples})

    def counter(self, name: str) -> dict[tuple[str, ...], float]:
        return {labels: value for (sample, labels), value in self.items() if sample == name and value}

    def one(self, name: str) -> float:
        return self[name, ()]


async def scraped(daemon: Daemon) -> Scrape:
    """From the metrics port, as Prometheus does it: without TLS and without a key."""
    url = f"http://127.0.0.1:{daemon.port_of('metrics')}/metrics"
    async with ClientSession() as session, session.get(url) as response:
        assert response.status == 200
        return Scrape.of(await response.text())


@contextlib.asynccontextmanager
async def admin(daemon: Daemon) -> AsyncIterator[ClientSession]:
    connector = UnixConnector(daemon.started["admin"])
    async with ClientSession("http://rekeyd", connector=connector) as session:
        yield session


@contextlib.asynccontextmanager
async def listening(daemon: Daemon) -> AsyncIterator[list[Event]]:
    """The events that are streamed meanwhile."""
    heard: list[Event] = []

    async def read(session: ClientSession) -> None:
        async with session.get("/events", timeout=None) as response:
            async for line in response.content:
                if line.startswith(b":"):
                    connected.set()
                if line.startswith(b"data: "):
                    heard.append(json.loads(line.removeprefix(b"data: ")))

    connected = asyncio.Event()
    async with admin(daemon) as session:
        task = asyncio.create_task(read(session))
        await asyncio.wait_for(connected.wait(), 10)
        yield heard
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def reloaded(daemon: Daemon) -> tuple[int, str]:
    """What `rekeyd reload` says of the outcome in its first word, and its exit status."""
    command = [sys.executable, "-m", "rekeyd", "reload", "--socket", daemon.started["admin"]]
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, timeout=30, check=False
    )
    return done.returncode, done.stdout.split()[0].rstrip(":")


async def status_of(daemon: Daemon) -> dict[str, Any]:
    async with admin(daemon) as session, session.get("/status") as response:
        status: dict[str, Any] = await response.json()
    return status


def told(daemon: Daemon, *families: str) -> list[Event]:
    return [event for event in daemon.events if str(event["event"]).startswith(families)]


async def test_decisions_are_counted_streamed_and_logged_alike(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, service={"read_only_api_key": READER}, metrics={"port": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY, READER])
    async with listening(daemon) as heard, Connection.to(daemon, site.authority) as client:
        for number in range(20):
            assert (await client.ask("/collections")).status == 200
            assert (await client.ask("/collections", key=f"a wrong guess {number}")).status == 401
            assert (await client.ask("/collections/x", method="DELETE", key=READER)).status == 403
        logged = await daemon.several(20, "auth.allowed")
        await daemon.several(40, "auth.denied")
        await eventually(lambda: len(heard) >= 60)
    scrape = await scraped(daemon)
    lines = told(daemon, "auth.")
    assert heard == lines
    counted = Counter(
        (e["decision"], e.get("key_id", ""), e["reason"], str(e.get("right_needed", ""))) for e in lines
    )
    assert scrape.counter("rekeyd_decisions_total") == counted
    assert scrape["rekeyd_request_duration_seconds_count", ("2xx",)] == 20
    assert scrape["rekeyd_request_duration_seconds_count", ("4xx",)] == 40
    longest = sum(event["duration"] for event in logged)
    assert scrape["rekeyd_request_duration_seconds_sum", ("2xx",)] == pytest.approx(longest, abs=1e-4)


async def test_reloads_are_told_in_the_same_words_everywhere(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, metrics={"port": 0}, tls={"watch": False})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    expected: Counter[tuple[str, str]] = Counter({("applied", "start"): 1})
    async with listening(daemon) as heard:
        for outcome, status in REHEARSED:
            since = daemon.mark()
            if outcome == "applied":
                site.rotate()
            elif outcome == "refused":
                write_torn(site.cert, site.leaf.chain_pem)
            assert await reloaded(daemon) == (status, outcome)
            line = await daemon.event(f"reload.{outcome}", since=since, trigger="admin")
            expected[outcome, "admin"] += 1
            await eventually(partial(heard.__contains__, line))
            scrape = await scraped(daemon)
            assert scrape.counter("rekeyd_reloads_total") == expected
            assert scrape.one("rekeyd_reload_refused") == (outcome == "refused")
            assert scrape.one("rekeyd_generation") == line["generation"]
            shown = await status_of(daemon)
            assert shown["last_reload"]["outcome"] == line["outcome"] == outcome
            assert shown["generation"] == line["generation"]
    assert heard == told(daemon, "reload.")[1:]


async def test_the_expiry_and_the_connections_are_those_of_this_moment(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, metrics={"port": 0}, tls={"watch": False})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    for _ in range(2):
        leaf = site.rotate()
        await reloaded(daemon)
        async with Connection.to(daemon, site.authority) as client:
            await client.ask("/collections")
            scrape = await scraped(daemon)
            status = await status_of(daemon)
        (expiry,) = scrape.counter("rekeyd_certificate_expiry_timestamp_seconds").values()
        assert expiry == leaf.certificate.not_valid_after_utc.timestamp()
        (certificate,) = status["certificates"]
        assert int(certificate["serial"], 16) == leaf.serial
        assert sum(scrape.counter("rekeyd_connections").values()) == status["connections"] == 1


async def test_failed_handshakes_are_counted_in_full_and_told_in_few_lines(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, metrics={"port": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    stranger = trusting(Authority())
    for _ in range(40):
        with pytest.raises(ssl.SSLCertVerificationError):
            async with Connection.to(daemon, stranger):
                pass

    def failures(event: Event) -> int:
        return int(event.get("count", 1))

    await eventually(lambda: sum(map(failures, daemon.told("tls.handshake_failed"))) >= 40)
    lines = daemon.told("tls.handshake_failed")
    assert sum(map(failures, lines)) == 40
    assert len(lines) < 40
    scrape = await scraped(daemon)
    kinds: Counter[tuple[str, str]] = Counter()
    for line in lines:
        kinds["http", kind_of(line["reason"])] += failures(line)
    assert scrape.counter("rekeyd_handshake_failures_total") == kinds
    assert not scrape.counter("rekeyd_handshakes_total")


async def test_an_upstream_that_fails_is_counted_by_its_cause(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    async def never(_request: Any) -> Any:
        raise AssertionError("nobody asks")

    async with upstream(never) as address:
        pass
    site = live_site(tmp_path, upstream={"http": address}, metrics={"port": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask("/collections")).status == 502
    line = await daemon.event("upstream.failed")
    assert (await scraped(daemon)).counter("rekeyd_upstream_failures_total") == {(line["cause"],): 1}


async def test_no_secret_is_in_what_is_scraped_or_streamed(start_daemon: StartDaemon, tmp_path: Path) -> None:
    site = live_site(tmp_path, metrics={"port": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    guess = daemon.secret("a-guess-that-nobody-may-see")
    async with listening(daemon) as heard, Connection.to(daemon, site.authority) as client:
        for key in (API_KEY, guess):
            await client.ask(f"/collections/{'x' * 9}?api-key={guess}", key=key)
        await eventually(lambda: len(heard) == 2)
        async with admin(daemon) as session:
            answers = [await (await session.get(path)).text() for path in ("/metrics", "/status")]
    for text in [*answers, json.dumps(heard)]:
        assert API_KEY not in text
        assert guess not in text


async def test_events_end_when_the_daemon_does(start_daemon: StartDaemon, tmp_path: Path) -> None:
    site = live_site(tmp_path)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with admin(daemon) as session, session.get("/events", timeout=None) as response:
        stopping = asyncio.create_task(daemon.stop())
        text = await asyncio.wait_for(response.text(), 15)
        await stopping
    assert "event: daemon.stopping\n" in text
