"""The metrics port: `GET /metrics` for Prometheus, over HTTP without TLS and without a key, and nothing else.

Rules: whoever reaches the port may read, so where it listens is the operator's word. A connection carries one
request, and lives no longer than `LIFETIME`; no more than `CONNECTIONS` are open at once: so nobody who may
not get in at the front can hold much here. What is no HTTP is answered in a line, and not logged.

Must not know: the other listeners, and what is counted.
"""

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any, cast

from aiohttp import hdrs, web

LIFETIME = 30.0
"""Seconds. Prometheus gives up a scrape after 10, unless it is told otherwise."""
CONNECTIONS = 64
_PATH = "/metrics"
_SHUTDOWN = 1.0

Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""The field `Accept` to a body and its content type."""


class MetricsListener:
    """Serves `exposition` on a listening socket, from `start` to `stop`."""

    def __init__(
        self, listening: socket.socket, exposition: Exposition, *, lifetime: float = LIFETIME
    ) -> None:
        self._listening = listening
        self._exposition = exposition
        self._lifetime = lifetime
        self._runner: web.ServerRunner | None = None

    @property
    def address(self) -> tuple[str, int]:
        host, port, *_ = self._listening.getsockname()
        return host, port

    async def start(self) -> None:
        self._runner = web.ServerRunner(
            _Scrapes(self._answer, self._lifetime), shutdown_timeout=_SHUTDOWN, handle_signals=False
        )
        await self._runner.setup()
        await web.SockSite(self._runner, self._listening).start()

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _answer(self, request: web.BaseRequest) -> web.Response:
        if request.path != _PATH:
            return _plain(404, "Not found: only /metrics is here\n")
        if request.method != hdrs.METH_GET:
            return _plain(405, "Only GET\n", Allow=hdrs.METH_GET)
        body, content_type = await self._exposition(request.headers.get(hdrs.ACCEPT, ""))
        return _closing(web.Response(body=body, headers={"Content-Type": content_type, "Server": "rekeyd"}))


class _Scrapes(web.Server):
    """Makes a protocol for each connection, and bounds how many there are and how long they live."""

    def __init__(self, handler: Callable[[web.BaseRequest], Any], lifetime: float) -> None:
        super().__init__(handler)
        self.lifetime = lifetime

    def __call__(self) -> web.RequestHandler:
        return _Scrape(self)


class _Scrape(web.RequestHandler):
    """One connection."""

    __slots__ = ("_bounds", "_end")

    def __init__(self, server: _Scrapes) -> None:
        loop = asyncio.get_running_loop()
        # None is "no access log" for aiohttp, whatever its types say.
        super().__init__(server, loop=loop, access_log=None)  # type: ignore[arg-type]
        self._bounds = server
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if len(self._bounds.connections) > CONNECTIONS:
            self.force_close()
        else:
            self._end = self._loop.call_later(self._bounds.lifetime, self._cut_off, transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._end is not None:
            self._end.cancel()
        super().connection_lost(exc)

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - its words may quote anything
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - aiohttp's quotes what was sent
    ) -> web.StreamResponse:
        """Called by aiohttp for what is no HTTP (400), and for a handler that raised (500)."""
        if status >= 500:  # noqa: PLR2004
            self.log_exception("metrics can't be told", exc_info=exc)
        return _plain(status, "Not understood\n" if status < 500 else "Internal error; the log says more\n")  # noqa: PLR2004

    @staticmethod
    def _cut_off(transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).abort()


def _plain(status: int, text: str, **fields: str) -> web.Response:
    return _closing(web.Response(status=status, text=text, headers={"Server": "rekeyd", **fields}))


def _closing(response: web.Response) -> web.Response:
    response.force_close()
    return response
