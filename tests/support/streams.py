"""What stays open: streams, WebSockets and uploads of a client, and how they end.

async with WebSocket.to(daemon, authority) as socket:
    assert await socket.echo("hello")
    seconds = await ended(socket.connection)
"""

import asyncio
import contextlib
import ssl
import time
from collections.abc import AsyncIterator

from support.daemon import Daemon
from support.generations import API_KEY
from support.live import PATIENCE, Connection
from support.pki import Authority

_WISH = {
    "Connection": "Upgrade",
    "Upgrade": "websocket",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
}
_FINAL_TEXT, _MASKED = 0x81, 0x80


class WebSocket:
    """An open WebSocket to the demo upstream, which echoes."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    @classmethod
    @contextlib.asynccontextmanager
    async def to(
        cls, at: Daemon, trust: Authority | ssl.SSLContext, *, key: str | None = API_KEY
    ) -> AsyncIterator["WebSocket"]:
        async with Connection.to(at, trust) as connection:
            await connection.send("/socket", key=key, headers=_WISH)
            status, _ = await connection.head()
            assert status == 101
            yield cls(connection)

    async def echo(self, text: str) -> bool:
        """Whether a short text comes back (RFC 6455, 5.2; the mask is zero)."""
        data = text.encode()
        self.connection.writer.write(bytes([_FINAL_TEXT, _MASKED | len(data), 0, 0, 0, 0]) + data)
        async with asyncio.timeout(PATIENCE):
            return (
                await self.connection.reader.readexactly(2 + len(data))
                == bytes([_FINAL_TEXT, len(data)]) + data
            )


@contextlib.asynccontextmanager
async def streaming(
    at: Daemon, trust: Authority | ssl.SSLContext, *, key: str | None = API_KEY
) -> AsyncIterator[Connection]:
    """A connection on which the demo upstream sends a line each second."""
    async with Connection.to(at, trust) as connection:
        await connection.send("/stream", key=key)
        status, _ = await connection.head()
        assert status == 200
        yield connection


@contextlib.asynccontextmanager
async def uploading(
    at: Daemon, trust: Authority | ssl.SSLContext, *, key: str | None = API_KEY
) -> AsyncIterator[Connection]:
    """A connection on which a body is sent that does not end."""
    async with Connection.to(at, trust) as connection:
        await connection.send("/upload", method="PUT", key=key, headers={"Transfer-Encoding": "chunked"})
        connection.writer.write(b"5\r\nhello\r\n")
        await connection.writer.drain()
        yield connection


async def goes_on(stream: Connection) -> bool:
    """Whether another piece of a stream comes."""
    async with asyncio.timeout(PATIENCE):
        return await anext(stream.chunks()) != b""


async def ended(connection: Connection, *, since: float | None = None, patience: float = PATIENCE) -> float:
    """Wait until the server closes or breaks off; the seconds from now, or from the moment `since`."""
    began = time.monotonic() if since is None else since
    async with asyncio.timeout(patience):
        with contextlib.suppress(OSError):  # a cut is a reset
            while await connection.reader.read(65536):
                pass
    return time.monotonic() - began
