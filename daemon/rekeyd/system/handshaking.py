"""The handshakes that are under way on accepted connections: begun, bounded in time, done a slice at a time.

The rules: no handshake takes longer than `within`; what they compute is done in turns with everything else
on the event loop, and one group of clients (a network) can't make another's wait for more than a piece
(`turns.py`). Must not know: who is let in, or what is told of it.
"""

import asyncio
import socket
import ssl
from collections import OrderedDict
from collections.abc import Callable
from functools import partial
from typing import Any

from rekeyd.system.deadline import EARLY
from rekeyd.system.socket_transport import SocketTransport
from rekeyd.system.tls_session import Session
from rekeyd.system.tls_stream import Factory, TlsConnection
from rekeyd.system.turns import Turns

Told = Callable[[Exception | None, asyncio.Protocol | None], None]
"""What went wrong, or what the factory made."""


class Handshakes:
    """Those of one listener. `within` is in seconds. To be used in a running event loop."""

    def __init__(self, within: float) -> None:
        self._within = within
        self._turns = Turns()
        self._deadlines: OrderedDict[TlsConnection, float] = OrderedDict()
        """In the order of their end."""
        self._timer: asyncio.TimerHandle | None = None
        self._over = asyncio.Event()

    def __len__(self) -> int:
        return len(self._deadlines)

    def begin(
        self,
        sock: socket.socket,
        peername: Any,
        context: ssl.SSLContext,
        factory: Factory,
        told: Told,
        *,
        framed: bool,
        group: str,
    ) -> None:
        """Shake hands as a server on `sock`, non-blocking; `told` hears once what came of it.

        `framed` as for `TlsConnection`; `group` is whose turn each step takes. Raises `OSError` where the
        socket or OpenSSL fails at once.
        """

        def done(error: Exception | None) -> None:
            del self._deadlines[connection]
            if not self._deadlines:
                self._over.set()
            told(error, connection.inside)

        connection = TlsConnection(
            Session(context, server_side=True),
            factory,
            done,
            framed=framed,
            queue=partial(self._turns.add, group),
        )
        SocketTransport(sock, connection, peername)
        loop = asyncio.get_running_loop()
        self._deadlines[connection] = loop.time() + self._within
        if self._timer is None:
            self._timer = loop.call_later(self._within, self._look)

    def _look(self) -> None:
        """End those whose time is over, and come back for the next."""
        loop = asyncio.get_running_loop()
        while self._deadlines:
            connection, deadline = next(iter(self._deadlines.items()))
            if deadline > loop.time() + EARLY:
                self._timer = loop.call_at(deadline, self._look)
                return
            connection.give_up(TimeoutError("the handshake took too long"))
        self._timer = None

    async def over(self) -> None:
        """Wait until none is under way."""
        while self._deadlines:
            self._over.clear()
            await self._over.wait()
