"""Each kind of upstream, through the whole gateway."""

import asyncio
import contextlib
import gc
import json
import socket
import ssl
import sys
from pathlib import Path

import pytest

from rekeyd.settings import parse_upstream
from rekeyd.trust.certificates import read_anchors
from rekeyd.upstream.connection import UpstreamConnection
from rekeyd.upstream.connectors import ApplicationError, InProcess, load_application, tcp
from rekeyd.upstream.pool import Pool
from rekeyd.upstream.tls import client_context
from support.gateway import API_KEY, stage
from support.pki import Authority, Leaf
from support.wire import END_OF_HEAD, Upstream, answering, ok, request

APPLICATION = """
from aiohttp import web

async def tell(request):
    return web.json_response({"path": request.raw_path, "body": len(await request.read())})

def plain():
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{path:.*}", tell)
    return app

async def later():
    return plain()

made = plain()
number = 5

def broken():
    raise RuntimeError("no database")

def other():
    return object()

def stillborn():
    app = plain()
    async def fail(app):
        raise RuntimeError("no disk")
    app.on_startup.append(fail)
    return app
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with applications."""
    (tmp_path / "applications_of_a_test.py").write_text(APPLICATION)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "applications_of_a_test", raising=False)
    return "applications_of_a_test"


def server_context(tmp_path: Path, leaf: Leaf) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*leaf.write(tmp_path / "upstream"))
    return context


async def test_over_a_unix_socket(tmp_path: Path) -> None:
    upstream = Upstream(answering(ok()))
    await upstream.start(path=str(tmp_path / "up.sock"))
    async with stage(tmp_path, upstream=upstream) as scene:
        client = await scene.client()
        for _ in range(2):
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
        assert len(upstream.links) == 1
        await scene.several(2)


async def test_a_unix_socket_that_is_not_there_is_502(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section={"http": f"unix:{tmp_path}/gone.sock"}) as scene:
        assert (await scene.ask(request(key=API_KEY))).status == 502
        assert "No such file or directory" in (await scene.record())["failure"]


@pytest.mark.skipif(not socket.has_ipv6, reason="there is no IPv6 here")
async def test_over_ipv6(tmp_path: Path) -> None:
    upstream = Upstream(answering(ok()))
    await upstream.start(host="::1")
    async with stage(tmp_path, upstream=upstream, service={"host": "::1"}) as scene:
        answer = await scene.ask(request("GET", "/collections", key=API_KEY))
        assert (answer.status, (await scene.record())["client"]) == (200, "::1")
        assert b"X-Forwarded-For: ::1\r\n" in upstream.heads[0]


