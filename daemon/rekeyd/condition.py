"""How the daemon is, asked at this moment: for readiness, for `rekeyd status`, for the service manager.

The rule: ready is who has a certificate that has not expired (the default one, where there are several) and
reaches the upstream; the same checks make `serving` in the status, so that the two can't disagree.

Must not know: who asks.
"""

import asyncio
import datetime as dt
import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekeyd import __version__
from rekeyd.reload.current import Current
from rekeyd.reload.disk import Disk
from rekeyd.reload.reloader import Reloader
from rekeyd.telemetry.evidence import Evidence
from rekeyd.telemetry.report import Report
from rekeyd.telemetry.status import State, status_of
from rekeyd.trust.generation import Severity
from rekeyd.upstream.grpc_health import GrpcHealth
from rekeyd.upstream.pools import Pools


@dataclass(frozen=True, slots=True)
class Checks:
    """What serves, looked at; `grpc` where gRPC is served."""

    current: Current
    pools: Pools
    grpc: GrpcHealth | None = None

    async def all(self) -> dict[str, bool]:
        """Each check of readiness by name, and whether it holds."""
        generation = self.current.generation
        if generation is None:
            return {"generation": False}
        checks = {"upstream": await self.pools.reachable(generation)}
        if self.grpc is not None:
            checks["grpc_upstream"] = (await self.grpc.look(generation)).good
        if generation.default is not None:
            checks["certificate"] = generation.default.leaf.not_after > dt.datetime.now(dt.UTC)
        return checks

    async def grpc_health(self) -> str | None:
        """What the upstream of gRPC says of itself; None where gRPC is not served."""
        generation = self.current.generation
        if self.grpc is None or generation is None:
            return None
        return str(await self.grpc.look(generation))


@dataclass(frozen=True, slots=True)
class Condition:
    """What it is read from; `report` asks what serves, `connections` counts those that are open."""

    current: Current
    reloader: Reloader
    disk: Disk
    evidence: Evidence
    report: Callable[[], Awaitable[Report]]
    connections: Callable[[], int]

    async def status(self, *, stopping: bool, kept_in: Path | None = None) -> dict[str, Any]:
        """All of it as JSON-able values. `kept_in` is where evidence is kept."""
        last, parsed, generation = self.reloader.last, self.disk.parsed, self.current.generation
        report = await self.report()
        state = State(
            version=__version__,
            pid=os.getpid(),
            stopping=stopping,
            report=report,
            generation=generation,
            last_reload=None if last is None else last.fields(),
            refused_since=self.reloader.refused_since,
            warnings=[str(warning) for warning in parsed.warnings] if parsed else [],
            use_of=self.evidence.of,
            evidence_since=self.evidence.since,
            state_directory=None if kept_in is None else str(kept_in),
        )
        # In a thread: a hundred thousand keys take a while.
        return await asyncio.to_thread(status_of, state, dt.datetime.now(dt.UTC))

    def summary(self) -> str:
        """One short line for `systemctl status`."""
        generation, connections = self.current.generation, self.connections()
        parts = [f"generation {self.current.number}"]
        if generation is not None and generation.default is not None:
            parts.append(f"certificate until {generation.default.leaf.not_after:%Y-%m-%d %H:%M} UTC")
        parts.append(f"{connections} connection{'' if connections == 1 else 's'}")
        if (refused := self._refused()) is not None:
            parts.append(refused)
        return ", ".join(parts)

    def _refused(self) -> str | None:
        """Since when what is on the disk is refused, and for what in a word."""
        since, last = self.reloader.refused_since, self.reloader.last
        if since is None:
            return None
        against = (f.rule for f in last.findings if f.severity is not Severity.WARN) if last else ()
        moment = dt.datetime.fromtimestamp(since, dt.UTC)
        return f"refused since {moment:%Y-%m-%d %H:%M} UTC: {next(iter(against), 'unknown')}"
