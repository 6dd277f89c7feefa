"""A unit of rekeyd in a machine, and the site that it serves: started, asked and looked at as its users do.

service = Service(machine, ServedSite.made(machine))
await service.systemctl("start")
async with service.connection() as client:
    assert (await client.ask()).status == 200
"""

import contextlib
import json
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from support.daemon import Event
from support.generations import Site
from support.installation import CHECKOUT
from support.live import Connection
from support.machine import Machine
from support.pki import Leaf
from support.waiting import eventually

FOLDER = "/etc/rekeyd"
GROUP = "rekeyd"
UNITS = "/etc/systemd/system"
DROP_INS = CHECKOUT / "systemd" / "drop-ins"
OURS = "REKEYD_"
"""How the names of fields begin, in an entry of the journal."""
SLOW = 20.0
"""Seconds that a machine with other work may need for what takes one."""


@dataclass
class ServedSite(Site):
    """A site that the group `rekeyd` may read; its files are looked at when somebody asks, and not before."""

    group: int = 0
    port: int = 6333

    @classmethod
    def made(cls, machine: Machine, name: str = "rekeyd", *, port: int = 6333) -> "ServedSite":
        """In a folder of its own, with its settings where the unit looks for them."""
        folder = machine.path(f"{FOLDER}/{name}")
        folder.mkdir(exist_ok=True)
        return cls(folder, group=_group(machine), port=port)

    @property
    def file(self) -> Path:
        return self.folder.with_suffix(".yaml")

    def configure(self, **sections: Mapping[str, Any]) -> None:
        name = self.folder.name
        own: dict[str, dict[str, Any]] = {
            "service": {"http_port": self.port},
            "tls": {"cert": f"{name}/tls.crt", "key": f"{name}/tls.key", "watch": False, "cert_ttl": None},
        }
        merged = {key: {**own.get(key, {}), **sections.get(key, {})} for key in own | dict(sections)}
        super().configure(**merged)

    def rotate(self, **properties: Any) -> Leaf:
        leaf = super().rotate(**properties)
        os.chown(self.key, 0, self.group)
        self.key.chmod(0o640)
        return leaf


def _group(machine: Machine) -> int:
    lines = machine.path("/etc/group").read_text().splitlines()
    return next(int(line.split(":")[2]) for line in lines if line.startswith(f"{GROUP}:"))


class Service:
    """What is told of the unit `name` is told from the moment at which this was made."""

    def __init__(self, machine: Machine, site: ServedSite, name: str = "rekeyd.service") -> None:
        self.machine = machine
        self.site = site
        self.name = name
        # No cursor: up to systemd 252 the first entry after it that matches is left out.
        self._since = f"--since=@{time.time():.6f}"

    async def systemctl(self, verb: str, *options: str, check: bool = True) -> CompletedProcess[str]:
        return await self.machine.ran("systemctl", *options, verb, self.name, check=check)

    async def drop_in(self, name: str, text: str | None = None) -> None:
        """Install a drop-in as its first lines say: one of ours, or this `text`."""
        folder = self.machine.path(f"{UNITS}/{self.name}.d")
        folder.mkdir(exist_ok=True)
        (folder / name).write_text((DROP_INS / name).read_text() if text is None else text)
        await self.machine.ran("systemctl", "daemon-reload")

    def now(self, name: str) -> str:
        """One property of the unit, as `systemctl show` has it."""
        return self.machine.run(
            "systemctl", "show", "--value", f"--property={name}", self.name
        ).stdout.strip()

    async def becomes(self, state: str) -> None:
        """Wait until its `ActiveState` is `state`."""
        await eventually(lambda: self.now("ActiveState") == state, timeout=SLOW, what=f"{self.name} {state}")

    @property
    def pid(self) -> int:
        """Of its main process, as the machine has it."""
        return int(self.now("MainPID"))

    async def is_back(self, before: int) -> None:
        """Wait until it is active with another main process than `before`."""

        def back() -> bool:
            return self.pid not in {0, before} and self.now("ActiveState") == "active"

        await eventually(back, timeout=SLOW, what=f"{self.name} to come back")

    async def kill(self, number: signal.Signals, pid: int | None = None) -> None:
        """Send a signal to a process of it, else to its main one."""
        await self.machine.ran("kill", f"-{number}", str(pid or self.pid))

    @contextlib.asynccontextmanager
    async def connection(self) -> AsyncIterator[Connection]:
        """Of a new client that believes the site's authority."""
        async with Connection.to(self.machine.connected(self.site.port), self.site.authority) as connection:
            yield connection

    async def serial(self) -> int:
        """Of the certificate that a new client is shown."""
        async with self.connection() as client:
            return client.serial

    def told(self) -> str:
        """All that the journal has of it, for people."""
        return self._journal("--output=cat")

    def entries(self, *matches: str) -> list[Event]:
        """All entries that have these fields (`EVENT=auth.denied`), as `journalctl -o json` writes them."""
        return [json.loads(line) for line in self._journal("--output=json", "--all", *matches).splitlines()]

    async def asked_for(self, *matches: str) -> list[Event]:
        """The same, once there is one."""
        return await eventually(lambda: self.entries(*matches), timeout=SLOW, what=" ".join(matches))

    def _journal(self, *options: str) -> str:
        self.machine.run("journalctl", "--sync")
        return self.machine.run("journalctl", f"--unit={self.name}", self._since, *options).stdout

    async def event(self, name: str) -> Event:
        """The only one of that name, once it is told: the log follows what happens at a small distance."""
        (event,) = await eventually(lambda: self.events(name), timeout=SLOW, what=name)
        return event

    def events(self, name: str) -> list[Event]:
        """What it logged under that name, as lines of JSON or as entries with fields."""
        events = map(_event_of, self.entries())
        return [event for event in events if event is not None and event["event"] == name]


def _event_of(entry: Event) -> Event | None:
    message = entry.get("MESSAGE")
    if isinstance(message, str) and message.startswith("{"):
        return dict(json.loads(message))
    if "EVENT" not in entry:
        return None
    fields = {name: value for name, value in entry.items() if name in {"EVENT", "GENERATION"}}
    fields |= {name.removeprefix(OURS): value for name, value in entry.items() if name.startswith(OURS)}
    return {name.lower(): _value_of(value) for name, value in fields.items()}


def _value_of(value: Any) -> Any:
    """What is no text is JSON."""
    try:
        return json.loads(value)
    except (TypeError, ValueError):
        return value
