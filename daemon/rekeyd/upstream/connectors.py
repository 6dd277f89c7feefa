"""How to open a connection to each kind of upstream.

`http` and `https` over TCP, `unix` over a socket file, and an application in this process (`app`, `demo`)
over a socket pair, so that it goes through the very same code and listens nowhere.

Must not know: requests, pools.
"""

import asyncio
import importlib
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import cast

from aiohttp import web

from rekeyd.errors import RekeydError
from rekeyd.settings import UpstreamAddress
from rekeyd.upstream import tls
from rekeyd.upstream.connection import UpstreamConnection
from rekeyd.upstream.pool import Connector

Factory = Callable[[], UpstreamConnection]


class ApplicationError(RekeydError):
    """The application that an `app:` upstream names can't be had."""


def tcp(address: UpstreamAddress, trust: ssl.SSLContext | None) -> Connector:
    """Over TCP; inside TLS where `trust` is given, and then the certificate must name `address.host`."""

    async def connect(factory: Factory) -> UpstreamConnection:
        if trust is not None:
            _, inside = await tls.connect(factory, address, trust)
            return cast(UpstreamConnection, inside)
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(factory, address.host, address.port)
        return connection

    return connect


def unix(path: str) -> Connector:
    """Over a socket file."""

    async def connect(factory: Factory) -> UpstreamConnection:
        _, connection = await asyncio.get_running_loop().create_unix_connection(factory, path)
        return connection

    return connect


class InProcess:
    """An aiohttp application in this process, reached through socket pairs."""

    def __init__(self, application: web.Application) -> None:
        # No access log: the decision log has it. Bodies of any size: the gateway in front sets the limit.
        self._runner = web.AppRunner(
            application, access_log=None, handle_signals=False, handler_cancellation=True
        )

    async def start(self) -> None:
        """Run the application's start-up.

        Raises:
            ApplicationError: it failed.
        """
        try:
            await self._runner.setup()
        except Exception as error:
            raise ApplicationError(f"the application does not start: {_told(error)}") from error

    async def stop(self) -> None:
        await self._runner.cleanup()

    async def connect(self, factory: Factory) -> UpstreamConnection:
        server = self._runner.server
        if server is None:
            raise ConnectionRefusedError("the application has stopped")
        loop = asyncio.get_running_loop()
        near, far = socket.socketpair()
        try:
            await loop.connect_accepted_socket(server, far)
            _, connection = await loop.create_unix_connection(factory, sock=near)
        except BaseException:
            near.close()
            raise
        return connection


def find_factory(path: str) -> object:
    """What `module:factory` names. Importing a module runs it: call this where it may take its time.

    Raises:
        ApplicationError: the module or the name isn't there, or importing failed.
    """
    module, _, name = path.partition(":")
    try:
        found: object = getattr(importlib.import_module(module), name)
    except Exception as error:
        raise ApplicationError(f"app:{path} can't be loaded: {_told(error)}") from error
    return found


async def load_application(path: str) -> web.Application:
    """The application that `module:factory` makes; the factory may be a coroutine function, or the
    application itself.

    Raises:
        ApplicationError: the module, the name or the application isn't there, or making it failed.
    """
    made = find_factory(path)
    try:
        if callable(made) and not isinstance(made, web.Application):
            made = made()
            if isinstance(made, Awaitable):
                made = await made
    except Exception as error:
        raise ApplicationError(f"app:{path} can't be loaded: {_told(error)}") from error
    if not isinstance(made, web.Application):
        raise ApplicationError(f"app:{path} makes no aiohttp.web.Application")
    return made


def _told(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
