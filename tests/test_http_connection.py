"""The life of a client's connection outside of its requests: how it waits, is held to its time, and ends.

What both lanes do alike is in `test_http_protocol.py`; drains are in `test_http_gateway.py`.
"""

import socket
import struct
from pathlib import Path

from rekeyd.access.admission import Ask
from rekeyd.access.verdict import Allowed, Denied, Unverified
from rekeyd.trust.generation import Generation
from support.gateway import Scene, stage
from support.waiting import eventually
from support.wire import request


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
