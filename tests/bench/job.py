"""What the clients are told, and what they tell: one line of JSON each way."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Job:
    """What clients are to do. They go on for `seconds`, `connections` of them at a time."""

    kind: str
    """Which clients: a name in `bench.clients`."""
    port: int
    authority: str
    """The file of the CA that the server's certificate must be by."""
    head: str
    """Of each request, whole. For calls of gRPC: the API key."""
    body: int = 0
    """Bytes to send after it."""
    status: int = 200
    seconds: float = 2.0
    warm: float = 0.3
    """Seconds of the same load before it counts."""
    connections: int = 16
    per_connection: int = 0
    """Requests after which a client comes by a new connection, where the kind has such."""


@dataclass(slots=True)
class Result:
    """What came of it."""

    operations: int = 0
    failures: int = 0
    """Requests that got no answer, and connections that could not be made."""
    p50: float = 0.0
    p99: float = 0.0
    """Seconds from a request to its answer."""
    certificates: int = 0
    """How many different ones were shown."""
