"""Whom rekeyd believes behind it: the TLS side of an upstream, the same for HTTP and gRPC.

Must not know: what is asked of the upstream.
"""

import ssl

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
