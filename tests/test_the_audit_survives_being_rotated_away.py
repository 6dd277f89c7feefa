"""The real daemon's audit: every decision once, in one file or the next, whatever happens to the files."""

import asyncio
import json
import os
import resource
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import StartDaemon
from support.daemon import Daemon, Event
from support.generations import API_KEY, Site
from support.live import Connection, live_site, trusting
from support.secrets import Ledger
from support.waiting import eventually

LOGROTATE = Path(__file__).parents[1] / "etc" / "logrotate.conf"
CLIENTS = 4
WRONG = "a-wrong-key-that-is-told-nowhere"


def audited_site(folder: Path, **logging: Any) -> Site:
    (folder / "log").mkdir()
    return live_site(folder, logging={"audit": "log/audit.log", "decisions": "denied", **logging})


def written(files: Iterable[Path]) -> list[Event]:
    """Every line of them: whole, and a JSON object."""
    text = b"".join(path.read_bytes() for path in sorted(files))
    assert text.endswith(b"\n") or not text
    return [json.loads(line) for line in text.splitlines()]


async def ask_around(daemon: Daemon, site: Site, name: str, count: int, *, clients: int = CLIENTS) -> None:
    """Requests with paths of their own, from several clients at once."""
    trust = trusting(site.authority)

    async def one(client: int) -> None:
        async with Connection.to(daemon, trust) as connection:
            for number in range(count):
                assert (await connection.ask(f"/{name}-{client}-{number}")).status == 200

    await asyncio.gather(*(one(client) for client in range(clients)))


def paths_of(name: str, count: int, *, clients: int = CLIENTS) -> Counter[str]:
    return Counter(f"/{name}-{client}-{number}" for client in range(clients) for number in range(count))


def rename(audit: Path, number: int) -> None:
    audit.rename(audit.with_name(f"{audit.name}.{number}"))


def rename_and_create(audit: Path, number: int) -> None:
    rename(audit, number)
    audit.touch(0o640)


def replace_in_one_step(audit: Path, number: int) -> None:
    os.link(audit, audit.with_name(f"{audit.name}.{number}"))
    audit.with_name("new").touch(0o640)
    audit.with_name("new").rename(audit)


@pytest.mark.parametrize("rotate", [rename, rename_and_create, replace_in_one_step])
async def test_under_load_every_decision_is_in_the_old_or_the_new_file_exactly_once(
    start_daemon: StartDaemon, tmp_path: Path, rotate: Callable[[Path, int], None]
) -> None:
    site = audited_site(tmp_path)
    audit = tmp_path / "log" / "audit.log"
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    load = asyncio.create_task(ask_around(daemon, site, "load", 150))
    rotations = 0
    while not load.done():
        await eventually(lambda: load.done() or (audit.exists() and audit.stat().st_size > 0))
        if not load.done():
            rotations += 1
            rotate(audit, rotations)
    await load
    await daemon.stop()
    assert rotations > 3
    lines = written(audit.parent.iterdir())
    assert Counter(line["path"] for line in lines) == paths_of("load", 150)
    assert daemon.told("auth.allowed") == [], "logging.decisions leaves them out of the log alone"
    assert daemon.told("log.dropped") == daemon.told("audit.unwritable") == []


async def test_it_has_denials_too_and_no_secret(
    start_daemon: StartDaemon, tmp_path: Path, ledger: Ledger
) -> None:
    site = audited_site(tmp_path)
    daemon = await start_daemon(site.file, secrets=[API_KEY, WRONG])
    async with Connection.to(daemon, site.authority) as client:
        assert (await client.ask(f"/x?key={API_KEY}")).status == 200
        assert (await client.ask(f"/x#{WRONG}", key=WRONG)).status in {400, 401}
        assert (await client.ask("/x", key=WRONG)).status == 401
    await daemon.stop()
    audit = tmp_path / "log" / "audit.log"
    lines = written([audit])
    assert [line["event"] for line in lines] == ["auth.allowed", "auth.denied", "auth.denied"]
    assert list(lines[0])[:4] == ["timestamp", "level", "event", "generation"]
    assert lines[0]["key_id"] == "api_key"
    assert daemon.told("auth.denied") == lines[1:], "the very lines of the log"
    assert not ledger.leaks_in(audit)
    assert stat.S_IMODE(audit.stat().st_mode) == 0o640


