"""Which upstream is believed, over a real connection."""

import asyncio
import ssl
from pathlib import Path

import pytest

from rekeyd.system.error_queue import TidyObject
from rekeyd.trust.certificates import Anchors, read_anchors
from rekeyd.upstream.tls import client_context
from support.pki import Authority

CA = Authority()


def served(folder: Path, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*CA.issue(name).write(folder))
    context.set_alpn_protocols(["http/1.1", "h2"])
    return context


async def connection_of(server: ssl.SSLContext, client: ssl.SSLContext) -> ssl.SSLObject:
    """What a client has in hand after its handshake, for which it asked for `localhost`."""
    async with await asyncio.start_server(
        lambda _, writer: writer.close(), "127.0.0.1", 0, ssl=server
    ) as there:
        port = there.sockets[0].getsockname()[1]
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=client, server_hostname="localhost")
        held: ssl.SSLObject = writer.get_extra_info("ssl_object")
        writer.transport.abort()
        return held


@pytest.mark.parametrize("protocol", ["http/1.1", "h2"])
async def test_the_given_anchors_are_believed_and_the_protocol_agreed_on(
    tmp_path: Path, protocol: str
) -> None:
    client = client_context(read_anchors(CA.pem), protocol)

    connection = await connection_of(served(tmp_path, "localhost"), client)

    assert connection.selected_alpn_protocol() == protocol
    assert isinstance(connection, TidyObject)


@pytest.mark.parametrize("anchors", [None, read_anchors(Authority("another").pem)], ids=["system", "another"])
async def test_nobody_else_is(tmp_path: Path, anchors: Anchors | None) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate"):
        await connection_of(served(tmp_path, "localhost"), client_context(anchors, "h2"))


async def test_the_name_has_to_be_the_one_that_was_asked_for(tmp_path: Path) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await connection_of(served(tmp_path, "other.test"), client_context(read_anchors(CA.pem), "h2"))


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion.TLSv1:DeprecationWarning")
async def test_what_is_older_than_tls_1_2_is_not_spoken(tmp_path: Path) -> None:
    server = served(tmp_path, "localhost")
    server.set_ciphers("ALL:@SECLEVEL=0")
    server.minimum_version, server.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1

    with pytest.raises((ssl.SSLError, ConnectionResetError)):  # who of the two ends it is not said
        await connection_of(server, client_context(read_anchors(CA.pem), "h2"))
