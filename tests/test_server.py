"""The daemon as a process: where it listens, what it tells the service manager, how a start fails."""

import signal
import socket
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from conftest import StartDaemon
from support.daemon import SOURCE_ROOT, Daemon
from support.generations import API_KEY
from support.live import Connection, live_site
from support.manager import ServiceManager
from support.pki import write_torn
from support.secrets import Ledger

SERVE = (sys.executable, "-m", "rekeyd", "serve", "-c")


@pytest.fixture
async def manager(tmp_path: Path) -> AsyncIterator[ServiceManager]:
    with ServiceManager(tmp_path / "notify.sock") as manager:
        yield manager


async def test_the_service_manager_is_told_every_change_of_state(
    start_daemon: StartDaemon, tmp_path: Path, manager: ServiceManager
) -> None:
    site = live_site(tmp_path, tls={"watch": False})
    daemon = await start_daemon(site.file, secrets=[API_KEY], environ=manager.environ)
    expiry = f"certificate until {site.leaf.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    ready = await manager.told(lambda message: "READY" in message)
    assert ready == {"READY": "1", "STATUS": f"generation 1, {expiry}, 0 connections"}
    first, *others = manager.seen[:-1]
    assert int(first["EXTEND_TIMEOUT_USEC"]) >= 30_000_000, "it may wait for its files (tls.start_wait)"
    assert all(message.keys() == {"STATUS"} for message in others)

    second = site.rotate()
    expiry = f"certificate until {second.certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC"
    daemon.signal(signal.SIGHUP)
    reloading = await manager.told(lambda message: "RELOADING" in message)
    assert reloading["RELOADING"] == "1"
    assert int(reloading["MONOTONIC_USEC"]) > 0
    assert (await manager.told(lambda message: "READY" in message))["STATUS"].startswith("generation 2,")

    write_torn(site.cert, site.leaf.chain_pem)
    daemon.signal(signal.SIGHUP)
    await manager.told(lambda message: "RELOADING" in message)
    ready = await manager.told(lambda message: "READY" in message)
    assert ready["STATUS"].startswith(f"generation 2, {expiry}, 0 connections, refused since ")
    assert ready["STATUS"].endswith(" UTC: truncated_pem")

    async with Connection.to(daemon, site.authority) as client:
        await client.send("/stream")
        await client.head()
        daemon.signal(signal.SIGTERM)
        assert (await manager.told(lambda message: "STOPPING" in message))["STOPPING"] == "1"
        extended = await manager.told(lambda message: "EXTEND_TIMEOUT_USEC" in message)
        assert int(extended["EXTEND_TIMEOUT_USEC"]) >= 30_000_000, "it drains for service.drain_timeout"
        site.rotate()
        daemon.signal(signal.SIGHUP)
        await daemon.event("reload.applied", trigger="sighup", generation=3)
    assert await daemon.exited() == 0
    assert not manager.has_more(), "STOPPING=1 is not taken back"


@pytest.mark.parametrize("host", ["::1", "localhost"])
async def test_it_listens_where_it_is_told_to_on_a_port_that_it_tells(
    start_daemon: StartDaemon, tmp_path: Path, host: str
) -> None:
    site = live_site(tmp_path, service={"host": host, "http_port": 0})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    (listener,) = daemon.started["listeners"]
    assert listener["tls"] is True
    assert listener["port"] > 0
    assert daemon.started["pid"] == daemon.pid
    async with Connection.to(daemon, site.authority, host=host) as client:
        assert (await client.ask()).json()["how"]["from"] in {"127.0.0.1", "::1"}


async def test_without_tls_it_speaks_http_and_warns_of_keys_that_anyone_can_read(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, service={"host": "0.0.0.0", "enable_tls": False})  # noqa: S104 - it warns of this
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with Connection.to(daemon, None) as client:
        assert (await client.ask()).json()["how"]["tls"] == "none"
    (finding,) = daemon.told("reload.applied")[0]["findings"]
    assert finding["severity"] == "warn"
    assert "keys and tokens cross the network in the clear" in finding["message"]


async def test_a_qdrant_file_and_its_environment_are_taken_over(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    other, reader = "another-made-up-key-of-the-environment", "a-made-up-key-that-only-reads"
    site = live_site(
        tmp_path,
        storage={"storage_path": "./storage"},
        service={"max_workers": 0},
        cluster={"consensus": {"tick_period_ms": 100}},
    )
    environ = {"REKEYD__SERVICE__API_KEY": other, "QDRANT__SERVICE__READ_ONLY_API_KEY": reader}
    daemon = await start_daemon(site.file, secrets=[API_KEY, other, reader], environ=environ)
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask(key=API_KEY)).status == 401
        assert (await client.ask(key=other, method="PUT", target="/collections/books")).status == 200
        assert (await client.ask(key=reader)).status == 200
        assert (await client.ask(key=reader, method="PUT", target="/collections/books")).status == 403
    daemon.signal(signal.SIGHUP)
    await daemon.event("reload.unchanged", trigger="sighup")
    (ignored,) = daemon.told("settings.ignored")
    assert {key.partition(".")[0] for key in ignored["keys"]} == {"storage", "service", "cluster"}


