"""What rekeyd answers itself: denials, mistakes, preflights, and its own paths (`/.rekeyd/…`).

The rule: an answer is noted in its visit and rendered whole; it says whether the connection stays open.

Must not know: how a request is judged or forwarded.
"""

import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple

import orjson

from rekeyd.access.verdict import Denied
from rekeyd.http1 import answers
from rekeyd.http1.request import Field, Malformed, Request
from rekeyd.listeners.http.visit import Guest, Visit

Health = Callable[[], Awaitable[dict[str, bool]]]
"""Answers for readiness: each check by name, and whether it holds."""

_OURS = b"/.rekeyd"
_UNAUTHORIZED = 401


class Reply(NamedTuple):
    """A whole answer, and whether its connection stays."""

    data: bytes
    keep_alive: bool


class Replies:
    """`draining`: connections end after the answers that they are at, and readiness is gone."""

    def __init__(self, health: Health) -> None:
        self._health = health
        self.draining = False

    async def local(self, visit: Visit, request: Request) -> Reply:
        """`/.rekeyd/livez` and `/.rekeyd/readyz`: open, and saying no more than which check fails."""
        visit.reason = "health"
        if request.path not in {_OURS + b"/livez", _OURS + b"/readyz"}:
            return self.error(visit, request, 404, message="Not found")
        if request.method not in {b"GET", b"HEAD"}:
            return self.error(visit, request, 405, message="Only GET and HEAD")
        checks = await self._health() if request.path.endswith(b"/readyz") else {}
        if self.draining:
            checks = {**checks, "serving": False}
        good = all(checks.values())
        body = orjson.dumps({"status": "ok" if good else "unavailable", "checks": checks})
        status = 200 if good else 503
        return self._render(visit, request, status, body, answers.JSON, (b"Cache-Control", b"no-store"))

    def preflight(self, visit: Visit, request: Request) -> Reply:
        """Browsers ask without a key what they may ask with one (the Fetch standard, "CORS-preflight")."""
        visit.reason = "preflight"
        return self._render(visit, request, 204, b"", *answers.preflight_fields(request.fields))

    def denial(self, visit: Visit, request: Request, denied: Denied) -> Reply:
        body, fields = answers.body_of(denied, _age(visit))
        return self._render(visit, request, answers.status_of(denied), body, *fields, *_cors_fields(visit))

    def error(
        self, visit: Visit, request: Request | Malformed, status: int, *, message: str, close: bool = False
    ) -> Reply:
        """An answer with a `message`; with `close` the last one on its connection."""
        body = answers.error_body(message, _age(visit))
        return self._render(visit, request, status, body, answers.JSON, *_cors_fields(visit), close=close)

    def closes(self, request: Request, connection: Guest) -> bool:
        """Whether this is the last request on its connection.

        Also where another protocol than WebSocket was asked for: aiohttp drops what it read behind that.
        """
        return self.draining or connection.retiring or not request.persists or request.asks_for_another

    def _render(
        self,
        visit: Visit,
        request: Request | Malformed,
        status: int,
        body: bytes,
        *fields: Field,
        close: bool = False,
    ) -> Reply:
        visit.status = status
        if isinstance(request, Malformed):
            method, minor, stays = b"GET", 1, False
        else:
            method, minor = request.method, request.minor
            # A client that waits for 100 may send its body or not: only a new connection is clear again.
            stays = not (close or request.expects_continue or self.closes(request, visit.connection))
        render = answers.answer_again if status == _UNAUTHORIZED else answers.answer
        data = render(status, body, *fields, method=method, minor=minor, keep_alive=stays)
        return Reply(data, stays)


def is_ours(request: Request) -> bool:
    """Whether a path is rekeyd's own."""
    return request.path == _OURS or request.path.startswith(_OURS + b"/")


def is_preflight(request: Request) -> bool:
    """As the Fetch standard defines one: OPTIONS with Origin and Access-Control-Request-Method."""
    return (
        request.method == b"OPTIONS"
        and request.first(b"origin") is not None
        and request.first(b"access-control-request-method") is not None
    )


def _age(visit: Visit) -> float:
    return time.monotonic() - visit.started


def _cors_fields(visit: Visit) -> tuple[Field, ...]:
    return (answers.ANY_ORIGIN,) if visit.generation.settings.service.enable_cors else ()
