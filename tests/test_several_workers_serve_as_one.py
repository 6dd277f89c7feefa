"""The real daemon with two workers: what is promised of one holds for all of them together."""

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

from conftest import StartDaemon
from rekeyd.system.admin_client import ask
from support.daemon import Daemon
from support.generations import API_KEY
from support.live import Connection, live_site, serial_text
from support.pki import write_torn


async def status(daemon: Daemon) -> dict[str, Any]:
    _, answer = await asyncio.to_thread(ask, Path(daemon.started["admin"]), "GET", "/status")
    return answer


async def test_both_serve_and_a_reload_reaches_both_before_it_is_announced(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, service={"workers": 2}, tls={"watch": False})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    workers = {worker["pid"] for worker in (await status(daemon))["workers"]}
    assert len(workers) == 2
    assert daemon.pid not in workers

    leaf = site.rotate()
    daemon.signal(signal.SIGHUP)
    applied = await daemon.event("reload.applied", trigger="sighup", generation=2)
    assert applied["parts"]["server_certificate"]["new"]["serial"] == serial_text(leaf)
    for _ in range(20):
        async with Connection.to(daemon, site.authority) as client:
            assert client.serial == leaf.serial
            assert (await client.ask(key=API_KEY)).status == 200
    await daemon.several(20, "auth.allowed", generation=2)

    write_torn(site.cert, leaf.chain_pem)
    daemon.signal(signal.SIGHUP)
    await daemon.event("reload.refused", trigger="sighup", generation=2)
    assert (await status(daemon))["connections_by_generation"].keys() <= {"2"}
    assert {worker["pid"] for worker in (await status(daemon))["workers"]} == workers


async def test_a_worker_that_is_killed_is_replaced_and_nobody_is_turned_away(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, service={"workers": 2}, tls={"watch": False})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    first, _ = (await status(daemon))["workers"]
    os.kill(first["pid"], signal.SIGKILL)
    died = await daemon.event("worker.died", worker_pid=first["pid"])
    assert died["problem"] == "SIGKILL"
    for _ in range(10):
        async with Connection.to(daemon, site.authority) as client:
            assert (await client.ask(key=API_KEY)).status == 200
    await daemon.several(2, "worker.started", worker=first["worker"])
    site.rotate()
    daemon.signal(signal.SIGHUP)
    await daemon.event("reload.applied", generation=2)
    assert len((await status(daemon))["workers"]) == 2


async def test_who_stops_while_a_worker_is_being_replaced_leaves_none_behind(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, service={"workers": 2})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    workers = [worker["pid"] for worker in (await status(daemon))["workers"]]
    os.kill(workers[0], signal.SIGKILL)
    await daemon.event("worker.died")
    await daemon.stop()
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]


async def test_settings_in_a_folder_whose_name_is_no_utf_8_are_served(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    site = live_site(folder, service={"workers": 2}, tls={"watch": False}, admin={"socket": None})
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask(key=API_KEY)).status == 200