async def test_an_http_1_0_client_without_host_reaches_the_upstream_by_its_own_name(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        await scene.ask(f"GET /collections HTTP/1.0\r\napi-key: {API_KEY}\r\n\r\n".encode())
        assert f"Host: 127.0.0.1:{scene.upstream.port}\r\n".encode() in scene.upstream.heads[0]


async def test_over_tls_with_an_authority_of_its_own(tmp_path: Path) -> None:
    authority = Authority()
    authority.write(tmp_path / "upstream-ca.crt")
    upstream = Upstream(answering(ok()))
    await upstream.start(context=server_context(tmp_path, authority.issue("127.0.0.1")))
    async with stage(tmp_path, upstream=upstream, upstream_section={"ca_cert": "upstream-ca.crt"}) as scene:
        client = await scene.client()
        for _ in range(3):
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
        assert len(upstream.links) == 1
        await scene.several(3)


@pytest.mark.parametrize(
    ("names", "trusted", "why"),
    [
        pytest.param(["127.0.0.1"], False, "CERTIFICATE_VERIFY_FAILED", id="an authority nobody named"),
        pytest.param(["127.0.0.1"], None, "CERTIFICATE_VERIFY_FAILED", id="the system's authorities alone"),
        pytest.param(["other.test"], True, "CERTIFICATE_VERIFY_FAILED", id="another name"),
    ],
)
async def test_an_upstream_that_can_not_prove_who_it_is_gets_nothing(
    tmp_path: Path, names: list[str], trusted: bool | None, why: str
) -> None:
    authority = Authority()
    (authority if trusted else Authority()).write(tmp_path / "upstream-ca.crt")
    upstream = Upstream(answering(ok()))
    await upstream.start(context=server_context(tmp_path, authority.issue(*names)))
    section = {} if trusted is None else {"ca_cert": "upstream-ca.crt"}
    async with stage(tmp_path, upstream=upstream, upstream_section=section) as scene:
        assert (await scene.ask(request(key=API_KEY))).status == 502
        assert why in (await scene.record())["failure"]
        assert scene.events("upstream.failed")[0]["cause"] == "tls"
        assert upstream.heads == []


async def test_a_slow_client_gets_all_that_an_upstream_said_over_tls_before_it_left(tmp_path: Path) -> None:
    """uvloop's own TLS drops what it has read and nobody took yet when the other end closes.

    The upstream is a thread, since a server in this loop would wait for our close_notify before it leaves.
    """
    authority = Authority()
    authority.write(tmp_path / "upstream-ca.crt")
    context = server_context(tmp_path, authority.issue("127.0.0.1"))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        section = {"http": f"https://127.0.0.1:{listening.getsockname()[1]}", "ca_cert": "upstream-ca.crt"}
        async with stage(tmp_path, upstream_section=section) as scene:
            client = await scene.client(buffer=4096)
            client.transport.pause_reading()
            client.send(request(key=API_KEY))
            upstream = await asyncio.to_thread(asked, listening, context)
            (connection,) = scene.pools._open.pool._lent  # type: ignore[union-attr]
            sent = 0
            while connection._reading:
                await asyncio.to_thread(upstream.sendall, b"a" * 0x4000)
                sent += 0x4000
            await asyncio.to_thread(upstream.sendall, b"b" * 100_000)
            await asyncio.to_thread(leave, upstream)
            await asyncio.sleep(0.1)  # that all of it is here is told by nobody: it is not taken
            client.transport.resume_reading()
            answer = await client.answer()
            assert answer.whole
            assert answer.body == b"a" * sent + b"b" * 100_000
            assert "failure" not in await scene.record()


def asked(listening: socket.socket, context: ssl.SSLContext) -> ssl.SSLSocket:
    """A connection on which a request came, and the head of an answer went that ends with it."""
    sock, _ = listening.accept()
    tls = context.wrap_socket(sock, server_side=True)
    while not tls.recv(65536).endswith(END_OF_HEAD):
        pass
    tls.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    return tls


def leave(upstream: ssl.SSLSocket) -> None:
    """Say that it was all, and go."""
    upstream.settimeout(0)
    with contextlib.suppress(ssl.SSLWantReadError):  # ours is said: for the other's it is not waited
        upstream.unwrap()
    upstream.close()


async def test_a_connection_that_waits_for_a_request_is_closed_in_order(tmp_path: Path) -> None:
    """With close_notify: else an upstream takes it for one that broke, and many log that."""
    authority = Authority()
    context = server_context(tmp_path, authority.issue("127.0.0.1"))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> bytes:
            sock, _ = listening.accept()
            with context.wrap_socket(sock, server_side=True, suppress_ragged_eofs=False) as tls:
                return tls.recv(1)

        serving = asyncio.create_task(asyncio.to_thread(serve))
        address = parse_upstream(f"https://127.0.0.1:{listening.getsockname()[1]}")
        trust = client_context(read_anchors(authority.pem), "http/1.1")
        pool = Pool(tcp(address, trust), connect_timeout=5)
        pool.release(await pool.acquire())
        pool.close()
        assert await serving == b""


async def test_an_upstream_that_speaks_no_tls_where_it_should_is_502(tmp_path: Path) -> None:
    upstream = Upstream(answering(ok()))
    await upstream.start()
    section = {"http": f"https://127.0.0.1:{upstream.port}"}
    async with stage(tmp_path, upstream=upstream, upstream_section=section) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link = await upstream.link()
        link.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        assert (await client.answer()).status == 502
        assert scene.events("upstream.failed")[0]["cause"] == "tls"
        await scene.record()


@pytest.mark.parametrize("name", ["plain", "later", "made"])
async def test_an_application_in_this_process(tmp_path: Path, module: str, name: str) -> None:
    async with stage(tmp_path, upstream_section={"http": f"app:{module}:{name}"}) as scene:
        client = await scene.client()
        for size in (3, 5_000_000):
            client.send(request("PUT", "/collections/a?b", key=API_KEY, body=b"x" * size))
            answer = await client.answer()
            assert json.loads(answer.body) == {"path": "/collections/a?b", "body": size}
        assert scene.upstream.links == []
        await scene.several(2)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("missing", "AttributeError"),
        ("broken", "RuntimeError: no database"),
        ("other", "makes no aiohttp.web.Application"),
        ("number", "makes no aiohttp.web.Application"),
    ],
)
async def test_an_application_that_can_not_be_had_is_told_with_the_reason(
    module: str, name: str, why: str
) -> None:
    with pytest.raises(ApplicationError, match=rf"^app:{module}:{name} ") as caught:
        await load_application(f"{module}:{name}")
    assert why in str(caught.value)


async def test_a_module_that_is_not_there_is_told_with_its_name() -> None:
    with pytest.raises(ApplicationError, match="No module named 'no_such_module'"):
        await load_application("no_such_module:factory")


async def test_an_application_that_does_not_start_is_told_with_the_reason(module: str) -> None:
    with pytest.raises(ApplicationError, match="does not start: RuntimeError: no disk"):
        await InProcess(await load_application(f"{module}:stillborn")).start()


@pytest.mark.parametrize("name", ["missing", "broken", "stillborn"])
async def test_a_request_for_an_application_that_can_not_be_had_is_502(
    tmp_path: Path, module: str, name: str
) -> None:
    async with stage(tmp_path, upstream_section={"http": f"app:{module}:{name}"}) as scene:
        assert (await scene.ask(request(key=API_KEY))).status == 502
        assert (await scene.record())["status"] == 502
        assert scene.events("upstream.failed")[0]["cause"] == "application"


async def test_a_connection_to_an_application_that_fails_leaves_no_socket(module: str) -> None:
    application = InProcess(await load_application(f"{module}:plain"))
    await application.start()

    def fail() -> UpstreamConnection:
        raise RuntimeError("no memory")

    with pytest.raises(RuntimeError):
        await application.connect(fail)
    await application.stop()
    gc.collect()  # a socket that is left open warns, and a warning fails the test


async def test_an_application_that_has_stopped_takes_no_connections(module: str) -> None:
    application = InProcess(await load_application(f"{module}:plain"))
    with pytest.raises(ConnectionRefusedError):
        await application.connect(lambda: pytest.fail("nobody is there"))
