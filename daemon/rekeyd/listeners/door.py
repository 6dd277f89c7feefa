"""Where a listening socket lets connections in: accept, TLS handshake, one protocol each.

The rules: every connection gets the TLS context of the generation that is current when it is accepted, and no
other ever; so what a generation forbids is forbidden to the next connection, and a session made under another
generation has no context left to resume in. A handshake is bounded in time, handshakes and connections in
number, and what handshakes compute has its turn with everything else (`handshaking.py`). A failed one is told
once, with its reason and the client's address. Who has been let into the kernel's queue before the door
closes is served.

Must not know: what is spoken inside.
"""

import asyncio
import errno
import socket
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import structlog

from rekeyd.reload.current import Current, Serving
from rekeyd.system.handshaking import Handshakes
from rekeyd.system.peers import address_of
from rekeyd.system.sockets import accepted
from rekeyd.system.tls_stream import HandshakeFailedError
from rekeyd.telemetry.floods import network_of
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.trust.peers import name_of

log = structlog.get_logger()

HANDSHAKES = 0.5
"""The share of all connections that may be in a handshake. Silent ones hold their place for as long as a
handshake may take: a small number of places would be a way to keep everybody out."""
ACCEPTS_AT_ONCE = 16
"""Between two looks at the connections that are open already: a flood of new ones can't starve them."""
_OUT_OF_ROOM = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
_ROOM_AGAIN_AFTER = 0.5
_NOT_LISTENING = frozenset({errno.EBADF, errno.EINVAL})
"""As after shutdown(2) by somebody else who holds the socket."""

ProtocolFactory = Callable[[Serving], asyncio.Protocol]
"""What it makes may have `turned_away`: true where it let nobody in, and told of that itself."""


@dataclass(frozen=True, slots=True)
class Limits:
    """`handshake_timeout` in seconds; `connections` open at once through this door."""

    handshake_timeout: float
    connections: int


