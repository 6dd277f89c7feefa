"""What both lanes ask of the transport of a client's connection: its bounds, and how to break off visibly.

Must not know: which lane a connection is in.
"""

import asyncio
import contextlib
import socket
import struct
from typing import Any

HIGH_WATER = 64 * 1024
"""Bytes that wait for a client that does not read."""
LINGER = 5.0
"""Seconds for which a refused body is read and thrown away: so the client sees the answer, not a reset."""
FLUSH_LOOKS = 0.05
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)


def break_off(wire: asyncio.Transport, sock: Any) -> None:
    """End the connection so that the client can tell (RST, no close_notify).

    `sock` is not asked of the wire now: one under TLS that was closed twice has forgotten what it is made of.
    """
    if sock is not None and sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError, ValueError):  # it is closed already
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    wire.abort()
