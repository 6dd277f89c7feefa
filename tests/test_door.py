"""Accepting, shaking hands, and who gets the context of which generation."""

import asyncio
import contextlib
import gc
import socket
import ssl
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.listeners.http.lane import Lane
from rekeyd.reload.current import Serving
from rekeyd.system.socket_transport import SocketTransport
from rekeyd.system.sockets import bind
from rekeyd.system.tls_stream import TlsConnection
from support.gateway import API_KEY, Scene, stage
from support.waiting import eventually
from support.wire import Link, answering, connect, ok, request

FAILED = "tls.handshake_failed"


async def raw(scene: Scene) -> Link:
    """A TCP connection that doesn't speak TLS."""
    return await connect("127.0.0.1", scene.port)


def shown(link: Link) -> bytes:
    """The certificate that the gateway showed."""
    tls: ssl.SSLObject = link.transport.get_extra_info("ssl_object")
    der = tls.getpeercert(binary_form=True)
    assert der is not None
    return der


# Generations.


async def test_a_new_connection_gets_the_certificate_of_the_moment_and_an_open_one_keeps_its_own(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        old = await scene.client()
        assert scene.leaf is not None
        assert shown(old) == scene.leaf.der
        scene.publish(rotate=True)
        new = await scene.client()
        assert shown(new) == scene.leaf.der != shown(old)
        for client in (old, new):
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
        await scene.several(2)


async def test_a_client_certificate_that_becomes_required_is_enforced_for_the_next_connection(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        assert scene.authority is not None
        scene.authority.write(tmp_path / "ca.crt")
        for required, welcome in ((False, True), ("optional", True), (True, False), (False, True)):
            scene.publish(service={"verify_https_client_certificate": required}, tls={"ca_cert": "ca.crt"})
            client = await scene.client()
            client.send(request(key=API_KEY))
            if welcome:
                assert (await client.answer()).status == 200
            else:
                assert await client.rest() == b""
        (failure,) = scene.events(FAILED)
        assert failure["reason"] == "peer_did_not_return_a_certificate"
        with_one = scene.context()
        assert with_one is not None
        with_one.load_cert_chain(*scene.authority.issue("client", client=True).write(tmp_path / "client"))
        scene.publish(service={"verify_https_client_certificate": True})
        client = await scene.client(with_one)
        client.send(request(key=API_KEY))
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
async def test_a_session_of_an_earlier_generation_never_resumes(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        context = scene.context()
        assert context is not None
        context.maximum_version = version

        def visit(session: ssl.SSLSession | None) -> tuple[bool | None, ssl.SSLSession | None]:
            with (
                socket.create_connection(("127.0.0.1", scene.port)) as sock,
                context.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
            ):
                tls.sendall(request("GET", "/collections", "Connection: close", key=API_KEY))
                while tls.recv(65536):
                    pass
                return tls.session_reused, tls.session

        reused, session = await asyncio.to_thread(visit, None)
        assert not reused
        assert (await asyncio.to_thread(visit, session))[0]
        scene.publish()
        assert not (await asyncio.to_thread(visit, session))[0]
        await scene.several(3)


async def swapped(tmp_path: Path, swaps: int) -> tuple[int, int]:
    """Rotate while clients come and stay; how many came anew, and how many requests were answered."""
    counts, over = [0, 0], asyncio.Event()

    async def stay(scene: Scene) -> None:
        client = await scene.client()
        while not over.is_set():
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
            counts[1] += 1

    async def come(scene: Scene) -> None:
        while not over.is_set():
            client = await scene.client()
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
            client.close()
            await client.closed()
            scene.forget(client)
            counts[0] += 1

    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        servings = scene.prepared(swaps)
        async with asyncio.TaskGroup() as group:
            for visit in [stay] * 3 + [come] * 3:
                group.create_task(visit(scene))
            for serving in servings:
                scene.current.publish(serving)
                await asyncio.sleep(0.005)
            last = await scene.client()
            over.set()
        server = servings[-1].generation.default
        assert server is not None
        assert shown(last) == server.leaf.der
        assert scene.events(FAILED) == []
        scene.records.clear()
    return counts[0], counts[1]


async def test_no_request_fails_while_generations_are_swapped(tmp_path: Path) -> None:
    came, answered = await swapped(tmp_path, 100)
    assert came > 20
    assert answered > 100


@pytest.mark.soak
@pytest.mark.timeout(300)
async def test_no_request_fails_while_a_thousand_generations_are_swapped(tmp_path: Path) -> None:
    came, answered = await swapped(tmp_path, 1000)
    assert came > 200
    assert answered > 1000


# Handshakes that fail.


async def offer(scene: Scene, change: Callable[[ssl.SSLContext], None]) -> None:
    """A client's handshake with a context that won't do."""
    context = scene.context()
    assert context is not None
    change(context)
    with contextlib.suppress(ssl.SSLError, ConnectionError):
        await scene.client(context)


def only_tls_1_1(context: ssl.SSLContext) -> None:
    context.set_ciphers("ALL:@SECLEVEL=0")
    with warnings.catch_warnings(action="ignore"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1


def no_shared_cipher(context: ssl.SSLContext) -> None:
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers("ECDHE-ECDSA-AES256-SHA384:AES128-SHA")


@pytest.mark.parametrize(
    ("change", "reason"),
    [(only_tls_1_1, "unsupported_protocol"), (no_shared_cipher, "no_shared_cipher")],
)
async def test_a_handshake_that_can_not_be_is_told_once_with_its_reason(
    tmp_path: Path, change: Callable[[ssl.SSLContext], None], reason: str
) -> None:
    async with stage(tmp_path, tls=True) as scene:
        await offer(scene, change)
        await eventually(lambda: scene.events(FAILED))
        (line,) = scene.events(FAILED)
        assert (line["log_level"], line["client"], line["reason"]) == ("warning", "127.0.0.1", reason)
        assert (line["listener"], line["generation"]) == ("http", 1)
        await eventually(lambda: scene.door.connections == 0)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(request(key=API_KEY), "http_request", id="plaintext"),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "wrong_version_number", id="another protocol"),
    ],
)
async def test_what_is_no_tls_is_told_once_and_gets_nothing(tmp_path: Path, data: bytes, reason: str) -> None:
    async with stage(tmp_path, tls=True) as scene:
        client = await raw(scene)
        client.send(data)
        assert not (await client.rest()).startswith(b"HTTP/")
        (line,) = scene.events(FAILED)
        assert (line["client"], line["reason"]) == ("127.0.0.1", reason)
        assert API_KEY not in str(scene.told)
        client.close()


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_a_client_that_leaves_in_its_handshake_is_told_once(
    tmp_path: Path, said: bytes, how: str
) -> None:
    async with stage(tmp_path, tls=True) as scene:
        client = await raw(scene)
        client.send(said)
        await eventually(lambda: scene.door.connections == 1)
        await asyncio.sleep(0.02)
        getattr(client, how)()
        await eventually(lambda: scene.door.connections == 0)
        (line,) = scene.events(FAILED)
        assert line["reason"] == "closed_by_client"


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01"])
async def test_a_handshake_that_takes_too_long_is_ended(tmp_path: Path, said: bytes) -> None:
    async with stage(tmp_path, tls=True, service={"handshake_timeout": 0.2}) as scene:
        client, began = await raw(scene), time.monotonic()
        client.send(said)
        assert await client.rest() == b""
        assert 0.1 < time.monotonic() - began < 2
        await eventually(lambda: scene.events(FAILED))
        assert scene.events(FAILED)[0]["reason"] == "timeout"
        assert scene.door.connections == 0
        client.close()


async def test_silent_handshakes_do_not_keep_others_out(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        silent = [await raw(scene) for _ in range(400)]
        async with asyncio.timeout(3):
            assert (await scene.ask(request(key=API_KEY))).status == 200
        for link in silent:
            link.abort()
        await scene.record()


async def test_without_a_context_there_is_no_plaintext_in_its_place(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        generation = scene.current.generation
        assert generation is not None
        scene.current.serving = Serving(generation, None)
        client = await raw(scene)
        client.send(request(key=API_KEY))
        assert await client.rest() == b""
        await eventually(lambda: scene.door.connections == 0)
        client.close()


def of_connections() -> int:
    """How many objects there are of which a connection with the gateway has one each."""
    return sum(type(each) in {Lane, TlsConnection, SocketTransport} for each in gc.get_objects())


async def test_a_connection_that_is_over_leaves_nothing_for_the_garbage_collector(tmp_path: Path) -> None:
    """What TLS keeps for each is tens of kilobytes."""
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        gc.collect()
        gc.disable()
        try:
            before = of_connections()
            assert (await scene.ask(request(key=API_KEY))).status == 200
            client = await scene.client()
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
            assert of_connections() > before
            client.close()
            await eventually(lambda: scene.door.connections == 0)
            await eventually(lambda: of_connections() == before)
        finally:
            gc.enable()
        await scene.several(2)


# A flood.


def client_hello(context: ssl.SSLContext) -> bytes:
    """What a client says first."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with contextlib.suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def test_a_flood_of_handshakes_keeps_neither_requests_nor_another_network_waiting(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        context = scene.context()
        assert context is not None
        open_before, hello = await scene.client(), client_hello(context)
        flood = [await raw(scene) for _ in range(200)]
        for link in flood:
            link.send(hello)
        open_before.send(request(key=API_KEY))
        newcomer, _ = await asyncio.get_running_loop().create_connection(
            asyncio.Protocol,
            "127.0.0.1",
            scene.port,
            ssl=context,
            server_hostname="localhost",
            local_addr=("127.0.0.2", 0),
        )
        served_before = sum(1 for link in flood if link.received)
        assert (await open_before.answer()).status == 200
        assert served_before < len(flood)
        await eventually(lambda: all(link.received for link in flood), what="the flood's own turn")
        newcomer.abort()
        for link in flood:
            link.abort()
        await scene.record()


# How many.


@pytest.mark.parametrize("tls", [False, True])
async def test_who_comes_when_all_places_are_taken_waits_until_one_is_free(tmp_path: Path, tls: bool) -> None:
    async with stage(tmp_path, answering(ok()), tls=tls, service={"max_connections": 2}) as scene:
        first, second = await scene.client(), await scene.client()
        waiting = asyncio.create_task(scene.ask(request(key=API_KEY)))
        for client in (first, second):
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
        done, _ = await asyncio.wait({waiting}, timeout=0.1)
        assert not done
        assert scene.door.connections == 2
        first.close()
        assert (await waiting).status == 200
        await scene.several(3)


async def test_many_who_wait_are_all_served_in_turn(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), service={"max_connections": 3}) as scene:
        asks = [
            scene.ask(request("GET", "/collections", "Connection: close", key=API_KEY)) for _ in range(60)
        ]
        assert {answer.status for answer in await asyncio.gather(*asks)} == {200}
        await scene.several(60)


async def test_those_who_were_queued_when_the_door_closed_are_served(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        port = scene.port
        with contextlib.ExitStack() as stack:
            queued = [
                stack.enter_context(socket.create_connection(("127.0.0.1", scene.port))) for _ in range(100)
            ]
            scene.door.close()
            for sock in queued:
                sock.sendall(request("GET", "/collections", "Connection: close", key=API_KEY))
                sock.settimeout(5)
            got = await asyncio.to_thread(lambda: [sock.recv(100) for sock in queued])
        assert all(data.startswith(b"HTTP/1.1 200 OK") for data in got)
        with pytest.raises(ConnectionRefusedError):
            await connect("127.0.0.1", port)
        await scene.several(100)


CROWDED = """
import asyncio, resource, socket
import structlog
from rekeyd.listeners.door import Door, Limits
from rekeyd.system.sockets import bind
from rekeyd.telemetry.handshakes import HandshakeLog

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)
    def connection_lost(self, exc):
        door.left()

class Current:
    class serving:
        tls = None

def note(_logger, _method, event):
    lines.append(event)
    raise structlog.DropEvent

lines = []

async def main():
    global door
    structlog.configure(processors=[note])
    listening = bind("127.0.0.1", 0)
    door = Door("x", listening, tls=False, current=Current, protocol=lambda _: Echo(),
                limits=Limits(1, 10_000), handshakes=HandshakeLog(lambda *a, **k: None))
    door.open()
    clients = [socket.socket() for _ in range(50)]
    for client in clients:
        client.setblocking(False)
        client.connect_ex(listening.getsockname())
        client.send(b"x")
    resource.setrlimit(resource.RLIMIT_NOFILE, (clients[-1].fileno() + 20, 1000))
    await asyncio.sleep(0.2)
    assert door.connections < 50, door.connections
    for client in clients[:25]:
        client.close()
    loop = asyncio.get_running_loop()
    for client in clients[25:]:
        assert await asyncio.wait_for(loop.sock_recv(client, 1), 5) == b"x"
    assert lines and {line["event"] for line in lines} == {"listener.exhausted"}, lines
    assert len(lines) < 10, lines

asyncio.run(main())
print("served")
"""


def test_accepting_goes_on_after_descriptors_ran_out() -> None:
    daemon = Path(__file__).parents[1] / "daemon"
    child = subprocess.run(
        [sys.executable, "-c", CROWDED],
        env={"PYTHONPATH": str(daemon)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (child.stdout, child.stderr) == ("served\n", "")


# Addresses.


def test_the_wildcard_for_ipv6_takes_ipv4_too_and_an_address_is_only_itself() -> None:
    with bind("::", 0) as both:
        port = both.getsockname()[1]
        socket.create_connection(("127.0.0.1", port)).close()
        socket.create_connection(("::1", port)).close()
    with bind("127.0.0.1", 0) as one, pytest.raises(OSError, match="in use"):
        bind("127.0.0.1", one.getsockname()[1])


async def test_a_socket_that_somebody_else_ended_is_told_of_once_and_asked_no_more(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        structlog.reset_defaults()
        with capture_logs() as logs:
            scene.door._listening.shutdown(socket.SHUT_RDWR)
            await eventually(lambda: logs)
            scene.door._accept_on()
            await asyncio.sleep(0.05)
        assert [(line["event"], line["log_level"]) for line in logs] == [("listener.lost", "critical")]
