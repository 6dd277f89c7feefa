"""aiohttp's server protocol, with what a gateway on the open network needs beside it.

The rules: a head must be complete within `header_timeout` of its first byte (or of the connection) and no
longer than `max_header_size`; what is no HTTP gets one short answer that repeats nothing of it; a body that
is no HTTP fails whoever reads it, at once; about `HIGH_WATER` bytes wait for a client that does not read, for
`stall_timeout` and no longer; a connection is closed when all that was written is on its way, since TLS would
cut it off; and nothing reaches the log as a traceback of aiohttp's.

Must not know: what a request means.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong
from aiohttp.http_parser import RawRequestMessage
from aiohttp.web_protocol import RequestPayloadError

from rekeyd.http1 import answers
from rekeyd.ledger import Entry
from rekeyd.listeners.http.guests import Credentials, Guest, Guests
from rekeyd.listeners.http.wire import FLUSH_LOOKS, HIGH_WATER, LINGER, break_off
from rekeyd.system.peers import address_of
from rekeyd.trust.generation import Generation

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; `max_header_size` in bytes."""

    header: float
    idle: float
    max_header_size: int


class StalledError(ConnectionError):
    """The client took nothing for `stall_timeout`, and was cut off."""


class Rendered(web.StreamResponse):
    """An answer that is bytes already, all of them or those that the handler hasn't written itself."""

    def __init__(self, data: bytes, *, keep_alive: bool) -> None:
        super().__init__()
        self._data = data
        self._stays = keep_alive
        self._answered: Callable[[], None] | None = None

    @property
    def keep_alive(self) -> bool:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the bytes as they are: aiohttp adds no Date, no Server, no Content-Type."""
        protocol = cast(GatewayProtocol, request.protocol)
        self._answered = protocol.answered
        if self._data:
            await request.writer.write(self._data)
            await protocol.has_room()
        if not self._stays:
            await protocol.flush()

    async def write_eof(self, data: bytes = b"") -> None:  # noqa: ARG002 - aiohttp's signature
        """All is written."""
        if self._answered is not None:
            self._answered()


class GatewayProtocol(web.RequestHandler):
    """One client connection. Gives up on heads that are slow or too long; tells who left."""

    __slots__ = (
        "_gateway",
        "_head_bytes",
        "_head_timer",
        "_known",
        "_retirement",
        "_served_before",
        "_socket",
        "cut_for",
        "entry",
        "generation",
        "retiring",
        "wire",
    )

    def __init__(
        self, gateway: "GatewayServer", generation: Generation, loop: asyncio.AbstractEventLoop
    ) -> None:
        timeouts = gateway.timeouts
        super().__init__(
            gateway,
            loop=loop,
            keepalive_timeout=timeouts.idle,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "none"; the decision log has it
            max_line_size=timeouts.max_header_size,
            max_field_size=timeouts.max_header_size,
            lingering_time=LINGER,
            read_bufsize=HIGH_WATER,
            auto_decompress=False,
            timeout_ceil_threshold=86400,  # aiohttp would round deadlines up to whole seconds
        )
        self._gateway = gateway
        self.generation = generation
        """The one under which the connection was accepted."""
        self.entry: Entry | None = None
        self._known: Credentials | None = None
        self._served_before = False
        self.retiring = False
        """Whether the answer at hand is the last."""
        self.cut_for: str | None = None
        """Why it was cut, if it was."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0
        self._retirement: asyncio.Task[None] | None = None
        self.wire: asyncio.Transport | None = None
        self._socket: Any = None

    @property
    def peer(self) -> str:
        return self._known.peer if self._known is not None else address_of(None)

    @property
    def tls(self) -> str | None:
        return self._known.tls if self._known is not None else None

    @property
    def cipher(self) -> str | None:
        return self._known.cipher if self._known is not None else None

    @property
    def identity(self) -> str | None:
        """What to call the client by its certificate."""
        return self._known.identity if self._known is not None else None

    @property
    def full(self) -> bool:
        return bool(self.writing_paused)

    # What is written.

    async def has_room(self) -> None:
        """Wait while more than `HIGH_WATER` bytes wait for the client.

        Raises:
            StalledError: it has taken none for `stall_timeout`, and is cut off.
            ConnectionError: it is gone.
        """
        if not self.writing_paused:
            return
        try:
            async with asyncio.timeout(self._gateway.stall_timeout()):
                await self._drain_helper()
        except TimeoutError:
            raise self._stalled() from None

    async def flush(self) -> None:
        """Wait until all that was written is in the kernel's hands; raises as `has_room`.

        Closed before, a TLS connection would drop after `tls_stream.CLOSE_TIMEOUT` what a slow client has yet
        to take, and a plain one would wait for ever for a client that takes nothing.
        """
        wire = self.wire
        if wire is None or wire.is_closing():
            return
        if wire.get_write_buffer_size():
            wire.set_write_buffer_limits(high=1)
            await self.has_room()

    def _stalled(self) -> StalledError:
        self.abort()
        return StalledError("the client stopped reading")

    def abort(self) -> None:
        """Break the connection so that the client can tell (RST, no close_notify)."""
        if self.wire is not None:
            break_off(self.wire, self._socket)

    # The connection.

    @property
    def turned_away(self) -> bool:
        """Once the handshake is done: whether this client has no place here."""
        return self.entry is None

    def retire(self) -> None:
        """For the ledger: close now if nothing is asked, else after the answer at hand."""
        self.retiring = True
        asked = self._current_request is not None
        if not asked and (self._retirement is None or self._retirement.done()):
            self._retirement = self._loop.create_task(self._close_idle())

    def answered(self) -> None:
        """An answer is written. Its head may have gone before it was known to be the last."""
        if self.retiring:
            self._loop.call_soon(self.retire)

    async def _close_idle(self) -> None:
        """Close when the client has taken all, unless it asks for more: then with that answer."""
        with contextlib.suppress(ConnectionError):
            await self.flush()
        while self.wire is not None and self._is_between_requests():  # noqa: ASYNC110 - aiohttp has no event
            await asyncio.sleep(FLUSH_LOOKS)
        if self._waits_for_head() and not self._head_bytes:
            self.force_close()

    def _is_between_requests(self) -> bool:
        """aiohttp is done with one and does not wait for the next yet."""
        return self._waiter is None and self._current_request is None and not self._messages

    def cut(self, why: str) -> None:
        """For the ledger: close now."""
        self.cut_for = why
        self.abort()

    def finish(self, *, newcomers_too: bool) -> None:
        """For a drain: close now if nothing is asked or about to be. What is asked closes after its answer.

        A connection that never carried a request is a newcomer: its first one may be on its way.
        """
        idle = self._waits_for_head() and not self._head_bytes
        if idle and (newcomers_too or self._request_count or self._served_before):
            self.retire()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self.wire = cast(asyncio.Transport, transport)
        self._socket = transport.get_extra_info("socket")
        if self._known is None:
            self._known = Credentials(transport)
            self._gateway.guests.came(self, self.generation, self._known)
        self.wire.set_write_buffer_limits(high=HIGH_WATER)
        self._expect_head()
        if self._task_handler is not None:
            self._task_handler.add_done_callback(self._serving_ended)

    def take_over(
        self, transport: asyncio.Transport, known: Credentials, data: bytes, *, served: bool, late_at: float
    ) -> None:
        """Go on with a connection of the other lane: `data` was read and not answered, and a head that began
        with it must be complete at `late_at`."""
        self._known = known
        self._served_before = served
        transport.set_protocol(self)
        self.connection_made(transport)
        self.data_received(data)
        if not self._request_count:
            self._head_came()
            self._head_bytes = len(data)
            self._head_timer = self._loop.call_at(late_at, self._head_is_late)
            if self._head_bytes > self._gateway.timeouts.max_header_size:
                self._refuse(431)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_came()
        self.wire = None
        super().connection_lost(exc)
        self._gateway.guests.went(self)

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests:
            self._head_came()
            self._fail_broken_body()
        elif self._waits_for_head():
            self._expect_head()
            self._head_bytes += len(data)
            if self._head_bytes > self._gateway.timeouts.max_header_size:
                self._refuse(431)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's words quote the request, which may hold a key
    ) -> web.StreamResponse:
        """Called by aiohttp for what is no HTTP (400), and for a handler that raised (500)."""
        if status == 400:  # noqa: PLR2004
            status = 431 if isinstance(exc, LineTooLong) else 400
            self._gateway.malformed(self, status)
        else:
            self.log_exception("handler failed", exc_info=exc)
        if request.writer.output_size > 0:
            self.abort()
            raise ConnectionResetError("an answer has begun: there can't be another in it")
        return Rendered(refusal(status), keep_alive=False)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        log.error("http.failed", problem=str(args[0]) if args else "", exc_info=kw.get("exc_info"))

    def _serving_ended(self, task: asyncio.Task[None]) -> None:
        """aiohttp serves a connection in one task. Where that fails (it can't make a request of `CONNECT`
        without a target), nobody would ever close the connection."""
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("http.failed", problem=f"a head that nothing can be made of: {type(error).__name__}")
            self._refuse(400)

    def _fail_broken_body(self) -> None:
        """aiohttp queues what is no HTTP as a request of its own, and leaves the body it broke unfinished."""
        if not self._messages or isinstance(self._messages[-1][0], RawRequestMessage):
            return
        before = self._messages[-2][1] if len(self._messages) > 1 else None
        if before is None and self._current_request is not None:
            before = self._current_request.content
        if before is not None and not before.is_eof():
            before.set_exception(RequestPayloadError("no HTTP"))
            before.feed_eof()  # nothing more is to be read and thrown away

    def _process_keepalive(self) -> None:
        """aiohttp's clock for idle connections. A head that has begun has a clock of its own."""
        if self._head_bytes:
            self._keepalive_handle = None
            return
        super()._process_keepalive()
        wire = self.wire
        if self._force_close and wire is not None and wire.get_write_buffer_size():
            self.abort()  # it has not even taken its last answer

    def _waits_for_head(self) -> bool:
        return self._waiter is not None and not self._waiter.done() and not self._messages

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self._loop.call_later(self._gateway.timeouts.header, self._head_is_late)

    def _head_came(self) -> None:
        self._head_bytes = 0
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        if self._head_bytes:
            self._refuse(408)
        else:
            self.force_close()

    def _refuse(self, status: int) -> None:
        """Answer in the place of a request that never became one, and close."""
        wire = self.transport
        if wire is not None:
            self._gateway.malformed(self, status)
            wire.write(refusal(status))
        self.force_close()
        if wire is not None and wire.get_write_buffer_size():  # a plain one would wait for ever
            self._loop.call_later(self._gateway.stall_timeout(), wire.abort)


def refusal(status: int) -> bytes:
    """A short answer to what never became a request."""
    words = answers.PHRASES[status].decode()
    return answers.answer(
        status, answers.error_body(words, 0.0), answers.JSON, method=b"GET", minor=1, keep_alive=False
    )


class GatewayServer(web.Server):
    """Makes a `GatewayProtocol` for each connection that is to be aiohttp's."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        timeouts: Timeouts,
        stall_timeout: Callable[[], float],
        malformed: Callable[[Guest, int], None],
        guests: Guests,
    ) -> None:
        # handler_cancellation: a client that leaves cancels its request.
        super().__init__(handler, handler_cancellation=True)
        self.timeouts = timeouts
        self.stall_timeout = stall_timeout
        """Seconds, at this moment: it is reloadable."""
        self.malformed = malformed
        self.guests = guests

    def protocol(self, generation: Generation) -> GatewayProtocol:
        """A protocol for a connection that was accepted under `generation`."""
        return GatewayProtocol(self, generation, asyncio.get_running_loop())
