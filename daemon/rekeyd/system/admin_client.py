"""Asks the daemon on its admin socket, for commands: what `listeners/admin.py` answers.

Apart from it, since a command need not take the time in which a server is loaded. Must not know: what is
asked.
"""

import http.client
import json
import os
import socket
from collections.abc import Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rekeyd.errors import RekeydError
from rekeyd.settings import Admin

SETTINGS = "Rekeyd-Settings"
"""The field of a request with the absolute path of a settings file, percent-encoded."""


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
