"""The short lane: one client connection whose requests are plain, served without a task.

The rules: every connection begins here. A head that is plain (`http1/plain.py`) is judged, rewritten and
passed on from within `data_received`; the first one that isn't takes its connection to aiohttp's lane, with
every byte that is not served yet, and it stays there. What is decided, answered and recorded is the desk's,
the same for both lanes; timeouts, bounds and the ways in which a connection ends are those of `protocol.py`.

A head that is byte for byte the last one of its connection is not read again: what it says is the same. The
decision is made anew each time.

Must not know: who may do what; how bytes get to the upstream (`Passage`).
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Coroutine
from typing import Any, cast

import structlog

from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from rekeyd.http1 import answers, plain
from rekeyd.ledger import Entry, Use
from rekeyd.listeners.http.deadline import Deadline
from rekeyd.listeners.http.desk import Desk, told_of
from rekeyd.listeners.http.guests import Credentials, Guests
from rekeyd.listeners.http.inspection import inspect
from rekeyd.listeners.http.protocol import GatewayProtocol, Timeouts, refusal
from rekeyd.listeners.http.recognised import Recognised
from rekeyd.listeners.http.replies import Reply, is_ours
from rekeyd.listeners.http.visit import Visit
from rekeyd.listeners.http.wire import HIGH_WATER, LINGER, break_off
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.passage import Passage
from rekeyd.upstream.relay import ClientGoneError

log = structlog.get_logger()

_KEPT = 4096
"""Bytes of a head that is kept for comparison at most: there is one for each connection."""
_PIECES = 8
"""In more pieces than this a head is aiohttp's: each has what came so far looked at again."""


def _nowhere(_data: bytes) -> None:
    """Nobody is there."""


class LaneHost:
    """What lanes are made with. `other` makes the protocol of the other lane."""

    def __init__(
        self, desk: Desk, guests: Guests, timeouts: Timeouts, other: Callable[[Generation], GatewayProtocol]
    ) -> None:
        self.desk = desk
        self.guests = guests
        self.timeouts = timeouts
        self.other = other


