"""Whom rekeyd believes behind it: the TLS side of an upstream, the same for HTTP and gRPC.

The event loop's own TLS isn't used: uvloop's drops what nobody took yet when the other end closes, and a slow
client would get half an answer.

Must not know: what is asked of the upstream.
"""

import asyncio
import ssl

from rekeyd.settings import UpstreamAddress
from rekeyd.system import tls_stream
from rekeyd.system.error_queue import tidy
from rekeyd.trust.certificates import Anchors


def client_context(anchors: Anchors | None, protocol: str) -> ssl.SSLContext:
    """For connections to the upstream that speak `protocol` ("http/1.1" or "h2", RFC 7301).

    Trusts the system's trust anchors, or those of `upstream.ca_cert` alone. Reading the system's takes
    tens of milliseconds.
    """
    context = ssl.create_default_context(cadata=anchors.der if anchors else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols([protocol])
    return tidy(context)


async def connect(
    factory: tls_stream.Factory, address: UpstreamAddress, trust: ssl.SSLContext
) -> tuple[asyncio.Transport, asyncio.Protocol]:
    """A connection to a service whose certificate names `address.host`, with the protocol that is made.

    Raises:
        OSError: nobody answers there, or the handshake fails: then ssl.SSLError.
    """
    host, port = address.host, address.port
    try:
        return await tls_stream.connect(factory, host, port, trust, within=None, server_name=host)
    except tls_stream.HandshakeFailedError as failed:
        raise failed.cause from None
