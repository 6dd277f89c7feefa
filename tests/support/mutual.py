"""Contexts of two ends that believe each other's certificate, as peers do."""

import ssl
from pathlib import Path

from rekeyd.system.shown import ShowingContext
from support.pki import Authority, Leaf

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
"""The server's and the client's."""
AUTHORITY = Authority()


def context_of(side: int, leaf: Leaf, folder: Path, trusted: Authority = AUTHORITY) -> ssl.SSLContext:
    context = ShowingContext(side)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.load_cert_chain(*leaf.write(folder))
    context.load_verify_locations(cadata=trusted.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def mutual(folder: Path) -> Contexts:
    """Both ends show the same certificate, of `AUTHORITY`."""
    leaf = AUTHORITY.issue("node.test", peer=True)
    return (
        context_of(ssl.PROTOCOL_TLS_SERVER, leaf, folder),
        context_of(ssl.PROTOCOL_TLS_CLIENT, leaf, folder),
    )
