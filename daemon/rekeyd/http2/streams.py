"""The streams of one connection: which are open, under which number on either side, and what waits.

The rules: the upstream's streams are numbered as they are let through, so that those that never get there
leave no trace, and one that is judged late may come after a younger one; a number means nothing on the other
side. A stream that one side has ended badly is remembered for a while: frames that were on their way then
are no fault (RFC 9113, 5.1).

Must not know: frames.
"""

from collections import OrderedDict
from collections.abc import Iterator
from typing import Any

from rekeyd.http2.heads import Call
from rekeyd.http2.messages import Messages

_REMEMBERED = 1024


class Stream:
    """One stream. `id` is the client's number, `up` the upstream's: None until it is let through.

    `head_ends`: the client's head was all there is. `held`: what came while it waits, `(kind, flags,
    payload)`. `asked_at`: when the client was done, until something is answered.
    `moved_at`: when a head or DATA last came for it, from either side.
    """

    __slots__ = (
        "answered",
        "asked_at",
        "call",
        "client_done",
        "gone",
        "head_ends",
        "held",
        "held_size",
        "id",
        "messages",
        "moved_at",
        "naming",
        "opened_at",
        "up",
        "upstream_done",
        "visit",
        "window",
    )

    def __init__(self, number: int, now: float) -> None:
        self.id = number
        self.up: int | None = None
        self.call: Call | None = None
        """Its head, until it is let through: a stream may last, and has no use for that any more."""
        self.visit: Any = None
        """The listener's own."""
        self.messages: Messages | None = None
        self.naming = False
        """Whether it waits for the name in its message."""
        self.held: list[tuple[int, int, bytes]] = []
        self.held_size = 0
        """Bytes of the client's window that are held."""
        self.window = 0
        """What the client added to the stream's window meanwhile."""
        self.head_ends = False
        self.client_done = False
        self.upstream_done = False
        self.answered = False
        """Whether a head of an answer went to the client."""
        self.gone = False
        self.opened_at = self.moved_at = now
        self.asked_at: float | None = None


class Streams:
    """Open streams by either number."""

    def __init__(self) -> None:
        self._open: dict[int, Stream] = {}
        self._of_upstream: dict[int, Stream] = {}
        self._ended: OrderedDict[int, None] = OrderedDict()
        self.highest = 0
        """The client's highest number so far."""
        self._next = 1

    def __len__(self) -> int:
        return len(self._open)

    def __iter__(self) -> Iterator[Stream]:
        return iter(tuple(self._open.values()))

    def get(self, number: int) -> Stream | None:
        return self._open.get(number)

    def of_upstream(self, number: int) -> Stream | None:
        return self._of_upstream.get(number)

    def is_idle_upstream(self, number: int) -> bool:
        """Whether the upstream speaks of a stream that there never was."""
        return number >= self._next or number % 2 == 0

    def open(self, stream: Stream) -> None:
        self._open[stream.id] = stream

    def let_through(self, stream: Stream) -> int:
        """Give it its number at the upstream."""
        stream.up, self._next = self._next, self._next + 2
        self._of_upstream[stream.up] = stream
        return stream.up

    def close(self, stream: Stream) -> None:
        stream.gone = True
        self._open.pop(stream.id, None)
        if stream.up is not None:
            self._of_upstream.pop(stream.up, None)

    def remember(self, number: int) -> None:
        """It did not end by the client's doing."""
        self._ended[number] = None
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def is_remembered(self, number: int) -> bool:
        return number in self._ended
