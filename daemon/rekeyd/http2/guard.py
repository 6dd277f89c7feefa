"""How much of what is free to send one connection may send.

Each bound is a bucket: so many at once, so many more with each second. What is over it is a fault that ends
the connection with ENHANCE_YOUR_CALM (RFC 9113, 10.5): floods of PING, SETTINGS, PRIORITY and empty DATA
(CVE-2019-9512, -9515, -9518), streams that are reset as soon as they are made (rapid reset, CVE-2023-44487),
or broken so that the upstream resets them (CVE-2025-8671), calls that are denied one after the other, and
field blocks in endless pieces (CVE-2024-27316).

Pure: `now` is passed in, in monotonic seconds. Must not know: what was sent, or by whom.
"""

from dataclasses import dataclass

from rekeyd.http2.frames import Code, ConnectionFault

CONTROL, CONTROL_PER_SECOND = 1_000, 200
"""Frames that carry nothing: PING, SETTINGS, PRIORITY, empty DATA, heads for streams that are gone, unknown
ones. A busy gRPC connection measures its bandwidth with some PINGs a second."""
WINDOWS, WINDOWS_PER_SECOND = 20_000, 10_000
"""WINDOW_UPDATE, one for every few DATA frames of an answer; what was on its way to a stream when it ended;
and small pieces that wait with a stream for its verdict."""
EARNED = 2
"""How many more of `CONTROL` each frame of an answer allows: a client measures bandwidth (PING) as it
receives."""
PIECES = 16
"""CONTINUATION frames of one field block: its bytes are bounded as well, and need two or three."""


class Bucket:
    """Holds `most`; what is taken comes back at `per_second`."""

    __slots__ = ("_at", "_left", "_most", "_per_second")

    def __init__(self, most: float, per_second: float) -> None:
        self._most = self._left = most
        self._per_second = per_second
        self._at = float("-inf")

    def take(self, now: float) -> bool:
        """Take one, if there is one."""
        if self._left < self._most:
            self._left = min(self._most, self._left + (now - self._at) * self._per_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True

    def give(self, some: float) -> None:
        """Put some back before their time."""
        self._left = min(self._most, self._left + some)


@dataclass(frozen=True, slots=True)
class Limits:
    """The bounds of one connection that settings have a say in.

    `streams` at once; `resets`: streams that end badly (reset or broken by the client, refused, denied), a
    tenth of them again with each second; `block` and `message` in bytes.
    """

    streams: int = 256
    resets: int = 1_000
    block: int = 32 * 1024
    message: int = 32 * 1024 * 1024


class Guard:
    """The buckets of one connection."""

    def __init__(self, limits: Limits) -> None:
        self._control = Bucket(CONTROL, CONTROL_PER_SECOND)
        self._windows = Bucket(WINDOWS, WINDOWS_PER_SECOND)
        self._resets = Bucket(limits.resets, limits.resets / 10)

    def control(self, now: float) -> None:
        """A frame came that carries nothing. Raises ConnectionFault."""
        if not self._control.take(now):
            raise _calm("too many frames that carry nothing")

    def window(self, now: float) -> None:
        """A WINDOW_UPDATE came, or something small for a stream that has ended or waits.

        Raises ConnectionFault.
        """
        if not self._windows.take(now):
            raise _calm("too many window updates or small pieces")

    def answered(self) -> None:
        """A frame of an answer went to the client."""
        self._control.give(EARNED)

    def reset(self, now: float) -> None:
        """A stream ended badly. Raises ConnectionFault."""
        if not self._resets.take(now):
            raise _calm("too many streams that were reset or denied")


def _calm(why: str) -> ConnectionFault:
    return ConnectionFault(Code.ENHANCE_YOUR_CALM, why)
