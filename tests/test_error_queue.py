"""How one connection ends is no other's business."""

import asyncio
import contextlib
import ssl
from pathlib import Path

import pytest

from rekeyd.reload.probe import reason_against
from rekeyd.system.error_queue import TidyObject, empty, tidy
from support.gateway import API_KEY, stage
from support.peers import cluster
from support.pki import Authority
from support.wire import answering, ok, request

AUTHORITY = Authority()


class Pair:
    """A server and a client in memory, shaken hands."""

    def __init__(self, folder: Path, kind: type[ssl.SSLObject]) -> None:
        server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_cert_chain(*AUTHORITY.issue("node.test").write(folder))
        client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        client.check_hostname = False
        client.verify_mode = ssl.CERT_NONE
        for context in (server, client):
            context.sslobject_class = kind
        self.to_server, self.to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.server = server.wrap_bio(self.to_server, self.to_client, server_side=True)
        self.client = client.wrap_bio(self.to_client, self.to_server)
        for side in (self.client, self.server, self.client, self.server):
            with contextlib.suppress(ssl.SSLWantReadError):
                side.do_handshake()

    def end_with_an_alert(self) -> None:
        """The client ends the session, and gets an alert for an answer: the server was sent nonsense."""
        self.to_server.write(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|DECRYPTION_FAILED"):
            self.server.read(1)
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.unwrap()

    def is_unharmed(self) -> bool:
        with contextlib.suppress(ssl.SSLWantReadError):
            self.client.read(1)  # there is nothing to read
            return False
        return True


def test_a_connection_that_ends_with_an_alert_leaves_the_others_alone(tmp_path: Path) -> None:
    innocent = Pair(tmp_path, TidyObject)
    assert innocent.is_unharmed() or innocent.is_unharmed()  # session tickets come first
    Pair(tmp_path, TidyObject).end_with_an_alert()
    assert innocent.is_unharmed()


def test_it_is_needed(tmp_path: Path) -> None:
    """When this fails, Python empties the queue itself, and the module has had its time."""
    innocent = Pair(tmp_path, ssl.SSLObject)
    assert innocent.is_unharmed() or innocent.is_unharmed()
    Pair(tmp_path, ssl.SSLObject).end_with_an_alert()
    with pytest.raises(ssl.SSLError, match="ALERT"):
        innocent.is_unharmed()
    Pair(tmp_path, ssl.SSLObject).end_with_an_alert()
    empty()
    assert innocent.is_unharmed()


def test_a_context_may_be_made_tidy() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    assert isinstance(tidy(context).wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO()), TidyObject)


async def test_no_client_ends_the_connection_of_another(tmp_path: Path) -> None:
    """An attacker shakes hands, has its connection closed, and answers the end with an alert."""
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        innocent = await scene.client()
        for _ in range(5):
            reader, writer = await asyncio.open_connection("127.0.0.1", scene.port)
            to_us, to_them = ssl.MemoryBIO(), ssl.MemoryBIO()
            context = scene.context()
            assert context is not None
            session = context.wrap_bio(to_us, to_them, server_hostname="localhost")
            while True:
                try:
                    session.do_handshake()
                    break
                except ssl.SSLWantReadError:
                    writer.write(to_them.read())
                    to_us.write(await reader.read(65536))
            session.write(b"no HTTP at all\r\n\r\n")  # answered 400, and closed
            writer.write(to_them.read())
            while True:
                to_us.write(await reader.read(65536))
                with contextlib.suppress(ssl.SSLWantReadError):
                    while session.read(65536):
                        pass
                    break
            to_us.write(b"\x17\x03\x03\x00\x20" + bytes(32))
            with contextlib.suppress(ssl.SSLError):
                session.read(1)
            writer.write(to_them.read())
            await writer.drain()
            writer.close()
            innocent.send(request(key=API_KEY))
            assert (await innocent.answer()).status == 200
        scene.records.clear()


async def test_a_probe_that_a_peer_refuses_breaks_no_tunnel(tmp_path: Path) -> None:
    async with cluster(tmp_path) as (one, two):
        near, far = await one.dial(), await two.service.link()
        for _ in range(5):
            assert two.leaf is not None
            assert await reason_against({two.leaf.fingerprint}, "127.0.0.1", two.port) is None
            near.send(b"ping")
            assert await far.take(4) == b"ping"
            far.send(b"pong")
            assert await near.take(4) == b"pong"
