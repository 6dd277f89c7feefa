"""The embedded upstream of `rekeyd demo`: it tells a caller who they are, how they came and what they asked.

It is an ordinary aiohttp application behind the ordinary gateway (`upstream.http: demo`), and knows of the
caller only what the gateway's identity headers say. It answers on every path, and streams on `/stream`.
"""

import asyncio
from datetime import UTC, datetime

from aiohttp import web

_ABSENT = "none"


def application() -> web.Application:
    """A new application; one for each pool."""
    app = web.Application(client_max_size=2**40)  # the gateway in front sets the limit
    app.router.add_get("/stream", _stream)
    app.router.add_get("/socket", _socket)
    app.router.add_route("*", "/{path:.*}", _tell)
    return app


async def _tell(request: web.Request) -> web.Response:
    size = 0
    async for piece in request.content.iter_any():
        size += len(piece)
    told = request.headers.get
    return web.json_response(
        {
            "who": {"key": told("X-Rekeyd-Key-Id", _ABSENT), "right": told("X-Rekeyd-Right", _ABSENT)},
            "how": {
                "tls": told("X-Rekeyd-Tls", _ABSENT),
                "cipher": told("X-Rekeyd-Cipher", _ABSENT),
                "client_certificate": told("X-Rekeyd-Client-Cert", _ABSENT),
                "from": told("X-Forwarded-For", _ABSENT),
            },
            "what": {
                "method": request.method,
                "path": request.raw_path.partition("?")[0],
                "body_bytes": size,
                "request_id": told("X-Request-Id", _ABSENT),
            },
        }
    )


async def _stream(request: web.Request) -> web.StreamResponse:
    """A line a second, for as long as the client listens: a connection that outlives certificates."""
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
    await response.prepare(request)
    while True:
        await response.write(f"data: {datetime.now(UTC).isoformat(timespec='seconds')}\n\n".encode())
        await asyncio.sleep(1)


async def _socket(request: web.Request) -> web.WebSocketResponse:
    """Echoes what a WebSocket says."""
    socket = web.WebSocketResponse()
    await socket.prepare(request)
    async for message in socket:
        if message.type is web.WSMsgType.TEXT:
            await socket.send_str(message.data)
        elif message.type is web.WSMsgType.BINARY:
            await socket.send_bytes(message.data)
    return socket
