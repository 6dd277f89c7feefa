"""A daemon with a key file: keys are made, rotated and retired with the commands, and the next request knows.
Whatever becomes of the file, the keys that were good go on, and the log says why."""

import asyncio
import datetime as dt
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from rekeyd.access.pepper import id_of
from rekeyd.formats.moments import written
from support.daemon import SOURCE_ROOT, Daemon
from support.generations import API_KEY, Site
from support.key_files import entry, secret_of, write
from support.live import Connection, live_site
from support.pki import replace_file, write_in_place
from support.secrets import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

SETTLE = 0.3
PEPPER = "made-up-pepper-of-a-live-daemon-0123456789"


class Served:
    """A daemon that serves a key file, the commands that change it, and clients."""

    def __init__(self, daemon: Daemon, site: Site) -> None:
        self.daemon = daemon
        self.site = site
        self.file = site.folder / "keys.yaml"

    async def keys(self, *arguments: str, status: int = 0) -> tuple[str, str]:
        """What `rekeyd keys` says on stdout and stderr; a secret among it is one to look for."""
        command = (sys.executable, "-m", "rekeyd", "keys", *arguments, "-c", str(self.site.file))
        process = await asyncio.create_subprocess_exec(
            *command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(SOURCE_ROOT)},
        )
        out, err = (text.decode().strip() for text in await process.communicate())
        assert process.returncode == status, err
        if out.startswith("rk_"):
            self.daemon.secret(out)
            assert out not in err
        return out, err

    async def status(self, key: str, target: str = "/collections", method: str = "GET") -> int:
        """Of one request with that key, on a connection of its own."""
        async with Connection.to(self.daemon, self.site.authority) as client:
            return (await client.ask(target, key=key, method=method)).status

    async def put(self, data: bytes, *, in_place: bool = False) -> None:
        (write_in_place if in_place else replace_file)(self.file, data)


