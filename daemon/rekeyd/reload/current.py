"""The one mutable cell: what is served at this moment.

The rule: one reference is assigned, on the event loop's thread, so that whoever reads it sees one generation
whole. A number is given to one generation only, also where that one failed and an older one came back. Must
not know: how a generation comes about, or who reads it.
"""

import ssl
from dataclasses import dataclass, field

from rekeyd.trust.generation import Generation


@dataclass(frozen=True, slots=True)
class PeerContexts:
    """What tunnels between peers are made with: by those that come in, and for those that we connect to."""

    accepting: ssl.SSLContext = field(repr=False)
    connecting: ssl.SSLContext = field(repr=False)


@dataclass(frozen=True, slots=True)
class Serving:
    """A generation and the TLS contexts made of it.

    `tls` is None where rekeyd speaks plaintext with clients, `peers` where it has no tunnels to peers.
    `grpc_tls` is for the port of gRPC, where there is one.
    """

    generation: Generation
    tls: ssl.SSLContext | None = field(repr=False)
    peers: PeerContexts | None = field(default=None, repr=False)
    grpc_tls: ssl.SSLContext | None = field(default=None, repr=False)


class Current:
    """What new connections and new requests go by."""

    __slots__ = ("_highest", "serving")

    def __init__(self) -> None:
        self.serving: Serving | None = None
        """None before the first generation. To be read; `publish` and `restore` assign it."""
        self._highest = 0

    @property
    def generation(self) -> Generation | None:
        return self.serving.generation if self.serving else None

    @property
    def number(self) -> int | None:
        return self.serving.generation.number if self.serving else None

    @property
    def next_number(self) -> int:
        """One that no generation had."""
        return self._highest + 1

    def publish(self, serving: Serving) -> None:
        """From here on this is served; it follows all that was served before."""
        if serving.generation.number <= self._highest:
            raise ValueError(f"generation {serving.generation.number} does not follow {self._highest}")
        self._highest = serving.generation.number
        self.serving = serving

    def restore(self, serving: Serving) -> None:
        """Go back to one that was served before, because what followed it failed."""
        if serving.generation.number > self._highest:
            raise ValueError(f"generation {serving.generation.number} was never served")
        self.serving = serving
