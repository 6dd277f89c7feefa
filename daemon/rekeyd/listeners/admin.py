"""The admin socket: `rekeyd reload` and `rekeyd status` talk to the daemon here, and whoever watches it.

Owns: a unix socket with mode 0660 (who may write to it may ask), and what is served on it: `POST /reload`,
`GET /status`, `GET /metrics`, and `GET /events`, a stream of server-sent events that are what the log has.
The answers are what was passed in. Who asks may say which settings file the daemon is to have that is meant
(`SETTINGS`): one that has another answers 409, does nothing, and says which file is its own. A reader of
events that is slow misses some, and is told how many; when the listener stops, its streams end.

Must not know: the other listeners, what a reload does, and what is counted.
"""

import asyncio
import http.client
import json
import os
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import quote, unquote_to_bytes

import orjson
import structlog
from aiohttp import web

from rekeyd.errors import RekeydError
from rekeyd.settings import Admin
from rekeyd.system.unix_socket import Taken, take
from rekeyd.telemetry.hub import Hub, Subscription, TooManySubscribersError

SETTINGS = "Rekeyd-Settings"
"""The field of a request with the absolute path of a settings file, percent-encoded."""
HEARTBEAT = 15.0
"""Seconds without an event after which a stream shows that it lives."""
_SHUTDOWN = 5.0
_PIECE = 100  # members of a list that are rendered at once
_LAST_WORDS = 1.0  # seconds in which a stream may be read to its end

log = structlog.get_logger()


class Told(Protocol):
    """What a reload came to: `rekeyd.reload.reloader.Outcome`."""

    def fields(self) -> Mapping[str, Any]: ...

    def lines(self) -> Sequence[str]: ...


class Reload(Protocol):
    """Reloads, and returns when the outcome is known."""

    def __call__(self, *, trigger: str) -> Awaitable[Told]: ...


Status = Callable[[], Awaitable[Mapping[str, Any]]]
Exposition = Callable[[str], Awaitable[tuple[bytes, str]]]
"""The field `Accept` to a body and its content type."""


class NoDaemon(RekeydError):  # noqa: N818 - it says what is the matter
    """Nobody answers on the admin socket, or not the daemon that is meant."""


def socket_named_by(admin: Admin, environ: Mapping[str, str]) -> Path | None:
    """Where the settings, and for the default the environment, put it; None: off.

    Of the folders that systemd may name in `$RUNTIME_DIRECTORY` (systemd.exec(5)) the first is ours.
    """
    given = environ.get("RUNTIME_DIRECTORY", "").partition(":")[0]
    if admin.socket is None or not (admin.socket_is_default and given.startswith("/")):
        return admin.socket
    return Path(given) / admin.socket.name


class AdminListener:
    """The socket at `path`, from `start` to `stop`."""

    def __init__(
        self,
        path: Path,
        *,
        settings: Path,
        reload: Reload,
        status: Status,
        exposition: Exposition,
        hub: Hub,
        heartbeat: float = HEARTBEAT,
    ) -> None:
        """`settings` is the file that this daemon runs with."""
        self.path = path
        self._streams = _Streams(hub, heartbeat)
        self._runner = web.AppRunner(
            _application(settings, reload, status, exposition, self._streams),
            access_log=None,
            shutdown_timeout=_SHUTDOWN,
            handle_signals=False,
        )
        self._taken: Taken | None = None

    async def start(self) -> None:
        """Listen. Raises SettingsError where the path can't be had."""
        self._taken = take(self.path, key="admin.socket")
        await self._runner.setup()
        await web.SockSite(self._runner, self._taken.channel).start()

    async def stop(self) -> None:
        """Stop listening, and end the streams; what is being answered is finished, for a few seconds."""
        if self._taken is not None:
            self._taken.leave()
            self._taken = None
        await self._streams.end()
        await self._runner.cleanup()


