"""A real gRPC service, grpcio's, that does what its methods' names say; and a client's channel to a gateway.

Messages are bytes as they are: no protobuf is needed to tell whether they pass.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Sequence
from typing import Any

import grpc
import grpc.aio

from support.generations import API_KEY

SERVICE = "test.Service"
HEALTH = "grpc.health.v1.Health"
LARGE = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
Metadata = Sequence[tuple[str, str | bytes]]
KEY: Metadata = (("api-key", API_KEY),)


class GrpcUpstream:
    """What was asked is in `seen`: the method and its metadata."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, dict[str, str | bytes]]] = []
        self.cancelled = asyncio.Event()
        self.held = asyncio.Event()
        self.release = asyncio.Event()
        self.health = b"\x08\x01"
        """The answer of the health check: SERVING."""
        self.port = 0
        self._server: grpc.aio.Server

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    async def start(
        self,
        *,
        at: str = "127.0.0.1:0",
        credentials: grpc.ServerCredentials | None = None,
        options: Any = (),
    ) -> None:
        self._server = grpc.aio.server(
            options=[*LARGE, ("grpc.http2.min_ping_interval_without_data_ms", 1), *options]
        )
        kinds: dict[str, Any] = {
            "Echo": grpc.unary_unary_rpc_method_handler(self._echo),
            "Hold": grpc.unary_unary_rpc_method_handler(self._hold),
            "Fail": grpc.unary_unary_rpc_method_handler(self._fail),
            "Forever": grpc.unary_stream_rpc_method_handler(self._forever),
            "Count": grpc.unary_stream_rpc_method_handler(self._count),
            "Join": grpc.stream_unary_rpc_method_handler(self._join),
            "Talk": grpc.stream_stream_rpc_method_handler(self._talk),
        }
        health: dict[str, Any] = {"Check": grpc.unary_unary_rpc_method_handler(self._check)}
        self._server.add_generic_rpc_handlers(
            [
                grpc.method_handlers_generic_handler(SERVICE, kinds),
                grpc.method_handlers_generic_handler(HEALTH, health),
            ]
        )
        if credentials is None:
            self.port = self._server.add_insecure_port(at)
        else:
            self.port = self._server.add_secure_port(at, credentials)
        await self._server.start()

    async def stop(self, grace: float | None = None) -> None:
        await self._server.stop(grace)

    def _note(self, method: str, context: Any) -> dict[str, str | bytes]:
        metadata = dict(context.invocation_metadata())
        self.seen.append((method, metadata))
        return metadata

    async def _echo(self, request: bytes, context: Any) -> bytes:
        metadata = self._note("Echo", context)
        said = [(k, v) for k, v in metadata.items() if k.startswith("x-say-")]
        await context.send_initial_metadata([("x-first", "head"), *said])
        context.set_trailing_metadata([("x-last", "trailer"), ("x-bin-bin", b"\x00\xff")])
        return request

    async def _hold(self, request: bytes, context: Any) -> bytes:
        self._note("Hold", context)
        self.held.set()
        await self.release.wait()
        return request

    async def _fail(self, request: bytes, context: Any) -> bytes:
        self._note("Fail", context)
        await context.abort(grpc.StatusCode.FAILED_PRECONDITION, request.decode())
        return b""

    async def _forever(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self._note("Forever", context)
        try:
            while True:
                yield request
                await asyncio.sleep(0.02)
        finally:
            self.cancelled.set()

    async def _count(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        self._note("Count", context)
        for number in range(int(request)):
            yield b"%d" % number

    async def _join(self, requests: AsyncIterator[bytes], context: Any) -> bytes:
        self._note("Join", context)
        return b"".join([each async for each in requests])

    async def _talk(self, requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        self._note("Talk", context)
        async for each in requests:
            yield each.upper()

    async def _check(self, _request: bytes, context: Any) -> bytes:
        self._note("Check", context)
        return self.health


@contextlib.asynccontextmanager
async def grpc_upstream(**arguments: Any) -> AsyncIterator[GrpcUpstream]:
    """Started, and stopped at the end."""
    upstream = GrpcUpstream()
    await upstream.start(**arguments)
    try:
        yield upstream
    finally:
        upstream.release.set()
        await upstream.stop()


@contextlib.asynccontextmanager
async def channel(
    port: int, ca: bytes | None = None, *, own: tuple[bytes, bytes] | None = None, options: Any = ()
) -> AsyncIterator[grpc.aio.Channel]:
    """A client's channel; inside TLS that trusts `ca`, with its `own` key and certificate."""
    options = [*LARGE, ("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1), *options]
    if ca is None:
        made = grpc.aio.insecure_channel(f"localhost:{port}", options=options)
    else:
        key, chain = own or (None, None)
        made = grpc.aio.secure_channel(
            f"localhost:{port}", grpc.ssl_channel_credentials(ca, key, chain), options=options
        )
    async with made:
        yield made


async def echo(at: grpc.aio.Channel, message: bytes = b"hello", metadata: Metadata = KEY) -> bytes:
    """One unary call."""
    call: Any = at.unary_unary(f"/{SERVICE}/Echo")
    return bytes(await call(message, metadata=metadata, timeout=15))
