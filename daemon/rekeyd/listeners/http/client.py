"""The client's end of an exchange, over aiohttp's request.

The rules: a client that doesn't move for `stall_timeout` seconds is gone; a body is counted as it arrives,
whatever was announced. Must not know: the upstream.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from typing import cast

from aiohttp import web
from aiohttp.http_writer import StreamWriter
from aiohttp.web_protocol import RequestPayloadError

from rekeyd.listeners.http.protocol import GatewayProtocol, StalledError
from rekeyd.listeners.http.wire import HIGH_WATER
from rekeyd.upstream.relay import BodyMalformedError, BodyTooLargeError, ClientGoneError


class AiohttpClient:
    """See `rekeyd.upstream.relay.ClientSide`."""

    def __init__(
        self,
        request: web.BaseRequest,
        *,
        max_body: int,
        stall_timeout: float,
        closes: Callable[[], bool],
    ) -> None:
        self._request = request
        self._protocol = cast(GatewayProtocol, request.protocol)
        self._writer = cast(StreamWriter, request.writer)
        self._left = max_body
        self._stall_timeout = stall_timeout
        self._closes = closes
        self._tunnel: _Tunnel | None = None

    @property
    def closes(self) -> bool:
        return self._closes()

    async def read(self) -> bytes:
        if self._tunnel is not None:
            return await self._tunnel.read()
        try:
            async with asyncio.timeout(self._stall_timeout):
                piece = await self._request.content.readany()
        except TimeoutError:
            raise ClientGoneError("the client stalled in its body") from None
        except RequestPayloadError:
            raise BodyMalformedError("the body is not framed as announced") from None
        except ConnectionError:
            raise ClientGoneError("the client left") from None
        self._left -= len(piece)
        if self._left < 0:
            raise BodyTooLargeError
        return piece

    async def write(self, data: bytes) -> None:
        try:
            await self._writer.write(data, drain=False)
            await self._protocol.has_room()
        except StalledError as stalled:
            raise ClientGoneError(str(stalled)) from None
        except ConnectionError:
            raise ClientGoneError("the client left") from None

    def switch(self) -> None:
        transport = self._request.transport
        if transport is None:
            raise ClientGoneError("the client left")
        self._tunnel = _Tunnel(transport)
        self._protocol.set_parser(self._tunnel)  # type: ignore[arg-type]  # made for WebSocketReader, used as one

    def abort(self) -> None:
        self._protocol.abort()


class _Tunnel:
    """Takes the place of aiohttp's WebSocket reader: bytes as they come, and reading held while they wait."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._pieces: deque[bytes] = deque()
        self._waiting = 0
        self._held = False
        self._ended = False
        self._wake: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        while not self._pieces:
            if self._ended:
                return b""
            self._wake = asyncio.get_running_loop().create_future()
            await self._wake
        data = b"".join(self._pieces)
        self._pieces.clear()
        self._waiting = 0
        if self._held:
            self._held = False
            self._transport.resume_reading()
        return data

    # What aiohttp calls.

    def feed_data(self, data: bytes) -> tuple[bool, bytes]:
        self._pieces.append(data)
        self._waiting += len(data)
        if self._waiting > HIGH_WATER and not self._held:
            self._held = True
            self._transport.pause_reading()
        self._notify()
        return False, b""

    def feed_eof(self) -> None:
        self._ended = True
        self._notify()

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)
