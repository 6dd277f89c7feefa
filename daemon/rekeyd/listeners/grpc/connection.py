"""One client's connection of gRPC: its exchange, its two transports, its clocks.

The rules: bytes are read from one side only while the other takes them; what has waited in vain for its time
is ended: a head, a frame, an answer, a client or an upstream that does not read, a connection that is idle.
Data that comes although nothing is read (uvloop may deliver some) is dealt with like any other: `http2`
holds it. A call that is allowed rests on its key, in the ledger, until it is over.

Must not know: how a decision is made or told.
"""

import asyncio
import contextlib
import secrets
import socket
import struct
from collections.abc import Callable
from typing import Any, cast

from rekeyd.http2.client_side import ClientSide
from rekeyd.http2.exchange import DEADLINE_EXCEEDED, Exchange
from rekeyd.http2.handling import Deny, Verdict
from rekeyd.http2.heads import Answer
from rekeyd.http2.streams import Stream
from rekeyd.http2.upstream_side import UpstreamSide
from rekeyd.ledger import Entry
from rekeyd.listeners.grpc.host import Host, Timeouts
from rekeyd.listeners.grpc.link import HIGH_WATER, Link
from rekeyd.listeners.grpc.visit import Visit
from rekeyd.system.peers import address_of
from rekeyd.trust.generation import Generation

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)
_CLOSE_GRACE = 2.0
"""Seconds for the client to take what is written when its connection closes."""
_DRAIN_GRACE = 2.0
"""Seconds for the client to acknowledge that no more streams are wanted."""


