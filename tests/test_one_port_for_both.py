"""HTTP and gRPC come in by one port, each by the protocol that its client agreed on."""

import asyncio
import contextlib
import ssl
from pathlib import Path

from conftest import StartDaemon
from support.generations import API_KEY
from support.grpc_upstream import channel, echo, grpc_upstream
from support.live import Connection, live_site


async def test_both_are_served_and_drained_on_one_port(start_daemon: StartDaemon, tmp_path: Path) -> None:
    async with grpc_upstream() as upstream:
        site = live_site(
            tmp_path, service={"single_port": True}, upstream={"http": "demo", "grpc": upstream.address}
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        assert [each["name"] for each in daemon.started["listeners"]] == ["http"]
        async with (
            channel(daemon.port, site.authority.pem) as grpc,
            Connection.to(daemon, site.authority) as http,
        ):
            assert await echo(grpc) == b"hello"
            assert (await http.ask()).status == 200
            assert await echo(grpc) == b"hello"
        for offered, agreed in (
            (["h2", "http/1.1"], "http/1.1"),
            (["h2"], "h2"),
            (["http/1.1"], "http/1.1"),
            ([], None),
        ):
            context = ssl.create_default_context(cadata=site.authority.pem.decode())
            if offered:
                context.set_alpn_protocols(offered)
            _, writer = await asyncio.open_connection(
                "127.0.0.1", daemon.port, ssl=context, server_hostname="localhost"
            )
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
        assert await daemon.event("auth.allowed", path="/test.Service/Echo", grpc_status=0)
        await daemon.event("auth.allowed", path="/collections", status=200)


async def test_each_port_offers_what_it_speaks(start_daemon: StartDaemon, tmp_path: Path) -> None:
    async with grpc_upstream() as upstream:
        site = live_site(
            tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": upstream.address}
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        context = ssl.create_default_context(cadata=site.authority.pem.decode())
        context.set_alpn_protocols(["h2", "http/1.1"])
        for listener, agreed in (("http", "http/1.1"), ("grpc", "h2")):
            _, writer = await asyncio.open_connection(
                "127.0.0.1", daemon.port_of(listener), ssl=context, server_hostname="localhost"
            )
            assert writer.get_extra_info("ssl_object").selected_alpn_protocol() == agreed
            writer.close()
            with contextlib.suppress(OSError, ssl.SSLError):
                await writer.wait_closed()
