"""A service that crashes, or can't start yet, comes back by itself; wrong settings wait for a person."""

import json
import signal
import socket

from support.machine import ON_THE_OLDER, Machine
from support.pki import replace_file, write_torn
from support.service import SLOW, Service
from support.waiting import eventually

SETTINGS_WRONG = "2"
WATCHDOG = 3
"""Seconds; the unit's own would take half a minute."""


async def test_a_crash_is_followed_by_a_start(service: Service) -> None:
    await service.systemctl("start")
    crashed = service.pid

    await service.kill(signal.SIGKILL)

    await service.is_back(crashed)
    async with service.connection() as client:
        assert (await client.ask()).status == 200


async def test_what_was_good_is_served_after_a_crash_in_the_middle_of_a_renewal(service: Service) -> None:
    await service.systemctl("start")
    good, crashed = service.site.leaf, service.pid
    await eventually(lambda: service.now("NFileDescriptorStore") == "1", timeout=SLOW)
    for path in (service.site.cert, service.site.key):
        write_torn(path, path.read_bytes())

    await service.kill(signal.SIGKILL)
    await service.is_back(crashed)

    assert await service.serial() == good.serial
    restored = await service.event("generation.restored")
    assert (restored["was"], restored["generation"]) == (1, 1)
    assert (await service.systemctl("reload", check=False)).returncode != 0
    leaf = service.site.rotate()
    await service.systemctl("reload")
    assert await service.serial() == leaf.serial
    assert "refused" not in service.now("StatusText")


async def test_what_is_stuck_is_ended_by_the_watchdog_and_returns(service: Service) -> None:
    await service.drop_in("hasty.conf", f"[Service]\nWatchdogSec={WATCHDOG}\n")
    await service.systemctl("start")
    stuck = service.pid

    await service.kill(signal.SIGSTOP)
    await service.is_back(stuck)

    assert f"Watchdog timeout (limit {WATCHDOG}s)!" in service.told()
    async with service.connection() as client:
        assert (await client.ask()).status == 200


@ON_THE_OLDER
async def test_workers_are_replaced_and_none_outlives_the_service(service: Service, machine: Machine) -> None:
    service.site.configure(service={"workers": 2})
    await service.systemctl("start")
    supervisor = service.pid
    leaf = service.site.rotate()
    await service.systemctl("reload")
    assert await service.serial() == leaf.serial

    await service.kill(signal.SIGKILL, (await workers(machine))[0])
    await eventually(lambda: len(service.events("worker.started")) == 3, timeout=SLOW)
    async with service.connection() as client:
        assert (await client.ask()).status == 200
    assert service.pid == supervisor

    await service.kill(signal.SIGKILL)
    await service.is_back(supervisor)
    async with service.connection() as client:
        assert (client.serial, (await client.ask()).status) == (leaf.serial, 200)

    last = await workers(machine)
    await service.systemctl("stop")
    assert (service.now("Result"), service.now("ExecMainStatus")) == ("success", "0")
    assert not [pid for pid in last if machine.path(f"/proc/{pid}").exists()]
    assert len(service.events("worker.left")) == len(last) == 2, "each by itself, killed by nobody"


async def workers(machine: Machine) -> list[int]:
    """Their pids, as the machine has them."""
    status = json.loads((await machine.ran("rekeyd", "status", "--json")).stdout)
    return [each["pid"] for each in status["workers"]]


@ON_THE_OLDER
async def test_wrong_settings_are_not_tried_again(service: Service) -> None:
    service.site.configure(tls={"strat_wait": 1})

    failed = await service.systemctl("start", check=False)

    assert failed.returncode != 0
    assert service.now("ExecMainStatus") == SETTINGS_WRONG
    assert (service.now("ActiveState"), service.now("SubState")) == ("failed", "failed")
    assert service.now("NRestarts") == "0"
    assert "tls.strat_wait" in service.told()

    service.site.configure()
    await service.systemctl("start")


@ON_THE_OLDER
async def test_a_start_in_the_middle_of_a_renewal_waits_for_its_end(service: Service) -> None:
    leaf = service.site.authority.issue()
    whole = service.site.cert.read_bytes()
    write_torn(service.site.cert, leaf.chain_pem)

    await service.systemctl("start", "--no-block")
    await eventually(lambda: service.events("reload.settling"), timeout=SLOW)
    assert service.now("ActiveState") == "activating"
    replace_file(service.site.cert, whole)

    await service.becomes("active")
    assert await service.serial() == service.site.leaf.serial


@ON_THE_OLDER
async def test_what_stops_it_for_a_while_is_tried_until_it_is_over(
    service: Service, machine: Machine
) -> None:
    with machine.in_its_network(lambda: socket.create_server(("127.0.0.1", service.site.port))):
        failed = await service.systemctl("start", check=False)
        assert failed.returncode != 0
        await eventually(lambda: int(service.now("NRestarts")) >= 1, timeout=SLOW)

    await service.becomes("active")
    async with service.connection() as client:
        assert (await client.ask()).status == 200
