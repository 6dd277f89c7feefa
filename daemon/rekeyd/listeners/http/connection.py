"""One client's connection outside of its requests: how it begins, waits, is held to its time, and ends.

The rules: what was read and belongs to no request yet is kept, and no more than `HIGH_WATER` of it; a head
must be complete in time, a body and a client that takes its answers must move, and an idle connection ends.
It is closed when all that was written is on its way, or broken off so that the client can tell. For aiohttp's
lane the same rules stand in `protocol.py`.

Must not know: what is asked on it (the lane does).
"""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any, cast

from rekeyd.ledger import Entry
from rekeyd.listeners.http.desk import Desk
from rekeyd.listeners.http.guests import Credentials, Guests
from rekeyd.listeners.http.protocol import GatewayProtocol, Timeouts, refusal
from rekeyd.listeners.http.visit import Visit
from rekeyd.listeners.http.wire import HIGH_WATER, LINGER, break_off
from rekeyd.system.deadline import Deadline
from rekeyd.trust.generation import Generation


class Host:
    """What connections are made with. `other` makes the protocol of the other lane."""

    def __init__(
        self, desk: Desk, guests: Guests, timeouts: Timeouts, other: Callable[[Generation], GatewayProtocol]
    ) -> None:
        self.desk = desk
        self.guests = guests
        self.timeouts = timeouts
        self.other = other


def nowhere(_data: bytes) -> None:
    """Nobody is there."""


