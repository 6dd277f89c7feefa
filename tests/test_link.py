"""The upstream's end: bytes both ways, and holding on."""

import asyncio

from rekeyd.listeners.grpc.link import HIGH_WATER, Link
from support.waiting import eventually


class Owner:
    def __init__(self) -> None:
        self.said = b""
        self.left: list[str] = []
        self.full: list[bool] = []

    def upstream_said(self, data: bytes) -> None:
        self.said += data

    def upstream_left(self, why: str) -> None:
        self.left.append(why)

    def upstream_full(self, *, full: bool) -> None:
        self.full.append(full)


async def test_bytes_pass_and_the_end_is_told() -> None:
    owner = Owner()
    link = Link(owner)
    accepted: asyncio.Future[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Future()
    server = await asyncio.start_server(lambda *both: accepted.set_result(both), "127.0.0.1", 0)
    link.write(b"nowhere yet")
    link.close()
    async with server:
        port = server.sockets[0].getsockname()[1]
        await asyncio.get_running_loop().create_connection(lambda: link, "127.0.0.1", port)
        reader, writer = await accepted
        link.write(b"hello")
        assert await reader.readexactly(5) == b"hello"
        link.read(on=False)
        writer.write(b"answer")
        await writer.drain()
        link.read(on=True)
        await eventually(lambda: owner.said == b"answer")
        link.write(bytes(50 * HIGH_WATER))
        await eventually(lambda: owner.full == [True])
        await reader.readexactly(50 * HIGH_WATER)
        await eventually(lambda: owner.full == [True, False])
        writer.close()
        await eventually(lambda: owner.left == ["the upstream broke off"])
    link.write(b"too late")
    link.read(on=True)
    link.abort()


async def test_an_upstream_that_takes_nothing_any_more_does_not_keep_its_connection() -> None:
    owner = Owner()
    link = Link(owner)
    accepted: asyncio.Future[asyncio.StreamWriter] = asyncio.Future()
    server = await asyncio.start_server(lambda _, writer: accepted.set_result(writer), "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        await asyncio.get_running_loop().create_connection(lambda: link, "127.0.0.1", port)
        writer = await accepted
        link.write(bytes(200 * HIGH_WATER))
        link.close()
        link.close()
        await eventually(lambda: owner.left == ["the upstream broke off"])
        writer.close()
