"""The commands: what they print and their exit statuses (README, "Commands")."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from rekeyd.cli import main
from support.daemon import SOURCE_ROOT, Daemon
from support.generations import API_KEY, Site
from support.live import configure, live_site, serial_text
from support.pki import replace_file, write_torn
from support.secrets import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

REKEYD = (sys.executable, "-m", "rekeyd")
MISPLACED = "a-made-up-key-under-a-wrong-name"


@dataclass(frozen=True)
class Told:
    """What came of a command."""

    status: int
    out: str
    err: str


Run = Callable[..., Awaitable[Told]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """What a daemon serves that reloads only when asked. Each test begins by writing what it wants."""
    site = live_site(tmp_path_factory.mktemp("site"), tls={"watch": False})
    async with Daemon.running(ledger, site.file, secrets=[API_KEY, MISPLACED]):
        yield site


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs a command in this process, in a thread."""

    async def run_one(*arguments: str | Path) -> Told:
        status = await asyncio.to_thread(main, [str(argument) for argument in arguments])
        told = Told(status, *capsys.readouterr())
        assert API_KEY not in told.out + told.err
        assert MISPLACED not in told.out + told.err
        return told

    return run_one


def rekeyd(*arguments: str | Path, give: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Runs a command as its users do."""
    environ = {**os.environ, "PYTHONPATH": str(SOURCE_ROOT)}
    return subprocess.run([*REKEYD, *arguments], input=give, capture_output=True, env=environ, timeout=30)  # noqa: PLW1510


# check


async def test_check_calls_good_what_would_be_served(tmp_path: Path, run: Run) -> None:
    site = live_site(tmp_path)
    told = await run("check", "-c", site.file)
    assert told.status == 0
    first, *table = told.out.splitlines()
    assert first == f"{site.file}: good"
    assert serial_text(site.leaf) in table[1]
    assert told.err == ""


async def test_check_fails_for_what_would_be_refused(tmp_path: Path) -> None:
    site = live_site(tmp_path)
    write_torn(site.key, site.leaf.key_pem)
    told = await asyncio.to_thread(rekeyd, "check", "-c", site.file)
    assert told.returncode == 1
    first, *table = told.stdout.decode().splitlines()
    assert first == f"{site.file}: would be refused"
    assert any(line.startswith(f"refuse (truncated_pem): {site.key}: ") for line in table)
    assert told.stderr == b""


async def test_check_tells_every_mistake_in_the_settings(tmp_path: Path, run: Run) -> None:
    site = live_site(tmp_path, service={"api_kee": MISPLACED, "http_port": "x"}, tls={"key": "none.key"})
    told = await run("check", "-c", site.file)
    assert told.status == 2
    assert told.out == ""
    lines = told.err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"rekeyd: {site.file}: ") for line in lines)
    assert all(line.endswith(".") for line in lines)


async def test_check_explains_which_rule_decides_about_a_request(tmp_path: Path, run: Run) -> None:
    site = live_site(tmp_path)
    told = await run("check", "-c", site.file, "--explain", "POST /collections/x/points/search")
    assert (told.status, told.err) == (0, "")
    assert (
        "  rule      POST /collections/{collection_name}/points/search: read points" in told.out.splitlines()
    )
    assert "  may       api_key" in told.out.splitlines()
    unclear = await run("check", "-c", site.file, "--explain", "/collections")
    assert (unclear.status, unclear.out) == (2, "")
    assert unclear.err == "rekeyd: --explain: write a method and a path, such as 'GET /collections'\n"


async def test_check_of_a_file_that_is_not_there_or_no_yaml(tmp_path: Path, run: Run) -> None:
    told = await run("check", "-c", tmp_path / "absent.yaml")
    assert (told.status, told.out) == (2, "")
    assert "absent.yaml does not exist" in told.err
    torn = replace_file(tmp_path / "torn.yaml", f"service: {{api_key: [{MISPLACED}".encode())
    told = await run("check", "-c", torn)
    assert (told.status, told.out) == (2, "")


# reload


async def test_reload_says_what_was_applied_and_then_that_nothing_changed(site: Site, run: Run) -> None:
    configure(site, tls={"watch": False})
    leaf = site.rotate()
    told = await run("reload", "-c", site.file)
    assert told.status == 0
    assert told.out.startswith("applied: generation ")
    assert f"new: serial {serial_text(leaf)}, localhost, 127.0.0.1, until " in told.out
    told = await run("reload", "-c", site.file, "--wait")
    assert told.status == 0
    assert told.out.startswith("unchanged: generation ")


async def test_reload_fails_when_it_was_refused_and_says_why(site: Site, run: Run) -> None:
    configure(site, tls={"watch": False})
    write_torn(site.cert, site.leaf.chain_pem)
    told = await run("reload", "-c", site.file)
    assert told.status == 1
    assert told.out.startswith("refused: generation ")
    assert "truncated_pem" in told.out
    site.rotate()
    assert (await run("reload", "-c", site.file)).status == 0


async def test_reload_of_a_broken_settings_file_is_the_daemons_refusal(site: Site, run: Run) -> None:
    configure(site, tls={"watch": False}, service={"api_kee": MISPLACED})
    told = await run("reload", "-c", site.file)
    assert told.status == 1
    assert "service.api_kee" in told.out
    configure(site, tls={"watch": False})
    assert (await run("reload", "--socket", site.folder / "admin.sock")).status == 0


async def test_reload_names_what_needs_a_restart(site: Site, run: Run) -> None:
    configure(site, tls={"watch": False, "cert_ttl": 7})
    told = await run("reload", "-c", site.file)
    assert told.status == 0
    assert "  restart needed for tls.cert_ttl" in told.out.splitlines()
    configure(site, tls={"watch": False})


@pytest.mark.parametrize("command", ["reload", "status"])
async def test_where_no_daemon_is_the_status_is_3(tmp_path: Path, run: Run, command: str) -> None:
    told = await run(command, "-c", live_site(tmp_path).file)
    assert (told.status, told.out) == (3, "")
    assert told.err.startswith(f"rekeyd: {tmp_path / 'admin.sock'}: no daemon answers there")
    told = await run(command, "-c", live_site(tmp_path, admin={"socket": None}).file)
    assert told.status == 3
    assert "admin.socket is null" in told.err
    told = await run(command, "-c", tmp_path / "absent.yaml")
    assert told.status == 3
    assert "absent.yaml" in told.err


@pytest.mark.parametrize("command", ["reload", "status"])
async def test_a_daemon_with_another_settings_file_is_not_asked(site: Site, run: Run, command: str) -> None:
    socket, other = site.folder / "admin.sock", site.folder / "other.yaml"
    other.write_bytes(site.file.read_bytes())

    told = await run(command, "-c", other)
    assert (told.status, told.out) == (3, "")
    assert told.err == f"rekeyd: {socket}: another daemon answers there ({site.file})\n"
    assert (await run(command, "-c", other, "--socket", socket)).status == 3
    assert (await run(command, "--socket", socket)).status == 0

    other.unlink()
    other.symlink_to(site.file)
    assert (await run(command, "-c", other)).status == 0
    other.unlink()


# status


async def test_status_tells_a_person_and_a_program_what_is_served(site: Site, run: Run) -> None:
    configure(site, tls={"watch": False})
    await run("reload", "-c", site.file)
    told = await run("status", "-c", site.file)
    assert told.status == 0
    assert f"serial {serial_text(site.leaf)}" in told.out
    assert "upstream      ok" in told.out
    told = await run("status", "--json", "-c", site.file)
    assert told.status == 0
    status = json.loads(told.out)
    assert status["serving"] is True
    assert status["certificates"][0]["sha256"] == site.leaf.fingerprint
    assert status["last_reload"]["trigger"] == "admin"


async def test_status_is_1_where_the_upstream_is_out_of_reach(site: Site, run: Run) -> None:
    configure(site, tls={"watch": False}, upstream={"http": f"unix:{site.folder}/nobody.sock"})
    assert (await run("reload", "-c", site.file)).status == 0
    await asyncio.sleep(1.1)  # an answer of the upstream holds for a second
    told = await run("status", "-c", site.file)
    assert told.status == 1
    assert "upstream      FAILS" in told.out
    configure(site, tls={"watch": False})
    assert (await run("reload", "-c", site.file)).status == 0


# logs, and the rest

LINE = (
    b'{"timestamp":"2030-01-01T10:20:30.000000Z","level":"info","event":"daemon.stopping",'
    b'"generation":3,"reason":"SIGTERM"}\n'
)


async def test_logs_turns_lines_into_the_human_form_from_a_file_and_from_a_pipe(
    tmp_path: Path, run: Run
) -> None:
    file = tmp_path / "log"
    file.write_bytes(LINE + b"something else\n")
    told = await run("logs", file)
    assert told.status == 0
    assert told.out.splitlines() == ["10:20:30  daemon.stopping  #3  reason=SIGTERM", "something else"]
    piped = await asyncio.to_thread(rekeyd, "logs", give=file.read_bytes())
    assert (piped.returncode, piped.stderr) == (0, b"")
    assert piped.stdout.decode() == told.out


async def test_logs_tells_each_line_as_it_comes(tmp_path: Path) -> None:
    process = await asyncio.create_subprocess_exec(
        *REKEYD,
        "logs",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    for _ in range(2):
        process.stdin.write(LINE)
        assert (await asyncio.wait_for(process.stdout.readline(), 15)).startswith(
            b"10:20:30  daemon.stopping"
        )
    process.stdin.close()
    assert await asyncio.wait_for(process.wait(), 15) == 0


async def test_logs_whose_reader_goes_away_end_without_a_traceback(tmp_path: Path) -> None:
    (tmp_path / "log").write_bytes(LINE * 20_000)
    command = f"{sys.executable} -m rekeyd logs {tmp_path}/log | head -n 1"
    shell = await asyncio.create_subprocess_shell(
        command,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
    )
    out, err = await asyncio.wait_for(shell.communicate(), 30)
    assert out.count(b"\n") == 1
    assert err == b""


async def test_no_command_at_all_is_answered_with_what_there_is(run: Run) -> None:
    told = await run()
    assert told.status == 2
    for command in ("demo", "serve", "check", "reload", "status", "logs"):
        assert f"\n    {command} " in told.out


async def test_a_wrong_argument_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["serve", "--confg", "x"])
    assert ended.value.code == 2
    assert "--confg" in capsys.readouterr().err
