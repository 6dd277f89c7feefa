"""Connections that clients broke, or that were too slow: told each, and in a flood told together.

The rule is the one of failed handshakes (`handshakes.py`), with lines of its own. Must not know: what is
spoken.
"""

import time
from collections.abc import Callable

from rekeyd.telemetry.floods import Telling
from rekeyd.telemetry.handshakes import Emit, Failure, Ration


class BrokenLog:
    """Tells of broken connections through `emit`. To be used in a running event loop."""

    def __init__(self, emit: Emit, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._emit = emit
        self._broken = Telling(Ration(), self._tell, clock=clock)

    def told(self, listener: str, client: str, reason: str, generation: int | None) -> None:
        """Tell of one: why, in a few words, without anything that was sent."""
        self._broken.add(Failure(listener, client, reason, generation))

    def close(self) -> None:
        """Tell what still waits."""
        self._broken.close()

    def _tell(self, failure: Failure, count: int) -> None:
        fields = failure.fields()
        if count > 1:
            fields["count"] = count
        self._emit("warning", "connection.broken", fields)
