"""The upstream's end of a client's connection: bytes both ways, and when to hold on.

Must not know: HTTP/2.
"""

import asyncio
from typing import Protocol, cast

HIGH_WATER = 256 * 1024
"""Bytes that may wait for a side that does not read, before the other is not read either."""
_CLOSE_GRACE = 2.0
"""Seconds for the upstream to take what is written when its connection closes."""


class Owner(Protocol):
    """The client's connection."""

    def upstream_said(self, data: bytes) -> None:
        """Bytes came."""

    def upstream_left(self, why: str) -> None:
        """It closed, or broke off."""

    def upstream_full(self, *, full: bool) -> None:
        """Whether it has taken too little of what was written to it."""


class Link(asyncio.Protocol):
    """One connection to the upstream."""

    def __init__(self, owner: Owner) -> None:
        self._owner = owner
        self._transport: asyncio.Transport | None = None
        self._closing: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)

    def data_received(self, data: bytes) -> None:
        self._owner.upstream_said(data)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        if self._closing is not None:
            self._closing.cancel()
        self._owner.upstream_left("the upstream broke off")

    def pause_writing(self) -> None:
        self._owner.upstream_full(full=True)

    def resume_writing(self) -> None:
        self._owner.upstream_full(full=False)

    def write(self, data: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(data)

    def read(self, *, on: bool) -> None:
        """Whether to take more of what it says."""
        if self._transport is None or self._transport.is_closing():
            return
        if on:
            self._transport.resume_reading()
        else:
            self._transport.pause_reading()

    def close(self) -> None:
        """What was written goes out first, where the upstream takes it in time."""
        if self._transport is not None and self._closing is None:
            self._transport.close()
            self._closing = asyncio.get_running_loop().call_later(_CLOSE_GRACE, self.abort)

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()