class Lane(asyncio.Protocol):
    """One client connection, see above. It is `Guest` to the gateway and `passage.Client` to the upstream."""

    __slots__ = (
        "_ahead",
        "_arrived",
        "_closing",
        "_deadline",
        "_desk",
        "_ends",
        "_full_since",
        "_gone",
        "_held",
        "_host",
        "_known",
        "_last",
        "_left",
        "_loop",
        "_passage",
        "_pieces",
        "_room",
        "_served",
        "_since",
        "_skip",
        "_socket",
        "_task",
        "_turning",
        "_use",
        "_visit",
        "cipher",
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

    def __init__(self, host: LaneHost, generation: Generation) -> None:
        self._host = host
        self._desk = host.desk
        self._loop = asyncio.get_running_loop()
        self.generation = generation
        """The one under which the connection was accepted."""
        self.entry: Entry | None = None
        self.retiring = False
        self.turned_away = False
        """Once the handshake is done: whether this client has no place here."""
        self.cut_for: str | None = None
        self.full = False
        """Whether the client takes no more for now."""
        self.peer = ""
        self.tls: str | None = None
        self.cipher: str | None = None
        self.identity: str | None = None
        self._known: Credentials
        self.wire: asyncio.Transport | None = None
        self.write: Callable[[bytes], None] = _nowhere
        """Send, while there is somebody to send to."""
        self._socket: Any = None
        self._ahead = b""
        self._pieces = 0
        self._held = False
        self._last: Recognised | None = None
        self._visit: Visit | None = None
        self._use: Use | None = None
        self._passage: Passage | None = None
        self._task: asyncio.Task[None] | None = None
        self._closing: asyncio.Task[None] | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._left = 0
        self._skip = 0
        self._turning = False
        self._ends = False
        self._served = False
        self._gone: str | None = None
        self._since = 0.0
        self._full_since = 0.0
        self._deadline = Deadline(self._loop, self._due, self._too_late)

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.wire = wire = cast(asyncio.Transport, transport)
        self.write = wire.write
        self._socket = sock = transport.get_extra_info("socket")
        self._known = known = Credentials(transport)
        self.peer, self.tls, self.cipher, self.identity = known.peer, known.tls, known.cipher, known.identity
        if sock is not None and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        wire.set_write_buffer_limits(high=HIGH_WATER)
        self._host.guests.came(self, self.generation, known)
        self.turned_away = self.entry is None
        self._since = self._loop.time()
        self._deadline.expect(self._since + self._host.timeouts.header)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self.wire, self.write = None, _nowhere
        self._deadline.end()
        if self._task is not None:
            self._task.cancel()
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._visit is not None:
            if self._passage is not None:
                self._passage.cancel()
            self._visit.failure = self._desk.why_it_was_cut(self) or self._gone or "the client left"
            self._end_visit(self._visit)
        self._host.guests.went(self)

    def data_received(self, data: bytes) -> None:
        self._ahead = self._ahead + data if self._ahead else data
        if self._visit is None:
            self._turn()
        else:
            self._pass_body()
        if self._ahead and len(self._ahead) > HIGH_WATER:
            self._hold()

    def pause_writing(self) -> None:
        self.full = True
        self._full_since = self._loop.time()
        self._deadline.expect(self._full_since + self._desk.stall_timeout())

    def resume_writing(self) -> None:
        self.full = False
        if self._room is not None and not self._room.done():
            self._room.set_result(None)
        if self._passage is not None:
            self._passage.room_for_client()
        elif self._visit is None:
            self._turn()

    # What the passage calls.

    @property
    def closes(self) -> bool:
        """Whether the request at hand is the last one."""
        known = self._last
        return self._desk.replies.draining or self.retiring or known is None or not known.request.persists

    def body_wanted(self) -> None:
        self._since = self._loop.time()
        self._deadline.expect(self._since + self._desk.stall_timeout())
        self._pass_body()

    def passed(self) -> None:
        passage, visit, known = self._passage, self._visit, self._last
        if passage is None or visit is None or known is None:
            return
        self._passage, self._left = None, passage.left
        visit.status = passage.status
        if passage.failure is None:
            self._answered(visit, stays=passage.keep_alive and not self._desk.replies.draining)
            return
        self._upstream_failed(known, visit, passage.failure)

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

    # One request after another.

    def _turn(self) -> None:
        """Serve what was read for as long as nothing has to be waited for."""
        if self._turning:
            return
        self._turning = True
        try:
            while self._ahead and self._visit is None and self.wire is not None:
                if self._skip:
                    self._drop()
                elif self._ends or self.full or not self._begin():
                    break
        finally:
            self._turning = False
        if self._ends and not self._skip:
            self._ahead = b""
        if self._held and len(self._ahead) <= HIGH_WATER:
            self._read_on()

    def _drop(self) -> None:
        """Throw away the rest of a body that nobody wants."""
        dropped = min(self._skip, len(self._ahead))
        self._ahead = self._ahead[dropped:]
        self._skip -= dropped
        if not self._skip:
            self._rest()

    def _begin(self) -> bool:
        """Serve the request that stands first in what was read; whether there is one, and it is plain."""
        known, serving = self._last, self._desk.current.serving
        if (
            known is None
            or serving is None
            or known.generation is not serving.generation
            or not self._ahead.startswith(known.raw)
        ):
            known = self._look(self._desk.generation())
            if known is None:
                return False
        self._pieces = 0
        self._ahead = self._ahead[known.size :]
        self._left = known.length
        visit = self._visit = self._desk.begin(self, known.generation)
        visit.method, visit.path, visit.client = known.method, known.path, known.ask.client
        visit.request_id = known.request_id or self._desk.new_id()
        try:
            verdict = self._desk.gatekeeper.judge(known.ask, known.generation)
            if isinstance(verdict, Unverified):
                self._spawn(self._settle(known, visit, verdict))
            else:
                self._decided(known, visit, verdict)
        except Exception as error:  # noqa: BLE001 - told where everything is told, and answered
            self._failed(error)
        return True

    def _look(self, generation: Generation) -> Recognised | None:
        data = self._ahead
        end = data.find(plain.END_OF_HEAD)
        if end < 0:
            self._wait_for_head(data)
            return None
        raw = data[: end + len(plain.END_OF_HEAD)]
        request = plain.read(raw, self._desk.max_head)
        if request is None or is_ours(request):
            self._hand_over()
            return None
        self._last = known = Recognised(raw, request, self, generation)
        return known

    def _wait_for_head(self, data: bytes) -> None:
        if not self._pieces:
            self._since = self._since if not self._served else self._loop.time()
            self._deadline.expect(self._since + self._host.timeouts.header)
        self._pieces += 1
        if self._pieces > _PIECES or len(data) > self._desk.max_head or not plain.may_become_plain(data):
            self._hand_over()

    def _hand_over(self) -> None:
        """The connection is aiohttp's from now on."""
        wire, data = self.wire, self._ahead
        if wire is None:
            return
        self._read_on()
        self._deadline.end()
        self.wire, self.write, self._ahead, self._last = None, _nowhere, b"", None
        other = self._host.other(self.generation)
        other.retiring, other.cut_for = self.retiring, self.cut_for
        self._host.guests.moved(self, other)
        began = self._since if self._pieces or not self._served else self._loop.time()
        late_at = began + self._host.timeouts.header
        other.take_over(wire, self._known, data, served=self._served, late_at=late_at)

    async def _settle(self, known: Recognised, visit: Visit, verdict: Unverified) -> None:
        desk = self._desk
        settled, _, visit.generation = await desk.gatekeeper.settled(
            verdict, visit.generation, lambda _: known.ask, lambda: desk.current.generation
        )
        self._decided(known, visit, settled)

    def _decided(self, known: Recognised, visit: Visit, verdict: Allowed | Denied) -> None:
        visit.verdict = verdict
        if isinstance(verdict, Denied):
            if wait := self._desk.gatekeeper.penalty_for(verdict):
                self._spawn(self._deny_after(wait, known, visit, verdict))
            else:
                self._reply(visit, self._desk.replies.denial(visit, known.request, verdict))
            return
        if self.entry is not None and verdict.reason is not Reason.OPEN:
            self._use = Use(known.ask, verdict.credential)
            self._desk.ledger.begin(self.entry, self._use)
        if known.length and (words := self._desk.too_large(known.request, visit.generation)) is not None:
            self._reply(visit, self._desk.replies.error(visit, known.request, 413, message=words))
        elif verdict.lookups:
            self._spawn(self._inspect(known, visit, verdict))
        else:
            self._forward(known, visit, verdict)

    async def _deny_after(self, wait: float, known: Recognised, visit: Visit, denied: Denied) -> None:
        await asyncio.sleep(wait)
        self._reply(visit, self._desk.replies.denial(visit, known.request, denied))

    async def _inspect(self, known: Recognised, visit: Visit, verdict: Allowed) -> None:
        try:
            found = await inspect(self, known.request, verdict, visit.generation.policy)
        except ClientGoneError as gone:
            self._gone = str(gone)
            self.abort()
            return
        if isinstance(found, Denied):
            visit.verdict = found
            self._reply(visit, self._desk.replies.denial(visit, known.request, found))
        else:
            self._ahead = found + self._ahead
            self._forward(known, visit, verdict)

    def _forward(self, known: Recognised, visit: Visit, verdict: Allowed) -> None:
        pool = self._desk.pools.at_hand(visit.generation)
        if pool is None:
            self._spawn(self._forward_later(known, visit, verdict))
            return
        settings = visit.generation.settings
        passage = visit.relay = self._passage = Passage(
            self,
            known.request,
            pool,
            read_timeout=settings.upstream.read_timeout,
            cors=settings.service.enable_cors,
            added=() if verdict.quota is None else answers.quota_fields(verdict.quota),
        )
        passage.begin(known.onward(visit, verdict))

    async def _forward_later(self, known: Recognised, visit: Visit, verdict: Allowed) -> None:
        try:
            await self._desk.pools.pool_for(visit.generation)
        except UpstreamError as error:
            self._upstream_failed(known, visit, error)
        else:
            self._forward(known, visit, verdict)

    # The body.

    def _pass_body(self) -> None:
        if self._arrived is not None and not self._arrived.done():
            self._arrived.set_result(None)
        while self._ahead and (passage := self._passage) is not None and passage.wants_body:
            size = passage.left
            piece, self._ahead = self._ahead[:size], self._ahead[size:]
            self._since = self._loop.time()
            passage.body(piece)
        if self._held and len(self._ahead) <= HIGH_WATER:
            self._read_on()

    async def read(self) -> bytes:
        """A piece of the body, for whoever must see it before it goes on; empty at its end."""
        while self._left and not self._ahead:
            self._arrived = self._loop.create_future()
            try:
                async with asyncio.timeout(self._desk.stall_timeout()):
                    await self._arrived
            except TimeoutError:
                raise ClientGoneError("the client stalled in its body") from None
        piece, self._ahead = self._ahead[: self._left], self._ahead[self._left :]
        self._left -= len(piece)
        self._read_on()
        return piece

    def _hold(self) -> None:
        if not self._held and self.wire is not None:
            self._held = True
            self.wire.pause_reading()

    def _read_on(self) -> None:
        if self._held and self.wire is not None:
            self._held = False
            self.wire.resume_reading()

    # The end of a request.

    def _reply(self, visit: Visit, reply: Reply) -> None:
        self.write(reply.data)
        self._answered(visit, stays=reply.keep_alive)

    def _upstream_failed(self, known: Recognised, visit: Visit, error: UpstreamError) -> None:
        self._desk.upstream_failed(visit, error)
        if visit.status is not None:
            self._answered(visit, stays=False)
        else:
            status, words = told_of(error)
            self._reply(visit, self._desk.replies.error(visit, known.request, status, message=words))

    def _failed(self, error: Exception) -> None:
        """A fault of our own."""
        log.error("http.failed", problem="handler failed", exc_info=error)
        visit, known = self._visit, self._last
        if visit is None or known is None or self._passage is not None:
            self.abort()
            return
        words = "Internal Server Error"
        self._reply(visit, self._desk.replies.error(visit, known.request, 500, message=words, close=True))

    def _answered(self, visit: Visit, *, stays: bool) -> None:
        self._end_visit(visit)
        self._served = True
        self._skip, self._left = self._left, 0
        self._since = self._loop.time()
        self._ends = self._ends or not stays
        if self._skip:
            self._deadline.expect(self._since + LINGER)
        else:
            self._rest()
        if self._ahead:
            self._turn()

    def _end_visit(self, visit: Visit) -> None:
        if self._use is not None:
            if self.entry is not None:
                self._desk.ledger.end(self.entry, self._use)
            self._use = None
        self._visit = None
        self._desk.end(visit)
        if self._last is not None and self._last.size > _KEPT:
            self._last = None

    def _rest(self) -> None:
        """Nothing is asked any more, for now."""
        if self._ends:
            if self.wire is not None and not self.wire.is_closing():
                self._closing = self._loop.create_task(self._close())
            return
        self._deadline.expect(self._since + self._host.timeouts.idle)
        if self.retiring:
            self.retire()

    # The end of the connection.

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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with the request at hand when what it waits for is there."""
        self._task = self._loop.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - likewise
            self._failed(error)

    # Time.

    def _due(self) -> float | None:
        """Until when what we wait for must have happened."""
        timeouts = self._host.timeouts
        if self.wire is None:
            return None
        if self.full:
            return self._full_since + self._desk.stall_timeout()
        if self._visit is not None:
            waits = self._passage is not None and self._passage.wants_body
            return self._since + self._desk.stall_timeout() if waits else None
        if self._skip:
            return self._since + LINGER
        if self._ends:
            return None
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
            wire.close()
        elif wire.get_write_buffer_size():
            self.abort()  # it has not even taken its last answer
        else:
            wire.close()
