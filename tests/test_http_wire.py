import asyncio
import socket

import pytest

from rekeyd.listeners.http.wire import break_off


async def test_who_is_broken_off_can_tell_it_from_an_end() -> None:
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        ours = socket.create_connection(listening.getsockname())
        theirs, _ = listening.accept()
        theirs.setblocking(False)
        wire, _ = await loop.connect_accepted_socket(asyncio.Protocol, theirs)
        break_off(wire, wire.get_extra_info("socket"))
        ours.setblocking(False)
        with ours, pytest.raises(ConnectionResetError):
            await loop.sock_recv(ours, 1)


async def test_what_is_closed_already_is_no_matter() -> None:
    ours, theirs = socket.socketpair()
    wire, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, theirs)
    break_off(wire, wire.get_extra_info("socket"))
    break_off(wire, None)
    ours.close()
