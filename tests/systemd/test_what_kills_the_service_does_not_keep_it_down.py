"""A service that crashes, or can't start yet, comes back by itself; wrong settings wait for a person."""

import signal
import socket

from support.machine import Machine
from support.pki import replace_file, write_torn
from support.service import SLOW, Service
from support.waiting import eventually

SETTINGS_WRONG = "2"


async def test_a_crash_is_followed_by_a_start(service: Service, machine: Machine) -> None:
    await service.systemctl("start")
    crashed = service.pid

    await machine.ran("kill", f"-{signal.SIGKILL}", str(crashed))

    await eventually(lambda: service.now("NRestarts") == "1", timeout=SLOW)
    await service.becomes("active")
    assert service.pid != crashed
    async with service.connection() as client:
        assert (await client.ask()).status == 200


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
