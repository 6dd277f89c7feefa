"""What a client may send after a sound handshake that no library sends: torn messages, and floods of them."""

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from rekeyd.system.tls_session import SILENT
from support.gateway import API_KEY, Scene, stage
from support.records import DATA, HANDSHAKE, KEY_UPDATE, Crafted
from support.waiting import eventually
from support.wire import answering, ok, request

TORN = KEY_UPDATE[:4]
"""Until the rest comes OpenSSL is in the middle of a handshake, in which it neither writes nor shuts down."""


async def come(scene: Scene) -> Crafted:
    context = scene.context()
    assert context is not None
    return await asyncio.to_thread(Crafted.connect, scene.port, context)


async def send(client: Crafted, data: bytes) -> None:
    await asyncio.to_thread(client.sock.sendall, data)


async def end_of(client: Crafted) -> str:
    """How the server ended it: by FIN or by RST."""

    def read() -> str:
        try:
            while client.sock.recv(65536):
                pass
        except ConnectionResetError:
            return "reset"
        return "end"

    with client.sock:
        return await asyncio.to_thread(read)


@pytest.mark.parametrize("torn", [TORN, KEY_UPDATE[:1]], ids=["header", "byte"])
async def test_who_leaves_with_a_torn_message_is_gone(tmp_path: Path, torn: bytes) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        client = await come(scene)
        await send(client, client.record(HANDSHAKE, torn))
        client.sock.shutdown(socket.SHUT_WR)
        await end_of(client)
        await eventually(lambda: scene.door.connections == 0, what="its end")


async def test_a_torn_message_does_not_hold_up_a_drain(tmp_path: Path) -> None:
    """It's closed while it's idle, among others."""
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        clients = [await come(scene) for _ in range(3)]
        for client in clients:
            await send(client, client.record(DATA, request(key=API_KEY)))
            await scene.record()
            await send(client, client.record(HANDSHAKE, TORN))
        assert await scene.gateway.drain(5) == 0
        assert [await end_of(client) for client in clients] == ["reset"] * 3


async def test_an_answer_that_a_torn_message_stops_is_broken_off(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        client = await come(scene)
        await send(client, client.record(DATA, request(key=API_KEY)) + client.record(HANDSHAKE, TORN))
        assert await end_of(client) == "reset"
        await scene.record()


def asking(client: Crafted) -> bytes:
    return client.key_update()


def not_asking(client: Crafted) -> bytes:
    return client.key_update(ask=False)


@pytest.mark.parametrize("update", [asking, not_asking])
async def test_keys_may_change_but_not_without_end(
    tmp_path: Path, update: Callable[[Crafted], bytes]
) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        client = await come(scene)
        await send(client, b"".join(update(client) for _ in range(SILENT)))
        await send(client, client.record(DATA, request(key=API_KEY)))
        assert (await scene.record())["status"] == 200
        await send(client, b"".join(update(client) for _ in range(SILENT)))
        assert await end_of(client) == "reset"
