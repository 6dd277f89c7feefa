"""Two real daemons as peers: what the start, `rekeyd status`, the reload and the end say of tunnels."""

import asyncio
import json
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from support.daemon import Daemon
from support.peers import Service
from support.pki import Authority, replace_file
from support.wire import Link, connect

StartDaemon = Callable[..., Awaitable[Daemon]]


class Site:
    """A node's folder: settings, certificate, authority."""

    def __init__(self, folder: Path, name: str, authority: Authority, p2p: dict[str, Any]) -> None:
        self.folder = folder / name
        self.name = name
        self.folder.mkdir()
        self.show(authority)
        self.believe(authority)
        document = {
            "service": {"host": "127.0.0.1", "http_port": 0, "insecure": True, "drain_timeout": 5},
            "tls": {"cert": "tls.crt", "key": "tls.key", "ca_cert": "ca.crt", "watch": False},
            "upstream": {"http": "demo"},
            "admin": {"socket": "admin.sock"},
            "cluster": {"p2p": {"enable_tls": True, "port": 0, **p2p}},
        }
        self.file = replace_file(self.folder / "rekeyd.yaml", json.dumps(document).encode())

    def show(self, authority: Authority) -> None:
        authority.issue(f"{self.name}.test", peer=True).write(self.folder)

    def believe(self, *authorities: Authority) -> None:
        replace_file(self.folder / "ca.crt", b"".join(each.pem for each in authorities))

    async def command(self, *arguments: str) -> tuple[int | None, str]:
        """`rekeyd` with these arguments and this site's settings: exit status and what it printed."""
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "rekeyd", *arguments, "-c", str(self.file), stdout=asyncio.subprocess.PIPE
        )
        out, _ = await process.communicate()
        return process.returncode, out.decode()


async def test_from_start_to_end(tmp_path: Path, start_daemon: StartDaemon) -> None:
    old, new = Authority("the old CA"), Authority("the new CA")
    service = Service()
    await service.start()
    two = Site(
        tmp_path, "two", old, {"upstream": f"127.0.0.1:{service.port}", "allowed_peers": ["dns:one.test"]}
    )
    second = await start_daemon(two.file)
    leads_to = {
        "listen": "127.0.0.1:0",
        "connect": f"127.0.0.1:{second.port_of('p2p')}",
        "expect": "dns:two.test",
    }
    one = Site(tmp_path, "one", old, {"upstream": "127.0.0.1:1", "peers": [leads_to]})
    first = await start_daemon(one.file)
    name = f"peer {leads_to['connect']}"
    told = {each["name"]: each["tls"] for each in first.started["listeners"]}
    assert told == {"http": False, "p2p": True, name: False}

    near = await connect("127.0.0.1", first.port_of(name))
    far = await talk(near, service)
    _, said = await one.command("status", "--json")
    status = json.loads(said)
    assert status["cluster"]["peers"][0] == {
        "peer": leads_to["connect"],
        "expect": "dns:two.test",
        "listen": f"127.0.0.1:{first.port_of(name)}",
        "tunnels": 1,
        "state": "reached",
        "attempts": 1,
        "failures": 0,
        "problem": None,
        "retry_in": None,
    }
    assert status["connections_by_generation"] == {"1": 1}
    _, said = await one.command("status")
    assert f"to {leads_to['connect']}: 1 open, reached" in said

    # The wrong order is refused, and nothing has changed.
    one.believe(new)
    code, said = await one.command("reload")
    assert (code, "is not vouched for by tls.ca_cert" in said) == (1, True)
    assert (await one.command("check"))[0] == 1
    one.believe(old, new)
    assert (await one.command("reload"))[0] == 0
    near.send(b"still there?")
    assert await far.take(12) == b"still there?"

    # The end of the daemon is not the end of what is said, and does not look like one.
    first.signal(signal.SIGTERM)
    for end in (near, far):
        await end.closed()
        assert isinstance(end.error, ConnectionResetError)
    assert await first.exited() == 0
    assert first.told("tunnel.closed")[-1]["reason"] == "stopped"
    assert first.told("daemon.cut") == []
    await service.stop()


async def talk(near: Link, service: Service) -> Link:
    near.send(b"hello")
    far = await service.link()
    assert await far.take(5) == b"hello"
    far.send(b"hello to you")
    assert await near.take(12) == b"hello to you"
    return far


@pytest.mark.parametrize("missing", ["ca_cert", "upstream"])
async def test_it_does_not_start_without_what_it_needs(tmp_path: Path, missing: str) -> None:
    site = Site(tmp_path, "one", Authority(), {"upstream": "127.0.0.1:1", "allowed_peers": ["dns:two.test"]})
    document = json.loads(site.file.read_text())
    section = document["tls"] if missing == "ca_cert" else document["cluster"]["p2p"]
    del section[missing]
    replace_file(site.file, json.dumps(document).encode())
    code, _ = await site.command("serve")
    assert code == 2