class Door:
    """One listening socket. `open` starts accepting, `close` stops it and leaves connections alone.

    `context` picks the one of a generation that is for this door; `framed` is what its protocol is (see
    `TlsConnection`).
    """

    def __init__(  # noqa: PLR0913 - each is named at the call
        self,
        name: str,
        listening: socket.socket,
        *,
        tls: bool,
        current: Current,
        protocol: ProtocolFactory,
        limits: Limits,
        handshakes: HandshakeLog,
        context: Callable[[Serving], ssl.SSLContext | None] = lambda serving: serving.tls,
        framed: bool = True,
    ) -> None:
        self.name = name
        self.tls = tls
        self._listening = listening
        self._current = current
        self._protocol = protocol
        self._limits = limits
        self._handshakes = handshakes
        self._context = context
        self._framed = framed
        self._own: dict[tuple[str, int], asyncio.Event] = {}
        self._shaking = Handshakes(limits.handshake_timeout)
        self._admitting: set[asyncio.Task[None]] = set()
        self._connections = 0
        self.let_in = 0
        """How many clients have been let in so far."""
        self._accepting = False
        self._closed = False
        listening.setblocking(False)

    @property
    def address(self) -> tuple[str, int]:
        host, port, *_ = self._listening.getsockname()
        return host, port

    @property
    def connections(self) -> int:
        """Open connections, those in a handshake included."""
        return self._connections

    @property
    def is_full(self) -> bool:
        """Whether whoever comes now has to wait, because there are as many as there may be."""
        limit = self._limits.connections
        return self._connections >= limit or len(self._shaking) >= max(1, limit * HANDSHAKES)

    def expect_probe(self, address: tuple[str, int], let_in: asyncio.Event | None = None) -> None:
        """The next connection from `address` is our own: how its handshake ends is no client's story.

        `let_in` is set when it has been let in.
        """
        self._own[address] = let_in or asyncio.Event()

    def forget_probe(self, address: tuple[str, int]) -> None:
        """It is not under way any more: whoever comes from that address now is a client."""
        self._own.pop(address, None)

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._accept_on()

    def close(self) -> None:
        """Stop listening. Connections that are in a handshake, or queued for one, go on to be served."""
        while self._accepting and self._accept_some():
            pass
        self._closed = True
        self._accept_off()
        self._listening.close()

    async def closed(self) -> None:
        """Wait for the handshakes that were under way."""
        await self._shaking.over()
        if self._admitting:
            await asyncio.wait(self._admitting)

    def left(self) -> None:
        """A protocol that this door made lost its connection."""
        self._connections -= 1
        self._accept_on()

    def _accept_on(self) -> None:
        if not (self._accepting or self._closed or self.is_full):
            self._accepting = True
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept_off(self) -> None:
        if self._accepting:
            self._accepting = False
            self._loop.remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        self._accept_some()

    def _accept_some(self) -> bool:
        """Take what is queued, `ACCEPTS_AT_ONCE` at most; whether there may be more to take now."""
        for _ in range(ACCEPTS_AT_ONCE):
            if self.is_full:
                self._accept_off()
                return False
            try:
                sock, address = accepted(self._listening)
            except OSError as error:
                if error.errno in _OUT_OF_ROOM:
                    self._no_room(error)
                elif error.errno in _NOT_LISTENING:
                    self._lose(error)
                return False  # else: none is left, or it broke off in the queue (accept(2), "Error handling")
            self._connections += 1
            self._admit(sock, address)
        return True

    def _no_room(self, error: OSError) -> None:
        log.error("listener.exhausted", listener=self.name, error=error.strerror, retry_in=_ROOM_AGAIN_AFTER)
        self._accept_off()
        self._loop.call_later(_ROOM_AGAIN_AFTER, self._accept_on)

    def _lose(self, error: OSError) -> None:
        """Nothing comes here any more; to ask for more would turn in circles."""
        log.critical("listener.lost", listener=self.name, error=error.strerror, fix="Restart the service")
        self._closed = True
        self._accept_off()

    def _admit(self, sock: socket.socket, address: Any) -> None:
        serving = self._current.serving
        context = self._context(serving) if serving is not None and self.tls else None
        if serving is None or (self.tls and context is None):
            sock.close()  # nothing to serve it with: never in plaintext where TLS is asked for
            self.left()
        elif context is None:
            task = self._loop.create_task(self._let_in(serving, sock, address))
            self._admitting.add(task)
            task.add_done_callback(self._let_in_done)
        else:
            self._shake_hands(serving, context, sock, address)

    def _welcome(
        self, guest: asyncio.BaseProtocol | None, ours: asyncio.Event | None, *, shaken: bool
    ) -> None:
        if ours is not None:
            ours.set()
            return
        self.let_in += 1
        if shaken and not getattr(guest, "turned_away", False):
            self._handshakes.succeeded(self.name)

    def _shake_hands(
        self, serving: Serving, context: ssl.SSLContext, sock: socket.socket, address: Any
    ) -> None:
        ours = self._own.pop(tuple(address[:2]), None) if self._own else None
        number = serving.generation.number

        def told(error: Exception | None, guest: asyncio.Protocol | None) -> None:
            if error is None:
                self._welcome(guest, ours, shaken=True)
            else:
                self.left()
                if ours is None:
                    self._tell_of_failure(address, error, number)
            self._accept_on()

        try:
            self._shaking.begin(
                sock,
                address,
                context,
                lambda: self._protocol(serving),
                told,
                framed=self._framed,
                group=network_of(address_of(address)),
            )
        except OSError as error:
            sock.close()
            told(error, None)

    def _tell_of_failure(self, address: Any, error: Exception, number: int) -> None:
        """`peer` is what the client calls itself, where it showed a certificate and the context keeps it."""
        cause, peer = error, None
        if isinstance(error, HandshakeFailedError):
            cause, peer = error.cause, name_of(error.shown)
        self._handshakes.failed(self.name, address_of(address), handshake_reason(cause), number, peer)

    async def _let_in(self, serving: Serving, sock: socket.socket, address: Any) -> None:
        ours = self._own.pop(tuple(address[:2]), None)
        guest = self._protocol(serving)  # of one that has ended already uvloop knows nothing more
        await self._loop.connect_accepted_socket(lambda: guest, sock)
        self._welcome(guest, ours, shaken=False)

    def _let_in_done(self, task: asyncio.Task[None]) -> None:
        self._admitting.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.left()
            log.error("listener.failed", listener=self.name, error=type(error).__name__, exc_info=error)


def handshake_reason(error: Exception) -> str:
    """A short, stable word for why a handshake failed; OpenSSL's own where it gave one."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"client_certificate: {error.verify_message}"
        case ssl.SSLError(reason="CALLBACK_FAILED"):
            return (
                "unrecognized_name"  # the callback that chooses by SNI had none to choose (`tls.strict_sni`)
            )
        case ssl.SSLError(reason=str(reason)):
            return reason.lower()
        case TimeoutError() | ConnectionAbortedError():
            return "timeout"
        case ConnectionError() | ssl.SSLEOFError():
            return "closed_by_client"
        case _:
            return type(error).__name__
