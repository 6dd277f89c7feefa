"""Connections to a gRPC upstream: over TCP, TLS and a socket, or why there is none."""

import asyncio
import contextlib
import socket
import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError, UpstreamTimeoutError
from rekeyd.upstream.grpc import GrpcDialer
from support.generations import candidate_of, settings_of
from support.pki import Authority
from support.wire import Link


def leading_to(address: str | None, authority: Authority | None = None) -> Generation:
    settings = settings_of(upstream={"grpc": address, "connect_timeout": 0.3})
    made = candidate_of(settings=settings)
    if authority is not None:
        made = replace(made, upstream_anchors=read_anchors(authority.pem))
    return made.generation(1)


async def cause(address: str | None, authority: Authority | None = None) -> str:
    with pytest.raises(UpstreamError) as caught:
        await GrpcDialer().dial(leading_to(address, authority), asyncio.Protocol)
    return caught.value.cause


async def test_a_socket_file_and_a_port(tmp_path: Path) -> None:
    loop = asyncio.get_running_loop()
    unix = await loop.create_unix_server(asyncio.Protocol, str(tmp_path / "s"))
    tcp = await loop.create_server(asyncio.Protocol, "127.0.0.1", 0)
    async with unix, tcp:
        for address in (f"unix:{tmp_path}/s", f"127.0.0.1:{tcp.sockets[0].getsockname()[1]}"):
            transport = await GrpcDialer().dial(leading_to(address), asyncio.Protocol)
            transport.abort()
    assert await cause(f"unix:{tmp_path}/none") == "connect"
    assert await cause("127.0.0.1:1") == "connect"
    assert await cause(None) == "none"


@pytest.mark.parametrize(
    ("offers", "trusted", "why"), [(["h2"], True, None), ([], True, "tls"), (["h2"], False, "tls")]
)
async def test_tls_needs_a_certificate_and_http2(
    tmp_path: Path, offers: list[str], trusted: bool, why: str | None
) -> None:
    authority = Authority()
    files = authority.issue("localhost").write(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*files)
    if offers:
        context.set_alpn_protocols(offers)
    server = await asyncio.get_running_loop().create_server(asyncio.Protocol, "127.0.0.1", 0, ssl=context)
    async with server:
        address = f"https://localhost:{server.sockets[0].getsockname()[1]}"
        believed = authority if trusted else Authority()
        if why is not None:
            assert await cause(address, believed) == why
            return
        dialer = GrpcDialer()
        for _ in range(2):
            transport = await dialer.dial(leading_to(address, believed), asyncio.Protocol)
            assert transport.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
            transport.abort()


async def test_what_was_said_before_the_end_is_there_for_who_was_not_reading(tmp_path: Path) -> None:
    """uvloop's own TLS drops it. A thread says it: a server in this loop would wait for our close_notify."""
    authority = Authority()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(*authority.issue("localhost").write(tmp_path))
    context.set_alpn_protocols(["h2"])
    with socket.create_server(("127.0.0.1", 0)) as listening:
        serving = asyncio.create_task(asyncio.to_thread(says_all, listening, context))
        address = f"https://localhost:{listening.getsockname()[1]}"
        link = Link()
        transport = await GrpcDialer().dial(leading_to(address, authority), lambda: link)
        transport.pause_reading()
        link.send(b"now")
        await serving
        await asyncio.sleep(0.1)  # that all of it is here is told by nobody: it is not taken
        transport.resume_reading()
        assert await link.take(100_000) == b"a" * 100_000
        await link.closed()


def says_all(listening: socket.socket, context: ssl.SSLContext) -> None:
    """Once it is asked, and goes."""
    sock, _ = listening.accept()
    with context.wrap_socket(sock, server_side=True) as tls:
        assert tls.recv(100) == b"now"
        tls.sendall(b"a" * 100_000)
        tls.settimeout(0)
        with contextlib.suppress(ssl.SSLWantReadError):  # ours is said: for the other's it is not waited
            tls.unwrap()


async def test_who_takes_no_connection_is_too_slow() -> None:
    async def never(*_: object) -> None:
        await asyncio.sleep(60)

    dialer = GrpcDialer()
    dialer._open = never  # type: ignore[method-assign,assignment]
    with pytest.raises(UpstreamTimeoutError):
        await dialer.dial(leading_to("127.0.0.1:1"), asyncio.Protocol)
