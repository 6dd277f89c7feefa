"""The admin socket: `rekeyd reload` and `rekeyd status` talk to the daemon here.

Owns: a unix socket that appears whole, with mode 0660 (who may write to it may ask), and that never takes
the place of a living daemon's nor of somebody's file; two routes, answering with what was passed in. Rules:

- The socket is bound under another name and renamed, so its path never shows one that doesn't answer.
- What is there already is replaced only if it is a socket on which nobody answers. Daemons that start at once
  take turns: the folder is locked meanwhile.
- On stop the path is removed only if what is there is still ours.

Must not know: the other listeners, and what a reload does.
"""

import contextlib
import errno
import fcntl
import http.client
import json
import os
import socket
import stat
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import orjson
import structlog
from aiohttp import web

from rekeyd.errors import Problem, RekeydError, SettingsError

MODE = 0o660
_LONGEST_PATH = 107  # sun_path in unix(7), without its final NUL
_SHUTDOWN = 5.0

log = structlog.get_logger()


class Told(Protocol):
    """What a reload came to: `rekeyd.reload.reloader.Outcome`."""

    def fields(self) -> Mapping[str, Any]: ...

    def lines(self) -> Sequence[str]: ...


class Reload(Protocol):
    """Reloads, and returns when the outcome is known."""

    def __call__(self, *, trigger: str) -> Awaitable[Told]: ...


Status = Callable[[], Awaitable[Mapping[str, Any]]]


class NoDaemon(RekeydError):  # noqa: N818 - it says what is the matter
    """Nobody answers on the admin socket."""


class AdminListener:
    """The socket at `path`, from `start` to `stop`."""

    def __init__(self, path: Path, *, reload: Reload, status: Status) -> None:
        self.path = path
        self._runner = web.AppRunner(
            _application(reload, status), access_log=None, shutdown_timeout=_SHUTDOWN, handle_signals=False
        )
        self._inode: tuple[int, int] | None = None

    async def start(self) -> None:
        """Listen. Raises SettingsError where the path can't be had."""
        channel, self._inode = _open(self.path)
        await self._runner.setup()
        await web.SockSite(self._runner, channel).start()

    async def stop(self) -> None:
        """Stop listening; what is being answered is finished, for a few seconds."""
        if self._inode is not None and _inode(self.path) == self._inode:
            self.path.unlink(missing_ok=True)
        self._inode = None
        await self._runner.cleanup()


def can_be_made(path: Path) -> bool:
    """Whether a socket can be made at `path` by this process. Says nothing about what is there already."""
    return os.access(path.parent, os.W_OK | os.X_OK)


def ask(path: Path, method: str, target: str, *, timeout: float = 60.0) -> tuple[int, dict[str, Any]]:
    """Ask the daemon at `path`: the status and the JSON of its answer. Blocks for at most `timeout` seconds.

    Raises NoDaemon where nobody is there, we may not ask, or no answer of its kind comes.
    """
    connection = _UnixConnection(path, timeout)
    try:
        connection.request(method, target, headers={"Accept": "application/json"})
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
    return response.status, answer if isinstance(answer, dict) else {}


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("rekeyd", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


# What is served


def _application(reload: Reload, status: Status) -> web.Application:
    async def post_reload(_request: web.Request) -> web.Response:
        told = await reload(trigger="admin")
        return _answer({**told.fields(), "lines": told.lines()})

    async def get_status(_request: web.Request) -> web.Response:
        return _answer(await status())

    application = web.Application(middlewares=[_in_json])
    application.router.add_post("/reload", post_reload)
    application.router.add_get("/status", get_status, allow_head=False)
    return application


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
    body = orjson.dumps(dict(fields), default=str, option=orjson.OPT_APPEND_NEWLINE)
    return web.Response(
        body=body, status=status, content_type="application/json", headers={"Cache-Control": "no-store"}
    )


# How the path is taken


def _open(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    own = path.with_name(f".{os.getpid()}")
    if max(len(os.fsencode(path)), len(os.fsencode(own))) > _LONGEST_PATH:
        raise _refused(path, f"a socket's path has at most {_LONGEST_PATH} bytes", "Choose a shorter path")
    try:
        with _locked(path.parent):
            _make_way(path)
            return _bound(own, path)
    except BlockingIOError as error:
        raise _refused(
            path, "another daemon is starting in this folder", "Give each its own folder"
        ) from error
    except OSError as error:
        fix = f"Make {path.parent} a folder in which rekeyd may write, or set another path"
        raise _refused(
            path, f"can't make the socket: {os.strerror(error.errno or errno.EIO)}", fix
        ) from error


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def _make_way(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise _refused(path, "something that is not a socket is there", "Remove it or set another path")
    if _answers(path):
        raise _refused(path, "another daemon answers there", "Stop it, or give this one another path")


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as channel:
        channel.setblocking(False)
        try:
            channel.connect(os.fspath(path))
        except ConnectionRefusedError:
            return False
        except BlockingIOError:
            return True  # its queue is full, so somebody listens
    return True


def _bound(own: Path, path: Path) -> tuple[socket.socket, tuple[int, int]]:
    own.unlink(missing_ok=True)  # left by a process that died under this very pid
    channel = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        os.fchmod(channel.fileno(), MODE)  # Linux makes the file with the socket's mode, less the umask
        channel.bind(os.fspath(own))
        own.chmod(MODE)
        channel.listen(128)
        own.rename(path)
    except BaseException:
        channel.close()
        own.unlink(missing_ok=True)
        raise
    made = path.lstat()
    return channel, (made.st_dev, made.st_ino)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _refused(path: Path, message: str, fix: str) -> SettingsError:
    return SettingsError([Problem(file=str(path), key="admin.socket", message=message, fix=fix)])
