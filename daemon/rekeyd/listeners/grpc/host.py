"""What a connection of gRPC asks of the gateway that it belongs to, and for how long it waits.

Must not know: how a connection works, or how a decision is made.
"""

from dataclasses import dataclass
from typing import Protocol, TypeVar

from rekeyd.http2.frames import Code
from rekeyd.http2.guard import Limits
from rekeyd.http2.handling import Deny, Verdict
from rekeyd.http2.streams import Stream
from rekeyd.listeners.grpc.link import Link

_LOOKS = 5.0
"""Seconds between two looks at the clocks, at most."""

Guest_contra = TypeVar("Guest_contra", contravariant=True)
"""The connection."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `connect` is for the upstream's greeting; `stall`, `connect` and `read` are those of the
    generation in force."""

    header: float
    idle: float
    stall: float
    connect: float
    read: float

    @property
    def looks(self) -> float:
        """How often to look."""
        return min(
            _LOOKS,
            *(seconds / 4 for seconds in (self.header, self.idle, self.stall, self.connect, self.read)),
        )


class Host(Protocol[Guest_contra]):
    """The gateway, as far as a connection needs it."""

    @property
    def limits(self) -> Limits: ...

    def timeouts(self) -> Timeouts: ...

    def came(self, connection: Guest_contra, certificate: bytes | None) -> bool:
        """A handshake is done; whether this client has a place here."""

    def went(self, connection: Guest_contra) -> None:
        """It is closed."""

    def connect(self, connection: Guest_contra, link: Link) -> None:
        """It needs its connection to the upstream; `connected` or `not_connected` follows."""

    def call(self, connection: Guest_contra, stream: Stream) -> Verdict | None:
        """A call came."""

    def named(self, connection: Guest_contra, stream: Stream, collection: bytes | None) -> Verdict | None:
        """The collection that it names is known."""

    def further(self, stream: Stream, collection: bytes) -> Deny | None:
        """It names another collection as well; None: that is allowed."""

    def malformed(self, connection: Guest_contra, stream: Stream) -> None:
        """It is no call."""

    def ended(self, connection: Guest_contra, stream: Stream, failure: str | None) -> None:
        """It is over."""

    def broken(self, connection: Guest_contra, code: Code | None, why: str) -> None:
        """The client broke its connection, or let it be too slow."""

    def upstream_failed(self, connection: Guest_contra, cause: str, why: str) -> None:
        """The upstream left while it was needed."""
