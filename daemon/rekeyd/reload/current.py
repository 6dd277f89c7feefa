"""The one mutable cell: what is served at this moment.

The rule: one reference is assigned, on the event loop's thread, so that whoever reads it sees one generation
whole. Must not know: how a generation comes about, or who reads it.
"""

import ssl
from dataclasses import dataclass, field

from rekeyd.trust.generation import Generation


@dataclass(frozen=True, slots=True)
class Serving:
    """A generation and the TLS context made of it; `tls` is None where rekeyd speaks plaintext."""

    generation: Generation
    tls: ssl.SSLContext | None = field(repr=False)


class Current:
    """What new connections and new requests go by."""

    __slots__ = ("_serving",)

    def __init__(self) -> None:
        self._serving: Serving | None = None

    @property
    def serving(self) -> Serving | None:
        """None before the first generation."""
        return self._serving

    @property
    def generation(self) -> Generation | None:
        return self._serving.generation if self._serving else None

    @property
    def number(self) -> int | None:
        return self._serving.generation.number if self._serving else None

    def publish(self, serving: Serving) -> None:
        """From here on this is served; it follows what was served before."""
        if self.number is not None and serving.generation.number <= self.number:
            raise ValueError(f"generation {serving.generation.number} does not follow {self.number}")
        self._serving = serving
