"""How to open a connection of HTTP/2 to the gRPC side of the upstream.

The rules: each client has a connection of its own there; inside TLS the certificate must name the host, and
HTTP/2 must be agreed on (RFC 9113, 3.2). Must not know: what is said on it.
"""

import asyncio
import ssl
from collections.abc import Callable

from rekeyd.settings import UpstreamAddress
from rekeyd.trust.certificates import Anchors
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError, UpstreamTimeoutError
from rekeyd.upstream.tls import client_context, connect

ProtocolFactory = Callable[[], asyncio.Protocol]


class GrpcDialer:
    """Dials the gRPC upstream of a generation."""

    def __init__(self) -> None:
        self._trust: tuple[Anchors | None, ssl.SSLContext] | None = None

    async def dial(self, generation: Generation, factory: ProtocolFactory) -> asyncio.Transport:
        """A connection, with the protocol that the factory makes.

        Raises:
            UpstreamError: there is none to be had (`cause`: `none`, `connect`, `tls`).
            UpstreamTimeoutError: not within `upstream.connect_timeout`.
        """
        settings = generation.settings.upstream
        if settings.grpc is None:
            raise UpstreamError("none", "no gRPC upstream is configured")
        try:
            async with asyncio.timeout(settings.connect_timeout):
                return await self._open(settings.grpc, generation.upstream_anchors, factory)
        except TimeoutError:
            raise UpstreamTimeoutError(
                "timeout", f"the gRPC upstream took no connection within {settings.connect_timeout:g} s"
            ) from None
        except ssl.SSLError as error:
            reason = error.reason or type(error).__name__
            raise UpstreamError("tls", f"no TLS with the gRPC upstream: {reason}") from error
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise UpstreamError("connect", f"the gRPC upstream can't be reached: {reason}") from error

    async def _open(
        self, address: UpstreamAddress, anchors: Anchors | None, factory: ProtocolFactory
    ) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        if address.scheme == "unix":
            transport, _ = await loop.create_unix_connection(factory, address.path)
            return transport
        if address.scheme != "https":
            transport, _ = await loop.create_connection(factory, address.host, address.port)
            return transport
        transport, _ = await connect(factory, address, await self._trusting(anchors))
        if transport.get_extra_info("ssl_object").selected_alpn_protocol() != "h2":
            transport.abort()
            raise UpstreamError("tls", "the gRPC upstream does not agree on HTTP/2")
        return transport

    async def _trusting(self, anchors: Anchors | None) -> ssl.SSLContext:
        """Made once for the same anchors, in a thread: to read the system's takes tens of milliseconds."""
        if self._trust is None or self._trust[0] != anchors:
            self._trust = anchors, await asyncio.to_thread(client_context, anchors, "h2")
        return self._trust[1]