class GrpcConnection(asyncio.Protocol):
    """A client's connection."""

    def __init__(
        self, host: "Host[GrpcConnection]", generation: Generation, left: Callable[[], None]
    ) -> None:
        self._host = host
        self.left = left
        self.generation = generation
        """The one under which it was accepted."""
        self.entry: Entry | None = None
        self.identity: str | None = None
        self.upstream: Generation | None = None
        """The one by which its connection to the upstream was made."""
        self.peer = "local"
        self.tls: str | None = None
        self.cipher: str | None = None
        self._loop = asyncio.get_running_loop()
        self._exchange = Exchange(self, host.limits, ping=secrets.token_bytes(8))
        self._client = ClientSide(self._exchange, self._loop.time())
        self._upstream = UpstreamSide(self._exchange)
        self._link: Link | None = None
        self._connected = False
        self._left = False
        """Whether the upstream did."""
        self._transport: asyncio.Transport | None = None
        self._socket: Any = None
        self._timers: list[asyncio.TimerHandle] = []
        self._clock: asyncio.TimerHandle | None = None
        self._client_full_since: float | None = None
        self._upstream_full_since: float | None = None
        self._connecting_since: float | None = None
        self._reading = self._reading_upstream = True
        self._ending = False

    # The connection.

    @property
    def turned_away(self) -> bool:
        """Once the handshake is done: whether this client has no place here."""
        return self.entry is None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER)
        self._socket = transport.get_extra_info("socket")
        self.peer = address_of(transport.get_extra_info("peername"))
        tls = transport.get_extra_info("ssl_object")
        if tls is not None:
            self.tls, self.cipher = tls.version(), tls.cipher()[0]
        self._exchange.idle_since = self._loop.time()
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if not self._host.came(self, certificate):
            self.abort()
            return
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        self._transport = None
        for timer in (self._clock, *self._timers):
            if timer is not None:
                timer.cancel()
        self._exchange.now = self._loop.time()
        self._exchange.client_left("the client left")
        self._exchange.over = self._exchange.over or "the client left"
        self._flush()
        if self._link is not None:
            self._link.close()
        self._host.went(self)

    def data_received(self, data: bytes) -> None:
        if self.turned_away:
            return
        self._client.feed(data, self._loop.time())
        self._settle()

    def pause_writing(self) -> None:
        self._client_full_since = self._loop.time()
        self._pace()

    def resume_writing(self) -> None:
        self._client_full_since = None
        self._pace()

    # The upstream.

    def connected(self) -> None:
        """The link is there."""
        if self._ending or self._transport is None:
            if self._link is not None:
                self._link.abort()  # the client has not waited for it
            return
        self._connected = True
        self._settle()

    def not_connected(self, cause: str, why: str) -> None:
        """There is none: the client hears nothing but the end, so that it knows at once."""
        self._host.upstream_failed(self, cause, why)
        self._left = True
        self._exchange.upstream_left(why)
        self._settle()

    def upstream_said(self, data: bytes) -> None:
        was_ready = self._exchange.ready
        wrong = self._upstream.feed(data, self._loop.time())
        if not was_ready and self._exchange.ready:
            self._connecting_since = None
            self._client.resume(self._loop.time())
        if wrong is not None:
            self._upstream_failed("protocol", wrong)
        self._settle()

    def upstream_left(self, why: str) -> None:
        if self._left or self._exchange.over is not None:
            return
        self._upstream_failed("connection", why)
        self._settle()

    def _upstream_failed(self, cause: str, why: str) -> None:
        self._left = True
        if self._exchange.streams or not self._exchange.ready:
            self._host.upstream_failed(self, cause, why)
        self._exchange.now = self._loop.time()
        self._exchange.upstream_left(why)

    def upstream_full(self, *, full: bool) -> None:
        self._upstream_full_since = self._loop.time() if full else None
        self._pace()

    # What the exchange asks and tells.

    def connect(self) -> None:
        self._link = Link(self)
        self._connecting_since = self._loop.time()
        self._host.connect(self, self._link)

    def came(self, stream: Stream) -> Verdict | None:
        self._exchange.limits = self._host.limits
        return self._host.call(self, stream)

    def named(self, stream: Stream, collection: bytes | None) -> Verdict | None:
        return self._host.named(self, stream, collection)

    def further(self, stream: Stream, collection: bytes) -> Deny | None:
        return self._host.further(stream, collection)

    def decide(self, stream: Stream, verdict: Verdict) -> None:
        """A verdict that took its time."""
        self._exchange.now = self._loop.time()
        self._exchange.decide(stream, verdict)
        self._settle()

    def refuse(self, stream: Stream, why: str) -> None:
        """The upstream has changed: it is to be tried again, on a new connection."""
        self._exchange.begin_drain()
        self._exchange.refuse(stream, why)

    def malformed(self, stream: Stream, why: str) -> None:  # noqa: ARG002 - `ended` brings it
        self._host.malformed(self, stream)

    def denied(self, stream: Stream, status: int, why: str) -> None:  # noqa: ARG002 - `ended` brings it
        visit: Visit = stream.visit
        visit.overruled, visit.reason = True, "malformed"

    def answered(self, stream: Stream, answer: Answer) -> None:
        visit: Visit = stream.visit
        if answer.status is not None:
            visit.status = answer.status
        if answer.grpc_status is not None:
            visit.grpc_status = answer.grpc_status

    def ended(self, stream: Stream, failure: str | None) -> None:
        if stream.visit is not None:
            stream.visit.rests.close()
        self._host.ended(self, stream, failure)

    # How it ends.

    def retire(self) -> None:
        """For the ledger and for a drain: no more calls; close after those that run."""
        self._exchange.begin_drain()
        self._timers.append(self._loop.call_later(_DRAIN_GRACE, self._end_drain))
        self._settle()

    def _end_drain(self) -> None:
        self._exchange.end_drain()
        self._settle()

    def cut(self, why: str) -> None:
        """For the ledger: end all that runs, and say why."""
        self._exchange.now = self._loop.time()
        self._exchange.cut(why)
        self._settle()

    def abort(self) -> None:
        """Break the connection so that the client can tell (RST, no close_notify)."""
        if self._transport is None:
            return
        if self._socket is not None and self._socket.family != socket.AF_UNIX:
            with contextlib.suppress(OSError, ValueError):  # it is closed already
                self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()

    def _settle(self) -> None:
        """What was said goes out, and what follows from it happens."""
        self._flush()
        if self._exchange.over is not None:
            self._end()
        else:
            self._pace()

    def _flush(self) -> None:
        exchange = self._exchange
        if exchange.to_client:
            data, exchange.to_client = b"".join(exchange.to_client), []
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(data)
        if exchange.to_upstream and self._connected and self._link is not None:
            data, exchange.to_upstream = b"".join(exchange.to_upstream), []
            self._link.write(data)

    def _end(self) -> None:
        if self._ending or self._transport is None:
            return
        self._ending = True
        fault = self._exchange.broke
        if fault is not None:
            self._host.broken(self, fault.code, fault.why)
        if self._link is not None:
            self._link.close()
        if not self._exchange.ready:
            self.abort()  # it has heard no SETTINGS, and is not to take us for a service that is there
            return
        self._transport.close()
        self._timers.append(self._loop.call_later(_CLOSE_GRACE, self.abort))

    # When to read, and for how long to wait.

    def _pace(self) -> None:
        client_reads = self._client_full_since is None
        reading = client_reads and self._upstream_full_since is None and not self._client.waits
        if reading is not self._reading and self._transport is not None and not self._transport.is_closing():
            self._reading = reading
            if reading:
                self._transport.resume_reading()
            else:
                self._transport.pause_reading()
        if client_reads is not self._reading_upstream and self._link is not None:
            self._reading_upstream = client_reads
            self._link.read(on=client_reads)

    def _look_later(self) -> None:
        self._clock = self._loop.call_later(self._host.timeouts().looks, self._look)

    def _look(self) -> None:
        exchange, now, most = self._exchange, self._loop.time(), self._host.timeouts()
        if self._transport is None or self._ending:
            return
        exchange.now = now
        late = self._late(now, most)
        if late is not None:
            self._host.broken(self, None, late)
            exchange.cut(late)
            self._settle()
            return
        if self._upstream_is_late(now, most):
            self._upstream_failed("timeout", "the upstream took too long")
        self._look_at_streams(now, most)
        if exchange.idle_since is not None and now - exchange.idle_since > most.idle:
            self.retire()
        self._settle()
        self._look_later()

    def _late(self, now: float, most: Timeouts) -> str | None:
        """For what the client has let us wait too long."""
        if _over(self._client.head_since, now, most.header):
            return "a head that is too slow"
        if _over(self._client.frame_since, now, most.stall) and self._reading:
            return "a frame that is too slow"
        if _over(self._client_full_since, now, most.stall):
            return "the client stopped reading"
        return None

    def _upstream_is_late(self, now: float, most: Timeouts) -> bool:
        return _over(self._upstream_full_since, now, most.stall) or _over(
            self._connecting_since, now, most.connect
        )

    def _look_at_streams(self, now: float, most: Timeouts) -> None:
        for stream in self._exchange.streams:
            if _over(stream.asked_at, now, most.read):
                self._host.upstream_failed(self, "timeout", "the upstream took too long")
                self._exchange.finish(
                    stream,
                    DEADLINE_EXCEEDED,
                    "The upstream took too long",
                    failure="the upstream took too long",
                )
            elif stream.naming and now - stream.opened_at > most.header:
                self.denied(stream, DEADLINE_EXCEEDED, "")
                self._exchange.finish(
                    stream, DEADLINE_EXCEEDED, "The message did not come", failure="the message was late"
                )
            elif now - stream.moved_at > most.read and stream.visit is not None and stream.visit.is_keyless:
                # Else anybody could fill the house with calls that never end, and never read an answer.
                why = "a call without a key that was silent for too long"
                self._exchange.finish(stream, DEADLINE_EXCEEDED, why[0].upper() + why[1:], failure=why)


def _over(since: float | None, now: float, most: float) -> bool:
    return since is not None and now - since > most
