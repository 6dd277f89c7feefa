"""aiohttp's server protocol, with what a gateway on the open network needs beside it.

The rules: a head must be complete within `header_timeout` of its first byte (or of the connection) and no
longer than `max_header_size`; what is no HTTP gets one short answer that repeats nothing of it; at most
`HIGH_WATER` bytes wait for a client that does not read; and nothing reaches the log as a traceback of
aiohttp's.

Must not know: what a request means.
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from rekeyd.http1 import answers

log = structlog.get_logger()

HIGH_WATER = 64 * 1024
LINGER = 5.0
"""Seconds for which a refused body is read and thrown away: so the client sees the answer, not a reset."""


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; `max_header_size` in bytes."""

    header: float
    idle: float
    max_header_size: int


class Rendered(web.StreamResponse):
    """An answer that is bytes already, all of them or those that the handler hasn't written itself."""

    def __init__(self, data: bytes, *, keep_alive: bool) -> None:
        super().__init__()
        self._data = data
        self._stays = keep_alive

    @property
    def keep_alive(self) -> bool:
        return self._stays

    async def prepare(self, request: web.BaseRequest) -> None:
        """Write the bytes as they are: aiohttp adds no Date, no Server, no Content-Type."""
        if self._data:
            await request.writer.write(self._data)

    async def write_eof(self, data: bytes = b"") -> None:
        """All is written."""


MalformedSeen = Callable[["GatewayProtocol", int], None]


class GatewayProtocol(web.RequestHandler):
    """One client connection. Gives up on heads that are slow or too long; tells who left."""

    __slots__ = ("_gateway", "_head_bytes", "_head_timer")

    def __init__(self, gateway: "GatewayServer", loop: asyncio.AbstractEventLoop) -> None:
        timeouts = gateway.timeouts
        super().__init__(
            gateway,
            loop=loop,
            keepalive_timeout=timeouts.idle,
            access_log=None,  # type: ignore[arg-type]  # aiohttp takes None for "none"; the decision log has it
            max_line_size=timeouts.max_header_size,
            max_field_size=timeouts.max_header_size,
            lingering_time=LINGER,
            auto_decompress=False,
            timeout_ceil_threshold=86400,  # aiohttp would round deadlines up to whole seconds
        )
        self._gateway = gateway
        self._head_timer: asyncio.TimerHandle | None = None
        self._head_bytes = 0

    def finish(self, *, newcomers_too: bool) -> None:
        """For a drain: close now if nothing is asked or about to be. What is asked closes after its answer.

        A connection that never carried a request is a newcomer: its first one may be on its way.
        """
        idle = self._waits_for_head() and not self._head_bytes
        if idle and (newcomers_too or self._request_count):
            self.force_close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._gateway.came(self)
        cast(asyncio.Transport, transport).set_write_buffer_limits(high=HIGH_WATER)
        self._expect_head()

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_came()
        super().connection_lost(exc)
        self._gateway.went(self)

    def data_received(self, data: bytes) -> None:
        requests = self._request_count
        super().data_received(data)
        if self._request_count != requests:
            self._head_came()
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
            raise ConnectionResetError("an answer has begun: there can't be another in it")
        return Rendered(_refusal(status), keep_alive=False)

    def log_exception(self, *args: Any, **kw: Any) -> None:
        log.error("http.failed", problem=str(args[0]) if args else "", exc_info=kw.get("exc_info"))

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
        if self.transport is not None:
            self._gateway.malformed(self, status)
            self.transport.write(_refusal(status))
        self.force_close()


def _refusal(status: int) -> bytes:
    words = answers.PHRASES[status].decode()
    return answers.answer(
        status, answers.error_body(words, 0.0), answers.JSON, method=b"GET", minor=1, keep_alive=False
    )


class GatewayServer(web.Server):
    """Makes a `GatewayProtocol` for each connection and knows those that are open."""

    def __init__(
        self,
        handler: Callable[[web.BaseRequest], Any],
        *,
        timeouts: Timeouts,
        malformed: MalformedSeen,
        left: Callable[[], None],
    ) -> None:
        # handler_cancellation: a client that leaves cancels its request.
        super().__init__(handler, handler_cancellation=True)
        self.timeouts = timeouts
        self.malformed = malformed
        self.open: set[GatewayProtocol] = set()
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._left = left

    def __call__(self) -> GatewayProtocol:
        return GatewayProtocol(self, asyncio.get_running_loop())

    def came(self, protocol: GatewayProtocol) -> None:
        self.open.add(protocol)
        self.emptied.clear()

    def went(self, protocol: GatewayProtocol) -> None:
        self.open.discard(protocol)
        if not self.open:
            self.emptied.set()
        self._left()