# What keeps it from serving


async def failed_start(
    ledger: Ledger, file: Path, environ: Mapping[str, str] | None = None, *arguments: str
) -> tuple[int, Daemon]:
    daemon = Daemon([*SERVE, str(file), *arguments], ledger=ledger, environ=environ)
    try:
        return await daemon.exited(), daemon
    finally:
        daemon.kill()
        daemon.assert_nothing_leaked()


async def test_a_port_that_is_taken_is_named_and_the_status_is_1(ledger: Ledger, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, daemon = await failed_start(ledger, live_site(tmp_path, service={"http_port": port}).file)
    assert status == 1
    (failed,) = daemon.told("daemon.failed")
    assert "Address already in use" in failed["problem"]
    assert str(port) in failed["problem"]
    assert daemon.stderr == ""
    assert daemon.told("daemon.started") == []


@pytest.mark.parametrize(
    ("sections", "event", "words"),
    [
        ({"upstream": {"http": "app:no_such_module:application"}}, "reload.refused", "no_such_module"),
        ({"admin": {"socket": "rekeyd.yaml"}}, "daemon.failed", "something that is not a socket is there"),
    ],
)
async def test_what_can_not_be_had_at_start_is_told_and_the_status_is_1(
    ledger: Ledger, tmp_path: Path, sections: dict[str, Any], event: str, words: str
) -> None:
    status, daemon = await failed_start(ledger, live_site(tmp_path, **sections).file)
    assert status == 1
    (failed,) = daemon.told(event)
    assert words in str(failed)
    assert daemon.stderr == ""


async def test_an_error_that_nobody_expected_is_a_line_of_the_log_and_no_traceback(
    ledger: Ledger, tmp_path: Path
) -> None:
    site = live_site(tmp_path, upstream={"http": "app:broken:application"})
    (tmp_path / "broken.py").write_text("def application(): raise SystemError\n")
    status, daemon = await failed_start(ledger, site.file, {"PYTHONPATH": f"{SOURCE_ROOT}:{tmp_path}"})
    assert status == 1
    assert daemon.stderr == ""
    assert any(event["level"] == "critical" for event in daemon.events)


async def test_a_certificate_that_can_not_be_served_is_refused_and_the_status_is_1(
    ledger: Ledger, tmp_path: Path
) -> None:
    site = live_site(tmp_path, tls={"start_wait": 0.5})
    write_torn(site.cert, site.leaf.chain_pem)
    status, daemon = await failed_start(ledger, site.file)
    assert status == 1
    (refused,) = daemon.told("reload.refused")
    assert refused["generation"] is None
    assert refused["findings"][0]["rule"] == "truncated_pem"
    assert daemon.stderr == ""


async def test_every_problem_of_the_settings_is_told_at_once_with_its_remedy_and_the_status_is_2(
    ledger: Ledger, tmp_path: Path
) -> None:
    site = live_site(
        tmp_path,
        service={"api_kee": "misplaced-made-up-key", "http_port": "6333"},
        tls={"cert": "absent.crt"},
    )
    ledger.add("misplaced-made-up-key", "an unknown setting")
    status, daemon = await failed_start(ledger, site.file)
    assert status == 2
    told = daemon.stderr.splitlines()
    assert all(line.startswith(f"rekeyd: {site.file}: ") for line in told)
    for key, remedy in [("api_kee", "api_key"), ("http_port", "without quotes"), ("absent.crt", "Create it")]:
        assert any(key in line and remedy in line for line in told), key
    assert "Traceback" not in daemon.stderr
    assert daemon.events == []


async def test_without_any_key_it_does_not_start_unless_it_is_told_so_aloud(
    ledger: Ledger, tmp_path: Path, start_daemon: StartDaemon
) -> None:
    site = live_site(tmp_path, service={"api_key": ""})
    status, daemon = await failed_start(ledger, site.file)
    assert status == 2
    assert "service.insecure" in daemon.stderr
    site.configure(service={"api_key": "", "insecure": True}, admin={"socket": None})
    daemon = await start_daemon(site.file)
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask("/collections/books", method="PUT", key=None)).status == 200
    assert daemon.started["admin"] is None
