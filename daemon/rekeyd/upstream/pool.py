"""Connections to one upstream, kept alive between requests.

The rules: a connection is used by one exchange at a time; an idle one is used again only while it is silent
and younger than `IDLE_FOR`; the youngest goes first, so that the others can end. One pool leads to one place:
a generation with another upstream gets another pool.

Must not know: requests.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from rekeyd.upstream.connection import UpstreamConnection, UpstreamError, UpstreamTimeoutError

IDLE_FOR = 4.0
"""Seconds. Below the 5 s after which common servers (actix, node) close a silent connection themselves."""
MAX_IDLE = 128

Connector = Callable[[Callable[[], UpstreamConnection]], Awaitable[UpstreamConnection]]
"""Opens a connection with the protocol that the factory makes."""


@dataclass(slots=True)
class PoolCounts:
    """What a pool has done so far; for tests, status and metrics."""

    opened: int = 0
    reused: int = 0


class Pool:
    """Lends connections; give each back with `release` or `discard`. `connect_timeout` in seconds."""

    def __init__(self, connect: Connector, *, connect_timeout: float) -> None:
        self._connect = connect
        self.connect_timeout = connect_timeout
        self._idle: list[UpstreamConnection] = []
        self._lent: set[UpstreamConnection] = set()
        self._closed = False
        self._ended = asyncio.Event()
        self._sweeper: asyncio.TimerHandle | None = None
        self.counts = PoolCounts()

    async def acquire(self, *, fresh: bool = False) -> UpstreamConnection:
        """A connection, kept-alive or new; `fresh` insists on a new one.

        Raises:
            UpstreamError: none can be had (`cause`: `connect`, `tls`).
            UpstreamTimeoutError: not within `connect_timeout`.
        """
        connection = None if fresh else self.take()
        if connection is None:
            connection = await self._open()
            self.counts.opened += 1
            self._lent.add(connection)
        return connection

    def take(self) -> UpstreamConnection | None:
        """A kept-alive connection, if there is one."""
        while self._idle:
            connection = self._idle.pop()
            if connection.is_usable(IDLE_FOR):
                self.counts.reused += 1
                self._lent.add(connection)
                return connection
            connection.close()
        return None

    def release(self, connection: UpstreamConnection) -> None:
        """Keep the connection for another exchange where that is safe, else close it."""
        self._lent.discard(connection)
        if self._closed or len(self._idle) >= MAX_IDLE or not connection.rest():
            self._close(connection)
            return
        self._idle.append(connection)
        if self._sweeper is None:
            self._sweep_later()

    def discard(self, connection: UpstreamConnection) -> None:
        """Give the connection up."""
        self._lent.discard(connection)
        self._close(connection)

    def close(self, *, abort: bool = False) -> None:
        """Close idle connections now and lent ones when they come back, or, with `abort`, now."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for connection in [*self._idle, *(self._lent if abort else ())]:
            connection.close()
        self._idle.clear()
        if not self._lent:
            self._ended.set()

    async def ended(self) -> None:
        """After `close`: wait until every lent connection came back."""
        await self._ended.wait()

    def _close(self, connection: UpstreamConnection) -> None:
        connection.close()
        if self._closed and not self._lent:
            self._ended.set()

    async def _open(self) -> UpstreamConnection:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self.connect_timeout):
                return await self._connect(lambda: UpstreamConnection(loop))
        except TimeoutError:
            raise UpstreamTimeoutError(
                "timeout", f"the upstream took no connection within {self.connect_timeout:g} s"
            ) from None
        except ssl.SSLError as error:
            raise UpstreamError("tls", f"no TLS with the upstream: {error.reason or error}") from error
        except OSError as error:
            raise UpstreamError("connect", f"the upstream can't be reached: {_why(error)}") from error

    def _sweep_later(self) -> None:
        self._sweeper = asyncio.get_running_loop().call_later(IDLE_FOR, self._sweep)

    def _sweep(self) -> None:
        self._sweeper = None
        keep = [connection for connection in self._idle if connection.is_usable(IDLE_FOR)]
        for connection in self._idle:
            if connection not in keep:
                connection.close()
        self._idle = keep
        if keep and not self._closed:
            self._sweep_later()


def _why(error: OSError) -> str:
    """The system's own words: asyncio's say which address, and not what was wrong."""
    if error.errno is None or isinstance(error, socket.gaierror):
        return error.strerror or str(error)
    return os.strerror(error.errno)
