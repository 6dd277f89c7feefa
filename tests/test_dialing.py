"""A name with several addresses is connected to by the first that answers."""

import asyncio
import socket
from typing import Any

import pytest

from rekeyd.system.dialing import dial
from support.wire import Link


async def test_an_address_that_refuses_leads_to_the_next(monkeypatch: pytest.MonkeyPatch) -> None:
    arrived: asyncio.Queue[Link] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Link(arrived.put_nowait), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]

    async def addresses(*_asked: Any, **_named: Any) -> list[Any]:
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in ("127.0.0.9", "127.0.0.1")
        ]

    monkeypatch.setattr("asyncio.get_running_loop", lambda: _Named(loop, addresses))
    link = Link()
    assert await dial(lambda: link, "service.test", port) is link
    monkeypatch.undo()
    far = await arrived.get()
    far.send(b"welcome")
    assert await link.take(7) == b"welcome"
    for end in (link, far):
        end.abort()
        await end.closed()
    await asyncio.sleep(0)  # asyncio closes the socket behind what it has told
    server.close()


async def test_nobody_there_is_an_error_of_the_system() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        await dial(Link, "127.0.0.1", port)


class _Named:
    """The loop, which resolves names otherwise."""

    def __init__(self, loop: asyncio.AbstractEventLoop, getaddrinfo: Any) -> None:
        self._loop = loop
        self.getaddrinfo = getaddrinfo

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)