async def test_a_folder_that_is_removed_and_comes_back_costs_no_line(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = audited_site(tmp_path)
    folder = tmp_path / "log"
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    await ask_around(daemon, site, "before", 5)
    await eventually(lambda: len(written(folder.iterdir())) == 5 * CLIENTS)
    folder.rename(tmp_path / "gone")
    await ask_around(daemon, site, "meanwhile", 5)
    told = await daemon.event("audit.unwritable")
    assert told["problem"] == "No such file or directory"
    folder.mkdir()
    await daemon.event("audit.written")
    await ask_around(daemon, site, "after", 5)
    await daemon.stop()
    assert Counter(line["path"] for line in written((tmp_path / "gone").iterdir())) == paths_of("before", 5)
    found = Counter(line["path"] for line in written(folder.iterdir()))
    assert found == paths_of("meanwhile", 5) + paths_of("after", 5)


async def test_a_disk_that_is_full_for_a_while_tears_no_line_and_hinders_nobody(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Full is what a limit on the size of files makes of it: a write that half succeeds, then none."""
    site = audited_site(tmp_path)
    audit = tmp_path / "log" / "audit.log"
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    let_files_grow_to(5000, daemon)
    await ask_around(daemon, site, "full", 50)
    await daemon.event("audit.unwritable")
    assert 0 < audit.stat().st_size <= 5000
    assert written([audit]), "what is there is whole"
    let_files_grow_to(None, daemon)
    await daemon.event("audit.written")
    await daemon.stop()
    assert len(daemon.told("audit.written")) == len(daemon.told("audit.unwritable")) <= daemon.workers
    assert Counter(line["path"] for line in written([audit])) == paths_of("full", 50)


async def test_what_does_not_fit_into_memory_meanwhile_is_counted_everywhere(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = audited_site(tmp_path, buffer_mb=1)
    site_with_metrics(site)
    audit = tmp_path / "log" / "audit.log"
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    let_files_grow_to(1, daemon)
    long = "x" * 7000  # in the path, so that few requests fill the memory
    each = 200 * daemon.workers  # the memory is each worker's own
    await ask_around(daemon, site, long, each)
    first = await daemon.event("log.dropped", log="audit")
    assert first["level"] == "error"
    let_files_grow_to(None, daemon)
    await daemon.several(len(daemon.told("audit.unwritable")), "audit.written")
    counted = await lost_in_metrics(daemon)
    await daemon.stop()
    lines = written([audit])
    gaps = [line["others"] for line in lines if line["event"] == "log.dropped"]
    told = sum(line["others"] for line in daemon.told("log.dropped", log="audit"))
    assert 1 <= len(gaps) <= daemon.workers, "one for each worker that lost some"
    assert sum(gaps) == counted == told
    assert len(lines) - len(gaps) + counted == each * CLIENTS


def let_files_grow_to(size: int | None, daemon: Daemon) -> None:
    """For the daemon and its workers, each of which writes for itself; None: as far as they may."""
    workers = [event["worker_pid"] for event in daemon.told("worker.started")]
    for pid in (daemon.pid, *workers):
        _, hard = resource.prlimit(pid, resource.RLIMIT_FSIZE)
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (hard if size is None else size, hard))


def site_with_metrics(site: Site) -> None:
    settings = json.loads(site.file.read_text())
    site.file.write_text(json.dumps(settings | {"metrics": {"port": 0}}))


async def lost_in_metrics(daemon: Daemon) -> int:
    async with Connection.to(daemon.port_of("metrics"), None) as client:
        text = (await client.ask("/metrics", key=None)).body.decode()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return next(
        int(sample.value)
        for sample in samples
        if sample.name == "rekeyd_lost_lines_total" and sample.labels["log"] == "audit"
    )


@pytest.mark.parametrize("command", ["serve", "check"])
async def test_one_that_can_not_be_written_at_start_is_refused_with_file_key_and_fix(
    tmp_path: Path, command: str
) -> None:
    site = live_site(tmp_path, logging={"audit": "absent/audit.log"})
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "rekeyd", command, "-c", str(site.file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=30,
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert f"{site.file}: logging.audit: {tmp_path}/absent/audit.log can't be written" in done.stderr
    assert "in a folder that is there" in done.stderr


async def test_another_audit_waits_for_a_restart(start_daemon: StartDaemon, tmp_path: Path) -> None:
    site = audited_site(tmp_path)
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    settings = json.loads(site.file.read_text())
    settings["logging"]["audit"] = "log/another.log"
    site.file.write_text(json.dumps(settings))
    told = await daemon.event("reload.unchanged", since=1)
    assert told["restart_needed"] == ["logging.audit"]


# With logrotate itself


@pytest.fixture
def logrotate(tmp_path: Path) -> Callable[[str], None]:
    """Rotates once, now, with our example or a variation of it."""
    command = shutil.which("logrotate", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if command is None:
        pytest.skip("logrotate is not installed")
    config, state = tmp_path / "logrotate.conf", tmp_path / "logrotate.state"

    def rotate(config_text: str) -> None:
        config.write_text(config_text.replace("/var/log/rekeyd", str(tmp_path / "log")))
        config.chmod(0o644)
        done = subprocess.run(
            [command, "--force", "--state", str(state), str(config)],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")

    return rotate


VARIATIONS = {
    "as it ships": lambda text: text.replace("dateext", "dateext\n    dateformat -%s"),
    "numbered": lambda text: text.replace("    dateext\n", ""),
    "with create": lambda text: text.replace("    dateext\n", "").replace("nocreate", "create"),
}


@pytest.mark.parametrize("vary", VARIATIONS.values(), ids=list(VARIATIONS))
async def test_logrotate_takes_files_away_under_load_and_loses_nothing(
    start_daemon: StartDaemon, tmp_path: Path, logrotate: Callable[[str], None], vary: Callable[[str], str]
) -> None:
    site = audited_site(tmp_path)
    config = vary(LOGROTATE.read_text())
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    await ask_around(daemon, site, "before", 10)
    await eventually((tmp_path / "log" / "audit.log").read_bytes)
    load = asyncio.create_task(ask_around(daemon, site, "load", 100))
    await asyncio.to_thread(logrotate, config)
    await load
    await daemon.stop()
    files = list((tmp_path / "log").iterdir())
    assert len(files) == 2
    found = Counter(line["path"] for line in written(files))
    assert found == paths_of("before", 10) + paths_of("load", 100)


async def test_copytruncate_leaves_no_hole_in_the_file(
    start_daemon: StartDaemon, tmp_path: Path, logrotate: Callable[[str], None]
) -> None:
    site = audited_site(tmp_path)
    audit = tmp_path / "log" / "audit.log"
    daemon = await start_daemon(site.file, secrets=[API_KEY])
    await ask_around(daemon, site, "before", 10)
    await eventually(lambda: len(written([audit])) == 10 * CLIENTS)
    config = LOGROTATE.read_text().replace("nocreate", "copytruncate").replace("    dateext\n", "")
    await asyncio.to_thread(logrotate, config)
    await ask_around(daemon, site, "after", 10)
    await daemon.stop()
    assert Counter(line["path"] for line in written([audit])) == paths_of("after", 10)
    assert Counter(line["path"] for line in written([audit.with_name("audit.log.1")])) == paths_of(
        "before", 10
    )
