"""`systemctl reload` waits for the outcome, and fails where what lies on the disk is refused."""

import pytest

from support.machine import Machine
from support.pki import write_torn
from support.service import Service

AT_ONCE = 20
RELOAD = "systemctl reload rekeyd"
ALL_SUCCEED = "for job in $(jobs -p); do wait $job || exit 1; done"
FIRST_WITH_NOTIFY_RELOAD = 253


async def test_a_new_certificate_is_served_when_the_reload_returns(service: Service) -> None:
    await service.systemctl("start")
    before = service.pid

    leaf = service.site.rotate()
    await service.systemctl("reload")

    assert await service.serial() == leaf.serial
    assert service.now("ActiveState") == "active"
    assert service.now("StatusText").startswith("generation 2, certificate until ")
    assert service.pid == before


async def test_a_refused_reload_fails_and_the_old_certificate_is_served(service: Service) -> None:
    await service.systemctl("start")
    good = service.site.leaf
    write_torn(service.site.cert, service.site.authority.issue().chain_pem)

    failed = await service.systemctl("reload", check=False)

    assert failed.returncode != 0
    assert service.now("ActiveState") == "active"
    assert ", refused since " in service.now("StatusText")
    assert await service.serial() == good.serial

    leaf = service.site.rotate()
    await service.systemctl("reload")
    assert await service.serial() == leaf.serial
    assert "refused" not in service.now("StatusText")


async def test_twenty_reloads_at_once_all_succeed(service: Service, machine: Machine) -> None:
    await service.systemctl("start")
    leaf = service.site.rotate()

    await machine.ran("sh", "-c", f"for each in $(seq {AT_ONCE}); do {RELOAD} & done; {ALL_SUCCEED}")

    assert await service.serial() == leaf.serial
    assert service.now("ActiveState") == "active"
    assert len(service.events("reload.applied")) == 2, "the first generation, and one for all of them"


async def test_the_drop_in_lets_a_newer_systemd_wait_by_itself(service: Service, machine: Machine) -> None:
    if machine.systemd < FIRST_WITH_NOTIFY_RELOAD:
        pytest.skip(f"systemd {machine.systemd} has no Type=notify-reload")
    await service.drop_in("notify-reload.conf")
    await service.systemctl("start")
    assert service.now("Type") == "notify-reload"

    leaf = service.site.rotate()
    await service.systemctl("reload")
    assert await service.serial() == leaf.serial

    write_torn(service.site.cert, leaf.chain_pem)
    await service.systemctl("reload")
    assert service.now("ActiveState") == "active"
    assert ", refused since " in service.now("StatusText")
    assert await service.serial() == leaf.serial
