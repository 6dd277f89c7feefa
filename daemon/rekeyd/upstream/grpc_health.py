"""How the gRPC upstream is, by its own word: `grpc.health.v1.Health/Check` (gRPC, health-checking.md).

The rules: asked at most once in `ASK_EVERY` seconds, whoever wants to know; an upstream that has no health
checking and answers is taken for well. Must not know: who asks.
"""

import asyncio
import enum
from typing import cast

from rekeyd.http2 import frames
from rekeyd.http2.fields import BlockReader, BlockWriter
from rekeyd.http2.frames import ACK, END_HEADERS, END_STREAM, ConnectionFault, Frame, FrameReader
from rekeyd.http2.heads import answer_of
from rekeyd.http2.parameters import LARGEST_FRAME
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.grpc import GrpcDialer

ASK_EVERY = 1.0
"""Seconds for which an answer holds: an open path must not be a way to flood the upstream."""
PATIENCE = 5.0
"""Seconds for an answer."""
_LONGEST = 64 * 1024
_UNIMPLEMENTED = 12
_SERVING = b"\0\0\0\0\x02\x08\x01"
_NO_MESSAGE = b"\0\0\0\0\0"


class Health(enum.StrEnum):
    """What is known."""

    SERVING = "serving"
    NOT_SERVING = "not_serving"
    NOT_TOLD = "not_told"
    """It answers, and has no health checking."""
    UNREACHABLE = "unreachable"

    @property
    def good(self) -> bool:
        return self in {Health.SERVING, Health.NOT_TOLD}


class GrpcHealth:
    """Asks the upstream of a generation."""

    def __init__(self, dialer: GrpcDialer) -> None:
        self._dialer = dialer
        self._asking = asyncio.Lock()
        self._known: tuple[float, Health] = (float("-inf"), Health.UNREACHABLE)

    async def look(self, generation: Generation) -> Health:
        """How it is, now or a moment ago."""
        async with self._asking:  # whoever asks meanwhile gets the same answer
            when, health = self._known
            if asyncio.get_running_loop().time() - when >= ASK_EVERY:
                health = await self._ask(generation)
                self._known = (asyncio.get_running_loop().time(), health)
            return health

    async def _ask(self, generation: Generation) -> Health:
        key = generation.settings.upstream.api_key
        address = generation.settings.upstream.grpc
        check = _Check(
            authority=address.authority if address is not None else "",
            scheme="https" if address is not None and address.scheme == "https" else "http",
            key=key.get_secret_value() if key is not None else None,
        )
        try:
            await self._dialer.dial(generation, lambda: check)
            return await asyncio.wait_for(check.answer, PATIENCE)
        except (UpstreamError, TimeoutError):
            return Health.UNREACHABLE
        finally:
            check.close()


class _Check(asyncio.Protocol):
    """One call on a connection of its own."""

    def __init__(self, *, authority: str, scheme: str, key: str | None) -> None:
        self.answer: asyncio.Future[Health] = asyncio.get_running_loop().create_future()
        self._head = [
            (b":method", b"POST"),
            (b":scheme", scheme.encode()),
            (b":path", b"/grpc.health.v1.Health/Check"),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            *([(b"api-key", key.encode())] if key is not None else []),
        ]
        self._transport: asyncio.Transport | None = None
        self._frames = FrameReader(LARGEST_FRAME)
        self._blocks = BlockReader(_LONGEST)
        self._message = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        ours = frames.frame(frames.SETTINGS, 0, 0, b"\0\x02\0\0\0\0")  # no push
        head = frames.headers(1, BlockWriter().write(self._head), ends=False)
        self._transport.write(
            frames.PREFACE + ours + head + frames.frame(frames.DATA, END_STREAM, 1, _NO_MESSAGE)
        )

    def data_received(self, data: bytes) -> None:
        try:
            for frame in self._frames.feed(data):
                self._take(frame)
        except ConnectionFault:
            self._tell(Health.UNREACHABLE)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        self._tell(Health.UNREACHABLE)

    def close(self) -> None:
        self.answer.cancel()
        if self._transport is not None:
            self._transport.abort()

    def _take(self, frame: Frame) -> None:
        if frame.kind == frames.SETTINGS and not frame.flags & ACK and self._transport is not None:
            self._transport.write(frames.frame(frames.SETTINGS, ACK, 0))
        elif frame.kind == frames.DATA:
            self._message = (self._message + frames.content(frame))[:_LONGEST]
        elif frame.kind == frames.HEADERS and frame.flags & END_HEADERS:
            status = answer_of(self._blocks.read(frames.content(frame))).grpc_status
            if status is not None:
                self._tell(self._health(status))
        elif frame.kind == frames.RST_STREAM:
            self._tell(Health.UNREACHABLE)

    def _health(self, status: int) -> Health:
        if status == 0:
            return Health.SERVING if self._message == _SERVING else Health.NOT_SERVING
        return Health.NOT_TOLD if status == _UNIMPLEMENTED else Health.NOT_SERVING

    def _tell(self, health: Health) -> None:
        if not self.answer.done():
            self.answer.set_result(health)
