"""A crew of workers under a supervisor that the test is itself."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families as parse_text

from rekeyd.front import build
from rekeyd.reload.current import Current
from rekeyd.reload.reloader import Reloader
from rekeyd.reload.sealed import seal
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.lines import to_json
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.sink import Sink
from rekeyd.trust.generation import Generation
from rekeyd.workers.crew import Crew
from rekeyd.workers.member import Member
from rekeyd.workers.staff import Origin
from support.generations import Site
from support.live import Connection, configure


class Supervisor:
    """A crew, and the reloader that keeps it current."""

    def __init__(self, folder: Path, **sections: Mapping[str, Any]) -> None:
        self.site = Site(folder)
        sections = {"service": {"workers": 2}, **sections}
        configure(self.site, **sections)
        self.current = Current()
        settings = self.site.disk.load().settings
        self.site.disk.pin(settings)
        self.sink = Sink(os.open(os.devnull, os.O_WRONLY))
        self.logs = Logs(render=to_json, level="info", generation=lambda: self.current.number, sink=self.sink)
        self.crew = Crew(
            settings,
            current=self.current,
            logs=self.logs,
            sockets=Sockets(),
            origin=Origin(str(self.site.file), self.site.file.read_text()),
            seal=self._seal,
        )
        self.reloader = Reloader(self.current, self.site.disk.load, build, servers=self.crew)

    def _seal(self, generation: Generation) -> int:
        snapshot = self.site.disk.take_snapshot()
        assert snapshot is not None
        return seal(snapshot, {}, number=generation.number)

    async def open(self) -> None:
        assert not (await self.reloader.reload("start")).refused
        await self.crew.open()

    async def shut(self) -> None:
        await self.reloader.close()
        self.crew.close()
        await self.crew.drain(0)
        await self.crew.end()
        self.sink.close()

    @property
    def port(self) -> int:
        return self.crew.listeners[0].port

    def client(self) -> Any:
        return Connection.to(self.port, self.site.authority)

    async def pids(self) -> list[int]:
        return [worker["pid"] for worker in (await self.crew.report()).workers]

    async def value(self, name: str, **labels: str) -> float:
        body, _ = await self.crew.exposition("")
        samples = [sample for family in parse_text(body.decode()) for sample in family.samples]
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    @property
    def members(self) -> list[Member]:
        """Those that serve, by their places."""
        return list(self.crew._roster)
