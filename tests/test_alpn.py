"""Which protocol a connection gets is what was agreed on in its handshake."""

import asyncio
import contextlib
import ssl
from pathlib import Path
from typing import Any

import pytest

from rekeyd.listeners.alpn import Chooser
from rekeyd.reload.contexts import GRPC, HTTP, build
from rekeyd.reload.current import Serving
from support.generations import Site, candidate_of
from support.live import trusting


class Named(asyncio.Protocol):
    def __init__(self, name: str, serving: Serving, *, turned_away: bool = False) -> None:
        self.name = name
        self.serving = serving
        self.turned_away = turned_away

    def connection_made(self, transport: Any) -> None:
        transport.write(self.name.encode())

    def data_received(self, data: bytes) -> None:
        raise AssertionError(data)


@pytest.mark.parametrize(
    ("offered", "name"),
    [(["h2"], b"grpc"), (["h2", "http/1.1"], b"http"), (["http/1.1"], b"http"), ([], b"http")],
)
async def test_the_agreed_protocol_is_served(tmp_path: Path, offered: list[str], name: bytes) -> None:
    site = Site(tmp_path)
    serving = Serving(candidate_of(site.leaf).generation(1), None)
    made: list[Chooser] = []

    def chooser() -> Chooser:
        made.append(
            Chooser(
                serving,
                lambda serving: Named("http", serving),
                {"h2": lambda serving: Named("grpc", serving, turned_away=True)},
            )
        )
        return made[-1]

    context = build(serving.generation, HTTP + GRPC)
    server = await asyncio.get_running_loop().create_server(chooser, "127.0.0.1", 0, ssl=context)
    trust = trusting(site.authority)
    if offered:
        trust.set_alpn_protocols(offered)
    async with server:
        port = server.sockets[0].getsockname()[1]
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", port, ssl=trust, server_hostname="localhost"
        )
        assert await reader.readexactly(4) == name
        writer.close()
        with contextlib.suppress(OSError, ssl.SSLError):
            await writer.wait_closed()
    assert made[0].turned_away is (name == b"grpc")
