"""The life of a client's connection outside of its requests: how it waits, is held to its time, and ends.

What both lanes do alike is in `test_http_protocol.py`; drains are in `test_http_gateway.py`.
"""

import asyncio
import gc
import socket
import struct
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from rekeyd.access.admission import Ask
from rekeyd.access.verdict import Allowed, Denied, Unverified
from rekeyd.trust.generation import Generation
from support.gateway import API_KEY, Scene, stage
from support.waiting import eventually
from support.wire import END_OF_HEAD, Link, ok, request


def hurt_at(scene: Scene, count: int, sock: socket.socket) -> list[Ask]:
    """Have a client break off (RST) at the moment in which its request of that number is judged; what was
    judged."""
    keeper = scene.gateway._desk.gatekeeper
    judge, judged = keeper.judge, list[Ask]()

    def judging(ask: Ask, generation: Generation) -> Allowed | Denied | Unverified:
        judged.append(ask)
        if len(judged) == count:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
        return judge(ask, generation)

    keeper.judge = judging  # type: ignore[method-assign]
    return judged


async def test_who_breaks_off_among_pipelined_requests_makes_no_noise(tmp_path: Path) -> None:
    """asyncio warns of each write to a connection that is lost; leaving the stage looks for that."""
    async with stage(tmp_path) as scene:
        sock = socket.create_connection(("127.0.0.1", scene.port))
        judged = hurt_at(scene, 20, sock)
        sock.sendall(request() * 500)
        await eventually(lambda: len(judged) >= 20, what="the requests")
        await eventually(lambda: scene.door.connections == 0, what="the end of the connection")
        scene.records.clear()


# A client that takes nothing.


async def clogged(scene: Scene, *wishes: str) -> tuple[Link, Link]:
    """A client in the clear that reads nothing, in the middle of an answer of which less than HIGH_WATER
    waits for it, and the upstream's end."""
    client = await scene.client(buffer=4096)
    client.transport.pause_reading()
    client.send(request("GET", "/collections", *wishes, key=API_KEY))
    link, _ = await scene.upstream.request()
    link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
    (guest,) = scene.gateway._guests.open
    assert guest.wire is not None
    while not guest.wire.get_write_buffer_size():
        link.send(b"4000\r\n", b"x" * 0x4000, b"\r\n")
        await asyncio.sleep(0)
    assert not guest.full
    return client, link


@pytest.mark.parametrize("short", [True, False])
async def test_who_takes_nothing_and_begins_a_head_does_not_hold_its_place(
    tmp_path: Path, short: bool
) -> None:
    """A 408 is one more thing that it doesn't take."""
    quick = {"header_timeout": 0.2, "idle_timeout": 20, "stall_timeout": 0.2}
    async with stage(tmp_path, service=quick) as scene:
        scene.gateway.short = short
        client, link = await clogged(scene)
        link.send(b"0\r\n\r\n")
        await scene.record()
        client.send(b"GET / HT")
        await eventually(lambda: scene.door.connections == 0, timeout=3, what="the end of the connection")
        assert (await scene.record())["status"] == 408


async def test_who_takes_nothing_and_says_that_it_is_done_does_not_hold_its_place(tmp_path: Path) -> None:
    """Its FIN closes the connection, as far as the transport is asked, and that waits for the client."""
    quick = {"header_timeout": 20, "idle_timeout": 20, "stall_timeout": 0.2}
    async with stage(tmp_path, service=quick) as scene:
        client, link = await clogged(scene, "Connection: close")
        client.half_close()
        (guest,) = scene.gateway._guests.open
        await eventually(lambda: guest.wire is not None and guest.wire.is_closing(), what="the FIN")
        link.send(b"0\r\n\r\n")
        await scene.record()
        await eventually(lambda: scene.door.connections == 0, timeout=3, what="the end of the connection")


# Time.


async def test_behind_a_head_that_was_late_nothing_is_served(tmp_path: Path) -> None:
    """Not even the end of that head, while the client is slow to take its 408."""
    quick = {"header_timeout": 0.3, "idle_timeout": 20, "stall_timeout": 2}
    async with stage(tmp_path, service=quick) as scene:
        client, link = await clogged(scene)
        link.send(b"0\r\n\r\n")
        await scene.record()
        late = request(key=API_KEY)
        client.send(late[:20])
        assert (await scene.record())["status"] == 408
        client.send(late[20:], late)
        await asyncio.sleep(0.1)
        client.transport.resume_reading()
        assert (await client.answer()).whole
        assert (await client.answer()).status == 408
        assert await client.rest() == b""
        assert scene.records == []
        assert len(scene.upstream.heads) == 1


# What is left of it.


def ours() -> Counter[str]:
    """How many objects of each of our classes there are."""
    kinds = [type(each) for each in gc.get_objects()]
    return Counter(kind.__qualname__ for kind in kinds if str(kind.__module__).startswith("rekeyd."))


async def changing(link: Link) -> None:
    """No head is the same as the last one."""
    for number in range(1000):
        await link.until(END_OF_HEAD, patience=None)
        link.send(ok(b"fine", f"X-Number: {number}"))


async def leave_after(scene: Scene, requests: int, go: Callable[[Link], None]) -> None:
    client = await scene.client()
    for _ in range(requests):
        client.send(request(key=API_KEY))
        await client.answer()
    go(client)
    await eventually(lambda: scene.door.connections == 0, what="the end of the connection")


@pytest.mark.parametrize("go", [Link.close, Link.reset, lambda link: link.send(request(key=API_KEY)[:20])])
@pytest.mark.parametrize("tls", [False, True])
async def test_nothing_of_a_connection_waits_for_the_garbage_collector(
    tmp_path: Path, tls: bool, go: Callable[[Link], None]
) -> None:
    """It comes the more rarely the more there is, and does not know what OpenSSL holds."""
    async with stage(tmp_path, changing, tls=tls, service={"header_timeout": 0.1}) as scene:
        await leave_after(scene, 3, go)
        gc.collect()
        gc.disable()
        try:
            before = ours()
            for _ in range(3):
                await leave_after(scene, 3, go)
            await asyncio.sleep(0)
            assert ours() - before == Counter()
        finally:
            gc.enable()
        scene.records.clear()
