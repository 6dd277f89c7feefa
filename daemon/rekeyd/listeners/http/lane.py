"""The short lane: one client connection whose requests are plain, served without a task.

The rules: every connection begins here. A head that is plain (`http1/plain.py`) is judged, rewritten and
passed on from within `data_received`; the first one that isn't takes its connection to aiohttp's lane, with
every byte that is not served yet, and it stays there. What is decided, answered and recorded is the desk's,
the same for both lanes. How the connection waits and ends stands in `connection.py`.

A head that is byte for byte the last one of its connection is not read again: what it says is the same. The
decision is made anew each time.

Must not know: who may do what; how bytes get to the upstream (`Passage`).
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

import structlog

from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from rekeyd.http1 import answers, plain
from rekeyd.ledger import Use
from rekeyd.listeners.http.connection import ClientConnection, Host, nowhere
from rekeyd.listeners.http.desk import told_of
from rekeyd.listeners.http.inspection import inspect
from rekeyd.listeners.http.recognised import Recognised
from rekeyd.listeners.http.replies import Reply, is_ours
from rekeyd.listeners.http.visit import Visit
from rekeyd.listeners.http.wire import HIGH_WATER, LINGER
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.passage import Passage
from rekeyd.upstream.relay import ClientGoneError

log = structlog.get_logger()

_KEPT = 4096
"""Bytes of a head that is kept for comparison at most: there is one for each connection."""
_PIECES = 8
"""In more pieces than this a head is aiohttp's: each has what came so far looked at again."""


class Lane(ClientConnection):
    """One client connection, see above. It is `passage.Client` to the upstream."""

    __slots__ = ("_arrived", "_last", "_left", "_passage", "_pieces", "_task", "_turning", "_use")

    def __init__(self, host: Host, generation: Generation) -> None:
        super().__init__(host, generation)
        self._pieces = 0
        self._last: Recognised | None = None
        self._use: Use | None = None
        self._passage: Passage | None = None
        self._task: asyncio.Task[None] | None = None
        self._arrived: asyncio.Future[None] | None = None
        self._left = 0
        self._turning = False

    # What the transport calls.

    def connection_lost(self, exc: Exception | None) -> None:
        if self._task is not None:
            self._task.cancel()
        visit = self._visit
        if visit is not None:
            passage, self._passage = self._passage, None  # which holds us
            if passage is not None:
                passage.cancel()
            visit.failure = self._desk.why_it_was_cut(self) or self._gone or "the client left"
            self._end_visit(visit)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._ahead = self._ahead + data if self._ahead else data
        if self._visit is None:
            self._turn()
        else:
            self._pass_body()
        if self._ahead and len(self._ahead) > HIGH_WATER:
            self._hold()

    def resume_writing(self) -> None:
        super().resume_writing()
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
        self.wire, self.write, self._ahead, self._last = None, nowhere, b"", None
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
            self._ahead, self._left = found + self._ahead, self._left + len(found)
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
            added=answers.quota_fields(verdict.quota),
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

    @property
    def _wants_body(self) -> bool:
        return self._passage is not None and self._passage.wants_body

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
            if self.wire is None or self.wire.is_closing():
                self._ahead = b""  # who asked for more is gone
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

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Go on with the request at hand when what it waits for is there."""
        self._task = self._loop.create_task(self._guarded(work))

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:  # noqa: BLE001 - likewise
            self._failed(error)
