"""How what serves is at one moment: a value that can be added to another's, where several processes serve.

The rules of adding: a check holds where it holds for all; connections and requests that run are summed; of a
tunnel's way to its peer the worst is told. Pure. Must not know: who asks, and how it was found out.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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
    there are any; `grpc_health` what the upstream of gRPC says of itself, None where gRPC is not served.
    """

    checks: Mapping[str, bool]
    connections: Mapping[int, int] = field(default_factory=dict)
    in_use: Mapping[str, int] = field(default_factory=dict)
    cluster: Mapping[str, Any] | None = None
    grpc_health: str | None = None
