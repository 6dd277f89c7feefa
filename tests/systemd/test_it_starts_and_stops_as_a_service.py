"""The unit as it is installed: active means serving, stopping means finishing, and it can do nothing else."""

import asyncio

from support.generations import API_KEY
from support.live import HeldUpstream, upstream
from support.machine import ON_THE_OLDER, Machine
from support.processes import kernel_has_landlock
from support.service import Service
from support.waiting import eventually

OWN_FOLDERS = ("/run/rekeyd", "/var/lib/rekeyd", "/var/log/rekeyd", "/tmp")  # noqa: S108 - it has one of its own
FOLDERS_OF_OTHERS = ("/", "/etc", "/etc/rekeyd", "/usr", "/usr/local/bin", "/run", "/var", "/var/lib", "/srv")

UNPRIVILEGED = {
    "NoNewPrivs": "1",
    "Seccomp": "2",  # SECCOMP_MODE_FILTER
    "CapEff": "0" * 16,
    "CapPrm": "0" * 16,
    "CapBnd": "0" * 16,
    "CapAmb": "0" * 16,
}


async def test_it_is_active_when_it_serves_and_its_commands_find_it(
    service: Service, machine: Machine
) -> None:
    await service.systemctl("start")

    async with service.connection() as client:
        assert (await client.ask()).status == 200
    assert service.now("ActiveState") == "active"
    assert service.now("StatusText").startswith("generation 1, certificate until ")
    assert (await service.event("daemon.started"))["admin"] == "/run/rekeyd/admin.sock"
    assert "serving" in (await machine.ran("rekeyd", "status")).stdout
    assert (await machine.ran("rekeyd", "reload")).returncode == 0


async def test_what_runs_is_finished_when_it_is_stopped(service: Service, machine: Machine) -> None:
    holding = HeldUpstream()
    async with upstream(holding.answer, machine.listening()) as address:
        service.site.configure(upstream={"http": address})
        await service.systemctl("start")
        async with service.connection() as client:
            asking = asyncio.create_task(client.ask())
            await holding.holds(1)

            stopping = asyncio.create_task(service.systemctl("stop"))
            await service.becomes("deactivating")
            await eventually(lambda: service.now("StatusText") == "draining")
            holding.release.set()

            assert (await asking).status == 200
            await stopping
    assert (service.now("Result"), service.now("ExecMainStatus")) == ("success", "0")
    assert service.now("ActiveState") == "inactive"
    assert not machine.path("/run/rekeyd").exists()


@ON_THE_OLDER
async def test_it_sees_and_writes_little_and_holds_no_privilege(service: Service) -> None:
    service.site.configure(logging={"level": "debug"})
    await service.systemctl("start")
    writes = "; ".join(
        f"touch {folder}/probe 2>/dev/null && echo {folder}" for folder in (*OWN_FOLDERS, *FOLDERS_OF_OTHERS)
    )
    status = service.machine.path(f"/proc/{service.pid}/status").read_text()
    held = dict(line.split(":\t", 1) for line in status.splitlines())

    assert (await in_its_place(service, writes)).split() == list(OWN_FOLDERS)
    assert await in_its_place(service, "ls -d /root/.[!.]* /home/*") == ""
    assert "1" not in (await in_its_place(service, "ls /proc")).split()
    assert {name: held[name] for name in UNPRIVILEGED} == UNPRIVILEGED
    assert (await service.event("process.confined"))["writes"] is kernel_has_landlock()


async def in_its_place(service: Service, script: str) -> str:
    """What a script prints that runs as the service's user, and sees the files that it sees."""
    user = service.now("UID")
    enter = ("nsenter", "--target", str(service.pid), "--mount", "--wd")
    drop = ("setpriv", f"--reuid={user}", f"--regid={service.now('GID')}", "--clear-groups")
    return (await service.machine.ran(*enter, *drop, "sh", "-c", f"{script}; true")).stdout


@ON_THE_OLDER
async def test_without_a_user_made_beforehand_it_runs_as_one_that_exists_meanwhile(
    service: Service, machine: Machine
) -> None:
    await machine.ran("userdel", "rekeyd")
    try:
        for path in (machine.path("/etc/rekeyd"), service.site.folder, service.site.file, service.site.key):
            path.chmod(path.stat().st_mode | 0o005)
        await service.systemctl("start")
        async with service.connection() as client:
            assert (await client.ask(key=API_KEY)).status == 200
        assert 61184 <= int(service.now("UID")) <= 65519, "a dynamic one (systemd.exec(5), DynamicUser=)"
        await service.systemctl("stop")
    finally:
        await machine.ran("systemd-sysusers")