class ClientConnection(asyncio.Protocol):
    """Once the handshake is done. It is `Guest` to the gateway; what is asked is its subclass's."""

    __slots__ = (
        "_ahead",
        "_closing",
        "_deadline",
        "_desk",
        "_ends",
        "_full_since",
        "_gone",
        "_held",
        "_host",
        "_known",
        "_loop",
        "_room",
        "_served",
        "_since",
        "_skip",
        "_socket",
        "_visit",
        "cut_for",
        "entry",
        "full",
        "generation",
        "identity",
        "peer",
        "retiring",
        "tls",
        "turned_away",
        "wire",
        "write",
    )

    def __init__(self, host: Host, generation: Generation) -> None:
        self._host = host
        self._desk = host.desk
        self._loop = asyncio.get_running_loop()
        self.generation = generation
        """The one under which the connection was accepted."""
        self.entry: Entry | None = None
        self.retiring = False
        self.turned_away = False
        """Whether this client has no place here."""
        self.cut_for: str | None = None
        self.full = False
        """Whether the client takes no more for now."""
        self.peer = ""
        self.tls: str | None = None
        self.identity: str | None = None
        self._known: Credentials
        self.wire: asyncio.Transport | None = None
        self.write: Callable[[bytes], None] = nowhere
        """Send, while there is somebody to send to."""
        self._socket: Any = None
        self._visit: Visit | None = None
        self._ahead = b""
        self._skip = 0
        self._held = False
        self._ends = False
        self._served = False
        self._gone: str | None = None
        self._since = 0.0
        self._full_since = 0.0
        self._room: asyncio.Future[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._deadline = Deadline(self._loop, self._due, self._too_late)

    @property
    def cipher(self) -> str | None:
        return self._known.cipher

    # What is asked.

    @property
    def _wants_body(self) -> bool:
        """Whether the request at hand waits for its client to send more."""
        raise NotImplementedError

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = wire = cast(asyncio.Transport, transport)
        self.write = wire.write
        self._socket = transport.get_extra_info("socket")
        self._known = known = Credentials(transport)
        self.peer, self.tls, self.identity = known.peer, known.tls, known.identity
        wire.set_write_buffer_limits(high=HIGH_WATER)
        self._host.guests.came(self, self.generation, known)
        self.turned_away = self.entry is None
        self._since = self._loop.time()
        self._deadline.expect(self._since + self._host.timeouts.header)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.wire, self.write = None, nowhere
        self._deadline.end()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        self._host.guests.went(self)

    def pause_writing(self) -> None:
        self.full = True
        self._full_since = self._loop.time()
        self._deadline.expect(self._full_since + self._desk.stall_timeout())

    def resume_writing(self) -> None:
        self.full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)

    # What is read.

    def _hold(self) -> None:
        if not self._held and self.wire is not None:
            self._held = True
            self.wire.pause_reading()

    def _read_on(self) -> None:
        if self._held and self.wire is not None:
            self._held = False
            self.wire.resume_reading()

    def _drop(self) -> None:
        """Throw away the rest of a body that nobody wants."""
        dropped = min(self._skip, len(self._ahead))
        self._ahead = self._ahead[dropped:]
        self._skip -= dropped
        if not self._skip:
            self._rest()

    # What the ledger and a drain call.

    def abort(self) -> None:
        """Break the connection so that the client can tell (RST, no close_notify)."""
        if self.wire is not None:
            break_off(self.wire, self._socket)

    def cut(self, why: str) -> None:
        self.cut_for = why
        self.abort()

    def retire(self) -> None:
        """Close now if nothing is asked, else after the answer at hand."""
        self.retiring = True
        busy = self._visit is not None or self._skip or self._ends
        if not busy and (self._closing is None or self._closing.done()):
            self._closing = self._loop.create_task(self._close_idle())

    def finish(self, *, newcomers_too: bool) -> None:
        """For a drain: close now if nothing is asked or about to be. A connection that never carried a
        request is a newcomer: its first one may be on its way."""
        idle = self._visit is None and not self._ahead and not self._skip
        if idle and (newcomers_too or self._served):
            self.retire()

    # The end of the connection.

    def _rest(self) -> None:
        """Nothing is asked any more, for now."""
        if self._ends:
            self._since = self._loop.time()
            self._deadline.expect(self._since + self._desk.stall_timeout())
            if self.wire is not None and not self.wire.is_closing():
                self._closing = self._loop.create_task(self._close())
            return
        self._deadline.expect(self._since + self._host.timeouts.idle)
        if self.retiring:
            self.retire()

    async def _close(self) -> None:
        with contextlib.suppress(ConnectionError):
            await self._flush()
            if self.wire is not None:
                self.wire.close()

    async def _close_idle(self) -> None:
        """Close when the client has taken all, unless it asks for more: then with that answer."""
        with contextlib.suppress(ConnectionError):
            await self._flush()
            if self.wire is not None and self._visit is None and not (self._ahead or self._skip):
                self.wire.close()
            elif self.wire is not None:
                self.wire.set_write_buffer_limits(high=HIGH_WATER)

    async def _flush(self) -> None:
        """Wait until all that was written is in the kernel's hands (see `GatewayProtocol.flush`)."""
        wire = self.wire
        if wire is None or wire.is_closing():
            return
        try:
            if wire.get_write_buffer_size():
                wire.set_write_buffer_limits(high=1)
                if self.full:
                    self._room = self._loop.create_future()
                    async with asyncio.timeout(self._desk.stall_timeout()):
                        await self._room
        except TimeoutError:
            self.abort()
            raise ConnectionError("the client stopped reading") from None

    # Time.

    def _due(self) -> float | None:
        """Until when what we wait for must have happened."""
        timeouts = self._host.timeouts
        if self.wire is None:
            return None
        if self.full:
            return self._full_since + self._desk.stall_timeout()
        if self._visit is not None:
            return self._since + self._desk.stall_timeout() if self._wants_body else None
        if self._skip:
            return self._since + LINGER
        if self._ends:  # it may be closing already, by its client's FIN, so that nobody flushes it
            return self._since + self._desk.stall_timeout()
        return self._since + (timeouts.header if self._ahead or not self._served else timeouts.idle)

    def _too_late(self) -> None:
        wire = self.wire
        if wire is None:
            return
        if self.full or self._visit is not None:
            self._gone = "the client stopped reading" if self.full else "the client stalled in its body"
            self.abort()
        elif self._skip:
            self._skip, self._ends = 0, True
            self._rest()
        elif self._ahead:
            self._desk.malformed(self, 408)
            self.write(refusal(408))
            self._ahead, self._ends = b"", True
            self._rest()
        elif wire.get_write_buffer_size():
            self.abort()  # it has not even taken its last answer
        else:
            wire.close()
