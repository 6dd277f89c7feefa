"""Connecting to a name that has several addresses.

The rule: one that does not answer within `NEXT_ADDRESS` has the next tried beside it (RFC 8305), on every
event loop; uvloop's own `create_connection` tries them one after the other.

Must not know: what is spoken.
"""

import asyncio
import socket
from collections.abc import Callable
from typing import TypeVar

from aiohappyeyeballs import start_connection

NEXT_ADDRESS = 0.25
"""Seconds after which the next address of a name is tried, beside one that does not answer (RFC 8305, 5)."""


Spoken = TypeVar("Spoken", bound=asyncio.BaseProtocol)


async def dial(factory: Callable[[], Spoken], host: str, port: int) -> Spoken:
    """A connection over TCP, with the protocol that the factory makes.

    Raises:
        OSError: nobody answers there.
    """
    loop = asyncio.get_running_loop()
    addresses = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    connected = await start_connection(addresses, happy_eyeballs_delay=NEXT_ADDRESS, interleave=1)
    try:
        _, protocol = await loop.create_connection(factory, sock=connected)
    except BaseException:
        connected.close()
        raise
    return protocol
