"""Two rekeyd@.service on one machine: own settings, users and folders; what befalls one stays there."""

import pytest

from rekeyd.cli import NO_DAEMON
from support.machine import ON_THE_OLDER, Machine
from support.service import FOLDER, ServedSite, Service


@pytest.fixture
def instances(machine: Machine, service: Service) -> tuple[Service, Service]:
    """`service` cleans up after them."""
    one, other = (
        Service(machine, ServedSite.made(machine, name, port=port), f"rekeyd@{name}.service")
        for name, port in (("one", 6401), ("other", 6402))
    )
    return one, other


async def test_each_has_a_user_and_folders_of_its_own_and_is_reloaded_and_stopped_alone(
    instances: tuple[Service, Service], machine: Machine
) -> None:
    one, other = instances
    for each in instances:
        await each.systemctl("start")
    assert one.now("UID") != other.now("UID")
    for each, name in zip(instances, ("one", "other"), strict=True):
        assert machine.path(f"/run/rekeyd-{name}/admin.sock").is_socket()
        state = machine.path(f"/var/lib/private/rekeyd-{name}").stat()
        assert (str(state.st_uid), state.st_mode & 0o777) == (each.now("UID"), 0o700)
    first, second = one.site.leaf, other.site.leaf

    renewed = one.site.rotate()
    other.site.rotate()
    await one.systemctl("reload")
    assert (await one.serial(), await other.serial()) == (renewed.serial, second.serial)
    assert first.serial != renewed.serial

    await one.systemctl("stop")
    assert await other.serial() == second.serial
    await other.systemctl("reload")
    assert await other.serial() == other.site.leaf.serial


@ON_THE_OLDER
async def test_a_command_for_one_is_not_answered_by_another(
    instances: tuple[Service, Service], machine: Machine
) -> None:
    one, _ = instances
    await one.systemctl("start")
    leaf = one.site.leaf
    one.site.rotate()
    socket = "/run/rekeyd-one/admin.sock"

    failed = await machine.ran(
        "rekeyd", "reload", "-c", f"{FOLDER}/other.yaml", "--socket", socket, check=False
    )

    assert failed.returncode == NO_DAEMON
    assert f"another daemon answers there ({FOLDER}/one.yaml)" in failed.stderr
    assert await one.serial() == leaf.serial