def ask(
    path: Path, method: str, target: str, *, settings: Path | None = None, timeout: float = 60.0
) -> tuple[int, dict[str, Any]]:
    """Ask the daemon at `path`: the status and the JSON of its answer. Blocks for at most `timeout` seconds.

    `settings` is the file that it is to run with; None: whichever.

    Raises NoDaemon where nobody is there, we may not ask, no answer of its kind comes, or another's does.
    """
    connection = _UnixConnection(path, timeout)
    fields = {"Accept": "application/json"}
    if settings is not None:
        fields[SETTINGS] = quote(os.fsencode(settings.absolute()))
    try:
        connection.request(method, target, headers=fields)
        response = connection.getresponse()
        answer = json.loads(response.read())
    except PermissionError as error:
        raise NoDaemon(f"{path}: this user may not write to the socket") from error
    except TimeoutError as error:
        raise NoDaemon(f"{path}: no answer within {timeout:g} seconds") from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise NoDaemon(f"{path}: no daemon answers there ({type(error).__name__})") from error
    finally:
        connection.close()
    told = answer if isinstance(answer, dict) else {}
    if response.status == HTTPStatus.CONFLICT:
        raise NoDaemon(f"{path}: another daemon answers there ({told.get('settings')})")
    return response.status, told


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("rekeyd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


# What is served


def _application(
    settings: Path, reload: Reload, status: Status, exposition: Exposition, streams: "_Streams"
) -> web.Application:
    async def post_reload(request: web.Request) -> web.Response:
        if _means_another(request, settings):
            return _that_is_another(settings)
        told = await reload(trigger="admin")
        return _answer({**told.fields(), "lines": told.lines()})

    async def get_status(request: web.Request) -> web.Response:
        if _means_another(request, settings):
            return _that_is_another(settings)
        # In a thread: a hundred thousand keys take a while.
        return await asyncio.to_thread(_answer, await status())

    async def get_metrics(request: web.Request) -> web.Response:
        body, content_type = await exposition(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type, "Cache-Control": "no-store"})

    application = web.Application(middlewares=[_in_json])
    application.router.add_post("/reload", post_reload)
    for path, handler in (
        ("/status", get_status),
        ("/metrics", get_metrics),
        ("/events", streams.serve),
    ):
        application.router.add_get(path, handler, allow_head=False)
    return application


def _means_another(request: web.Request, own: Path) -> bool:
    """Whether who asks means a daemon with another settings file, whatever links lead to it."""
    named = request.headers.get(SETTINGS)
    try:
        return named is not None and os.path.realpath(unquote_to_bytes(named)) != os.path.realpath(
            os.fsencode(own)
        )
    except ValueError:  # a NUL
        return True


def _that_is_another(own: Path) -> web.Response:
    error = f"This daemon runs with {own}"
    return _answer({"error": error, "settings": str(own)}, HTTPStatus.CONFLICT)


class _Streams:
    """The answers to `GET /events` that are under way."""

    def __init__(self, hub: Hub, heartbeat: float) -> None:
        self._hub = hub
        self._heartbeat = heartbeat
        self._open: dict[Subscription, web.Request] = {}
        self._ending = False
        self._ended = asyncio.Event()

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if self._ending:
            return _answer({"error": "The daemon is stopping"}, 503)
        try:
            subscription = self._hub.subscribe()
        except TooManySubscribersError as error:
            return _answer({"error": str(error)}, 503)
        self._open[subscription] = request
        try:
            return await self._stream(request, subscription)
        finally:
            subscription.close()
            del self._open[subscription]
            if not self._open:
                self._ended.set()

    async def end(self) -> None:
        """Let every stream say what it has heard, and cut off those whose readers don't take it."""
        self._ending = True
        for subscription in self._open:
            subscription.close()
        if self._open:
            self._ended.clear()
            try:
                await asyncio.wait_for(self._ended.wait(), _LAST_WORDS)
            except TimeoutError:
                for request in self._open.values():
                    if request.transport is not None:
                        request.transport.abort()

    async def _stream(self, request: web.Request, subscription: Subscription) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"}
        )
        try:
            await response.prepare(request)
            await response.write(b": what rekeyd tells from now on\n\n")
            while piece := await self._next(subscription):
                await response.write(piece)
        except ConnectionResetError:
            pass  # the reader left
        return response

    async def _next(self, subscription: Subscription) -> bytes:
        """The next event, or a sign of life; empty at the end."""
        try:
            async with asyncio.timeout(self._heartbeat):
                heard = await anext(subscription)
        except TimeoutError:
            return b": alive\n\n"
        except StopAsyncIteration:
            return b""
        return b"event: %b\ndata: %b\n" % (heard.name.encode(), heard.line)


@web.middleware
async def _in_json(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as refusal:
        return _answer({"error": refusal.reason}, refusal.status)
    except Exception:
        log.exception("admin.failed", target=request.path)
        return _answer({"error": "Internal error; the log says more"}, 500)


def _answer(fields: Mapping[str, Any], status: int = 200) -> web.Response:
    return web.Response(
        body=_rendered(fields),
        status=status,
        content_type="application/json",
        headers={"Cache-Control": "no-store"},
    )


def _rendered(fields: Mapping[str, Any]) -> bytes:
    """A JSON object. Lists go in pieces: orjson holds up every thread for as long as it works."""
    members = (_dumped(name) + b":" + _value(value) for name, value in fields.items())
    return b"{" + b",".join(members) + b"}\n"


def _value(value: object) -> bytes:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return _dumped(value)
    pieces = (_dumped(value[at : at + _PIECE])[1:-1] for at in range(0, len(value), _PIECE))
    return b"[" + b",".join(pieces) + b"]"


def _dumped(value: object) -> bytes:
    return orjson.dumps(value, default=str)
