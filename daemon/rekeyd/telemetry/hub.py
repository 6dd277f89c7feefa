"""What is told, for whoever listens while it is told: a bounded fan-out of events.

The rules:

1. A listener gets the very event that the log has, timestamp included, as JSON. It also gets what the
   settings `logging.level` and `logging.decisions` leave out of the log, from level info upwards.
2. Nobody waits for a listener. One that is slow loses whole events, and where they would have stood it is
   told how many (`events.missed`, with `count`): from the first loss on nothing is kept for it until it has
   caught up.
3. While nobody listens nothing is done: ask `wanted` before an event is made for the hub alone.

What libraries say is not passed on. What is in an event is as free of secrets as a log line is.
`subscribe` is for the event loop, `publish` for any thread. Must not know: who listens, and over what.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, NamedTuple, Self

from rekeyd.errors import RekeydError
from rekeyd.telemetry import lines

MISSED = "events.missed"
SUBSCRIBERS = 16
CAPACITY = 1 << 20
"""Bytes that wait for one subscriber at most."""
_LIBRARIES = "library."
_OVERHEAD = 128  # the tuple, its text objects and its slot


class Heard(NamedTuple):
    """One event: its name, and all of it as a line of JSON, the newline included."""

    name: str
    line: bytes


class TooManySubscribersError(RekeydError):
    """`SUBSCRIBERS` listen already."""


class Hub:
    """Passes events on to those who subscribed."""

    def __init__(self, *, subscribers: int = SUBSCRIBERS, capacity: int = CAPACITY) -> None:
        self.wanted = False
        """Whether anybody listens."""
        self.on_wanted: Callable[[bool], None] = lambda _: None
        """Told when that changes."""
        self._most = subscribers
        self._capacity = capacity
        self._subscriptions: set[Subscription] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = 0

    def publish(self, event: Mapping[str, Any]) -> None:
        """Pass on one event as the log has it. Never blocks, never raises."""
        name = str(event.get("event", ""))
        if not self.wanted or self._loop is None or name.startswith(_LIBRARIES):
            return
        heard, head = Heard(name, lines.to_json(event)), _head_of(event)
        if threading.get_ident() == self._thread:
            self._spread(heard, head)
        else:
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
                self._loop.call_soon_threadsafe(self._spread, heard, head)

    def subscribe(self) -> "Subscription":
        """Listen from now on; enter it, and iterate over what is heard.

        Raises:
            TooManySubscribersError: there is no room for one more.
        """
        if len(self._subscriptions) >= self._most:
            raise TooManySubscribersError(f"{self._most} listen already, which is all that may at once")
        self._loop, self._thread = asyncio.get_running_loop(), threading.get_ident()
        subscription = Subscription(self, self._capacity)
        self._subscriptions.add(subscription)
        self._want()
        return subscription

    def leave(self, subscription: "Subscription") -> None:
        self._subscriptions.discard(subscription)
        self._want()

    def relay(self, heard: Heard) -> None:
        """Pass on what another process has told. For the event loop."""
        self._spread(heard, {"timestamp": None, "generation": None})

    def _want(self) -> None:
        was, self.wanted = self.wanted, bool(self._subscriptions)
        if self.wanted != was:
            self.on_wanted(self.wanted)

    def _spread(self, heard: Heard, head: Mapping[str, Any]) -> None:
        for subscription in self._subscriptions:
            subscription.offer(heard, head)


class Subscription(AsyncIterator[Heard]):
    """One listener's queue. Ends, once what was heard before is read, when `close` was called."""

    def __init__(self, hub: Hub, capacity: int) -> None:
        self._hub = hub
        self._capacity = capacity
        self._waiting: deque[Heard] = deque()
        self._size = 0
        self._missed = 0
        self._head: Mapping[str, Any] = {}
        self._news = asyncio.Event()
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_raised: object) -> None:
        self.close()

    async def __anext__(self) -> Heard:
        while not (self._waiting or self._missed):
            if self._closed:
                raise StopAsyncIteration
            self._news.clear()
            await self._news.wait()
        if self._waiting:
            heard = self._waiting.popleft()
            self._size -= len(heard.line) + _OVERHEAD
            return heard
        missed, self._missed = self._missed, 0
        return Heard(MISSED, lines.to_json({**self._head, "count": missed}))

    def offer(self, heard: Heard, head: Mapping[str, Any]) -> None:
        """Keep it until it is asked for, or count it as missed; `events.missed` then begins with `head`."""
        cost = len(heard.line) + _OVERHEAD
        if self._missed or self._size + cost > self._capacity:
            self._missed += 1
            self._head = head
        else:
            self._waiting.append(heard)
            self._size += cost
        self._news.set()

    def close(self) -> None:
        """Hear nothing more."""
        self._hub.leave(self)
        self._closed = True
        self._news.set()


def _head_of(event: Mapping[str, Any]) -> dict[str, Any]:
    """What `events.missed` begins with, should this be the last event that was missed."""
    return {
        "timestamp": event.get("timestamp"),
        "level": "warning",
        "event": MISSED,
        "generation": event.get("generation"),
    }
