"""How what serves is at one moment: a value that can be added to another's, where several processes serve.

The rules of adding: a check holds where it holds for all; connections and requests that run are summed; of a
tunnel's way to its peer the worst is told. Pure. Must not know: who asks, and how it was found out.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar


@dataclass(frozen=True, slots=True)
class Listener:
    """Where a door is."""

    name: str
    host: str
    port: int
    tls: bool

    def fields(self) -> dict[str, object]:
        """As `daemon.started` tells it."""
        return {"name": self.name, "host": self.host, "port": self.port, "tls": self.tls}


@dataclass(frozen=True, slots=True)
class Report:
    """`checks` are those of readiness; `connections` are open ones by the generation under which they were
    accepted; `in_use` is how many requests run on each key; `cluster` says how tunnels to peers are, where
    there are any; `grpc_health` what the upstream of gRPC says of itself, None where gRPC is not served;
    `workers` the processes that serve, where they are not this one.
    """

    checks: Mapping[str, bool]
    connections: Mapping[int, int] = field(default_factory=dict)
    in_use: Mapping[str, int] = field(default_factory=dict)
    cluster: Mapping[str, Any] | None = None
    grpc_health: str | None = None
    workers: Sequence[Mapping[str, Any]] = ()

    def as_json(self) -> dict[str, Any]:
        """As JSON-able values, for another process."""
        return {**asdict(self), "connections": {str(number): n for number, n in self.connections.items()}}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> "Report":
        """What `as_json` gave."""
        connections = {int(number): count for number, count in told["connections"].items()}
        return cls(**{**told, "connections": connections})


def total(reports: Sequence[Report]) -> Report:
    """What several processes come to together; of none, that nothing serves."""
    if not reports:
        return Report({"workers": False})
    checks: dict[str, bool] = {}
    for report in reports:
        for name, holds in report.checks.items():
            checks[name] = checks.get(name, True) and holds
    healths = [report.grpc_health for report in reports if report.grpc_health is not None]
    clusters = [report.cluster for report in reports if report.cluster is not None]
    return Report(
        checks=checks,
        connections=_sum(report.connections for report in reports),
        in_use=_sum(report.in_use for report in reports),
        cluster=_worst(clusters) if clusters else None,
        grpc_health=next((health for health in healths if health != "serving"), "serving")
        if healths
        else None,
    )


_Key = TypeVar("_Key", int, str)


def _sum(counts: Iterable[Mapping[_Key, int]]) -> dict[_Key, int]:
    summed: Counter[_Key] = Counter()
    for each in counts:
        summed.update(each)
    return dict(summed)


def _worst(clusters: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Tunnels are summed; how an end is reached is told as the one says who fares worst with it."""
    inbound = [cluster["inbound"] for cluster in clusters]
    peers = zip(*(cluster["peers"] for cluster in clusters), strict=True)
    return {"inbound": _worst_way(inbound), "peers": [_worst_way(ways) for ways in peers]}


def _worst_way(ways: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    worst = max(ways, key=lambda way: (way["failures"], way["attempts"]))
    return {**worst, "tunnels": sum(way["tunnels"] for way in ways)}