@pytest_asyncio.fixture(loop_scope="module", scope="module")
async def served(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    folder = tmp_path_factory.mktemp("site")
    replace_file(folder / "pepper", PEPPER.encode())
    (folder / "pepper").chmod(0o600)
    write(folder / "keys.yaml", entry("first", "manage"))
    access = {"keys_file": "keys.yaml", "pepper_file": "pepper"}
    site = live_site(folder, service={"api_key": None}, access=access, tls={"settle": SETTLE})
    secrets = [API_KEY, PEPPER, secret_of("first")]
    async with Daemon.running(ledger, site.file, secrets=secrets) as daemon:
        yield Served(daemon, site)


async def test_a_key_of_the_file_opens_what_its_right_says(served: Served) -> None:
    assert await served.status(secret_of("first")) == 200
    assert await served.status(secret_of("second")) == 401


async def test_a_new_key_is_in_use_when_the_command_returns(served: Served) -> None:
    secret, said = await served.keys("new", "reader", "--right", "read")
    assert "is served" in said
    assert await served.status(secret) == 200
    assert await served.status(secret, "/collections/x", "DELETE") == 403
    assert f'pepper": "{id_of(PEPPER.encode())}"' in served.file.read_text()
    await served.daemon.event("auth.allowed", key_id="reader")


async def test_without_the_command_it_is_in_use_by_itself(served: Served) -> None:
    since = served.daemon.mark()
    await served.put(served.file.read_bytes().replace(b'"reader"', b'"renamed"'))
    event = await served.daemon.event("reload.applied", since=since, trigger="watch")
    assert event["parts"]["keys"] == {"added": ["renamed"], "removed": ["reader"]}


async def test_after_a_rotation_both_secrets_work_and_after_the_overlap_one(served: Served) -> None:
    first, _ = await served.keys("new", "turning", "--right", "read")
    second, _ = await served.keys("rotate", "turning", "--overlap", "1h")
    assert [await served.status(first), await served.status(second)] == [200, 200]
    third, _ = await served.keys("rotate", "turning", "--overlap", "0s")
    assert [await served.status(key) for key in (first, second, third)] == [403, 403, 200]
    await served.daemon.event("auth.denied", key_id="turning", reason="expired")


async def test_a_key_that_is_retired_at_a_moment_is_refused_from_then_on(served: Served) -> None:
    secret, _ = await served.keys("new", "going", "--right", "read")
    at = dt.datetime.now(dt.UTC).replace(microsecond=0) + dt.timedelta(seconds=6)
    await served.keys("retire", "going", "--at", written(at))
    async with Connection.to(served.daemon, served.site.authority) as client:
        status, asked = 200, dt.datetime.now(dt.UTC)
        while status == 200:
            assert asked < at + dt.timedelta(seconds=1)
            asked = dt.datetime.now(dt.UTC)
            status = (await client.ask("/collections", key=secret)).status
            await asyncio.sleep(0.02)
    assert status == 403
    assert dt.datetime.now(dt.UTC) >= at
    out, _ = await served.keys("list")
    assert any(line.split()[0] == "going" and " expired " in line for line in out.splitlines())


async def test_a_removed_key_is_unknown(served: Served) -> None:
    secret, _ = await served.keys("new", "passing", "--right", "read")
    await served.keys("remove", "passing", status=1)
    await served.keys("remove", "passing", "--force")
    assert await served.status(secret) == 401


@pytest.mark.parametrize("in_place", [False, True], ids=["replaced", "in place"])
@pytest.mark.parametrize(
    ("damage", "rule"),
    [
        (lambda _: b"", "empty"),
        (lambda whole: whole[: len(whole) // 2], "keys_torn"),
        (lambda whole: whole.replace(b"...\n", b""), "keys_torn"),
        (lambda _: b"keys: []\n...\n", "keys_emptied"),
        (lambda whole: whole.replace(b'"manage"', b'"everything"'), "keys_invalid"),
        (lambda _: b"keys: [\n...\n", "unparsable"),
    ],
    ids=["emptied", "half", "without its end", "no keys", "no right", "no YAML"],
)
async def test_whatever_becomes_of_the_file_the_old_keys_stay(
    served: Served, damage: object, rule: str, in_place: bool
) -> None:
    assert callable(damage)
    whole, since = served.file.read_bytes(), served.daemon.mark()
    await served.put(damage(whole), in_place=in_place)
    refused = await served.daemon.event("reload.refused", since=since)
    assert {finding["rule"] for finding in refused["findings"] if finding["severity"] == "refuse"} >= {rule}
    assert await served.status(secret_of("first")) == 200
    since = served.daemon.mark()
    await served.put(whole, in_place=in_place)
    await served.daemon.event("reload.unchanged", since=since)


async def test_a_file_that_is_gone_keeps_the_old_keys(served: Served) -> None:
    since, away = served.daemon.mark(), served.file.with_name("away")
    served.file.rename(away)
    refused = await served.daemon.event("reload.refused", since=since)
    assert {finding["rule"] for finding in refused["findings"]} == {"unreadable"}
    assert await served.status(secret_of("first")) == 200
    away.rename(served.file)
    await served.daemon.event("reload.unchanged", since=since)


async def test_another_pepper_is_noticed_before_it_locks_everybody_out(served: Served) -> None:
    secret, _ = await served.keys("new", "seasoned", "--right", "read")
    pepper, since = served.site.folder / "pepper", served.daemon.mark()
    replace_file(pepper, PEPPER[::-1].encode())
    refused = await served.daemon.event("reload.refused", since=since)
    assert "pepper_mismatch" in {finding["rule"] for finding in refused["findings"]}
    assert await served.status(secret) == 200
    _, said = await served.keys("new", "late", "--right", "read", status=2)
    assert "access.pepper_file: holds the pepper" in said
    replace_file(pepper, PEPPER.encode())
    await served.daemon.event("reload.unchanged", since=since)


async def test_an_edit_that_the_daemon_refuses_is_said_to_be_refused(served: Served) -> None:
    key, since = served.site.key.read_bytes(), served.daemon.mark()
    write_in_place(served.site.key, key[:-40])
    _, said = await served.keys("retire", "first", "--at", "365d", status=1)
    assert "refused: generation" in said
    write_in_place(served.site.key, key)
    await served.daemon.event("reload.applied", since=since)


async def test_insecure_opens_no_door_because_a_key_file_got_empty(ledger: Ledger, tmp_path: Path) -> None:
    write(tmp_path / "keys.yaml", entry("only"))
    insecure = {"api_key": None, "insecure": True}
    site = live_site(
        tmp_path, service=insecure, access={"keys_file": "keys.yaml"}, judge={"keys_emptied": "warn"}
    )
    async with Daemon.running(ledger, site.file, secrets=[secret_of("only")]) as daemon:
        since = daemon.mark()
        write_in_place(tmp_path / "keys.yaml", b"keys: []\n...\n")
        refused = await daemon.event("reload.refused", since=since)
        assert "no_key" in {finding["rule"] for finding in refused["findings"]}
        async with Connection.to(daemon, site.authority) as client:
            assert (await client.ask("/collections", key=None)).status == 401
            assert (await client.ask("/collections", key=secret_of("only"))).status == 200
