"""The path of a call: judged, passed on, recorded.

The rules: nothing reaches the upstream that wasn't judged by the generation in force at that moment; each
call has one line in the decision log, whatever became of it. Must not know: how bytes get to the upstream,
how a decision is made, how a line is written.
"""

import asyncio
import math
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import structlog

from rekeyd.access.verdict import Denied, Reason
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.http2.fields import Field
from rekeyd.http2.frames import Code
from rekeyd.http2.guard import Limits
from rekeyd.http2.handling import Admit, Deny, Read, Verdict
from rekeyd.http2.heads import Call
from rekeyd.http2.streams import Stream
from rekeyd.ledger import Ledger, Use
from rekeyd.listeners.grpc.connection import GrpcConnection
from rekeyd.listeners.grpc.host import Timeouts
from rekeyd.listeners.grpc.judging import Asked, Judge, NeedsCollection, Ruling, status_of
from rekeyd.listeners.grpc.link import Link
from rekeyd.listeners.grpc.visit import Visit
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import Settings
from rekeyd.telemetry.broken import BrokenLog
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.trust.clients import ClientIdentity, objection
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.grpc import GrpcDialer

log = structlog.get_logger()

_MEGABYTE = 1024 * 1024
_INTERNAL = 13
"""A status of gRPC."""
_UNNAMED = "Forbidden: the message does not say which collection it is for"
"""What is said of a call as long as that is so, and of one that ends before."""


@dataclass(frozen=True, slots=True)
class GrpcRecords:
    """Where what happens is told and counted."""

    decisions: DecisionLog
    handshakes: HandshakeLog
    broken: BrokenLog
    upstream_failed: Callable[[str], None]


class GrpcGateway:
    """Serves every gRPC connection of every door that is given its `protocol`."""

    def __init__(
        self,
        settings: Settings,
        *,
        current: Current,
        dialer: GrpcDialer,
        ledger: Ledger,
        records: GrpcRecords,
        gatekeeper: Gatekeeper,
    ) -> None:
        service = settings.service
        self._service = service
        self._current = current
        self._dialer = dialer
        self._ledger = ledger
        self._records = records
        self._judge = Judge(gatekeeper, self._generation)
        self._open: set[GrpcConnection] = set()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._draining = False
        self._limits: tuple[Generation, Limits] | None = None

    def protocol(self, serving: Serving, left: Callable[[], None]) -> GrpcConnection:
        """A protocol for a connection that was just accepted; `left` is called when it is closed."""
        return GrpcConnection(self, serving.generation, left)

    @property
    def limits(self) -> Limits:
        """Those of the generation in force, made once for each."""
        generation = self._generation()
        if self._limits is None or self._limits[0] is not generation:
            service = generation.settings.service
            limits = Limits(
                streams=service.max_streams,
                resets=service.max_stream_resets,
                block=self._service.max_header_size_kb * 1024,
                message=service.max_request_size_mb * _MEGABYTE,
            )
            self._limits = generation, limits
        return self._limits[1]

    def timeouts(self) -> Timeouts:
        settings = self._generation().settings
        service = self._service
        return Timeouts(
            header=service.header_timeout,
            idle=service.idle_timeout,
            stall=settings.service.stall_timeout,
            connect=settings.upstream.connect_timeout,
            read=settings.upstream.read_timeout,
        )

    async def drain(self, within: float) -> int:
        """Finish what runs and close what is idle; after `within` seconds end the rest.

        Returns how many connections were cut.
        """
        self._draining = True
        for connection in tuple(self._open):
            connection.retire()
        try:
            async with asyncio.timeout(within):
                while self._open:  # a handshake may have ended since it was empty
                    await self._emptied.wait()
        except TimeoutError:
            pass
        left = tuple(self._open)
        for connection in left:
            connection.cut("cut off at the end of the drain")
            connection.abort()
        return len(left)

    def _generation(self) -> Generation:
        generation = self._current.generation
        if generation is None:
            raise RuntimeError("a connection came before there was a generation")
        return generation

    # Connections.

    def came(self, connection: GrpcConnection, certificate: bytes | None) -> bool:
        """A handshake is done. Whom OpenSSL let in may still have no place here (`tls.allowed_clients`)."""
        self._open.add(connection)
        self._emptied.clear()
        why = objection(connection.generation, certificate) if connection.tls is not None else None
        if why is not None:
            reason = f"client_certificate: {why}"
            self._records.handshakes.failed("grpc", connection.peer, reason, connection.generation.number)
            return False
        connection.entry = self._ledger.enter(connection, connection.generation, certificate)
        connection.identity = str(ClientIdentity.of_der(certificate)) if certificate else None
        if self._draining:
            connection.retire()
        return True

    def went(self, connection: GrpcConnection) -> None:
        self._open.discard(connection)
        if connection.entry is not None:
            self._ledger.leave(connection.entry)
        if not self._open:
            self._emptied.set()
        connection.left()

    def connect(self, connection: GrpcConnection, link: Link) -> None:
        generation = self._generation()
        connection.upstream = generation
        self._start(self._connect(connection, link, generation))

    async def _connect(self, connection: GrpcConnection, link: Link, generation: Generation) -> None:
        try:
            await self._dialer.dial(generation, lambda: link)
        except UpstreamError as error:
            connection.not_connected(error.cause, str(error))
        else:
            connection.connected()

    def broken(self, connection: GrpcConnection, code: Code | None, why: str) -> None:
        reason = f"{code.name}: {why}" if code is not None else why
        self._records.broken.told("grpc", connection.peer, reason, connection.generation.number)

    def upstream_failed(self, connection: GrpcConnection, cause: str, why: str) -> None:
        self._records.upstream_failed(cause)
        log.error(
            "upstream.failed",
            cause=cause,
            problem=why,
            listener="grpc",
            client=connection.peer,
            generation=connection.generation.number,
        )

    # Calls.

    def call(self, connection: GrpcConnection, stream: Stream) -> Verdict | None:
        visit, call = self._visit(connection, stream), _call_of(stream)
        given = call.request_id
        visit.asks_for(call, given.decode() if given is not None else secrets.token_hex(16))
        if not self._leads_on(connection, visit.generation):
            visit.reason = "upstream_changed"
            connection.refuse(stream, "the upstream changed")
            return None
        asked = visit.asked = Asked(call.path, call.fields, visit.client)
        return self._rule(connection, stream, self._judge.judge(asked))

    def named(self, connection: GrpcConnection, stream: Stream, collection: bytes | None) -> Verdict | None:
        visit: Visit = stream.visit
        if visit.asked is None or visit.ruling is None:
            raise RuntimeError("a collection of a call that was never judged")
        ruling = self._judge.judge_collection(visit.asked, visit.ruling, collection or b"")
        return self._rule(connection, stream, ruling)

    def further(self, stream: Stream, collection: bytes) -> Deny | None:
        visit: Visit = stream.visit
        denied = None if visit.ruling is None else self._judge.judge_further(visit.ruling, collection)
        if denied is None:
            return None
        visit.verdict = denied
        return Deny(status_of(denied), denied.message)

    def _leads_on(self, connection: GrpcConnection, generation: Generation) -> bool:
        """Whether the connection leads to where this generation's upstream is."""
        at = connection.upstream
        if at is None or at is generation:
            return True
        same = at.settings.upstream.grpc == generation.settings.upstream.grpc
        return same and at.upstream_anchors == generation.upstream_anchors

    def _rule(
        self, connection: GrpcConnection, stream: Stream, ruling: Ruling | Awaitable[Ruling]
    ) -> Verdict | None:
        if isinstance(ruling, Ruling):
            return self._verdict(connection, stream, ruling)
        self._start(self._wait(connection, stream, ruling))
        return None

    async def _wait(self, connection: GrpcConnection, stream: Stream, ruling: Awaitable[Ruling]) -> None:
        try:
            known = await ruling
        except Exception:
            connection.decide(stream, Deny(_INTERNAL, "The decision failed"))
            raise
        if not stream.gone:
            connection.decide(stream, self._verdict(connection, stream, known))

    def _verdict(self, connection: GrpcConnection, stream: Stream, ruling: Ruling) -> Verdict:
        visit: Visit = stream.visit
        visit.ruling, visit.generation = ruling, ruling.generation
        verdict = ruling.verdict
        if isinstance(verdict, NeedsCollection):
            allowed = verdict.allowed
            visit.verdict = Denied(Reason.BODY_NOT_JUDGED, _UNNAMED, allowed.credential, allowed.needed)
            return Read(verdict.wanted)
        visit.verdict, visit.asked = verdict, None
        if isinstance(verdict, Denied):
            return Deny(status_of(verdict), verdict.message, _pushback(verdict))
        if connection.entry is not None and verdict.reason is not Reason.OPEN:
            use = Use(ruling.ask, verdict.credential)
            visit.rests.enter_context(self._ledger.resting(connection.entry, use))
        return Admit(visit.onward(_call_of(stream), verdict))

    def malformed(self, connection: GrpcConnection, stream: Stream) -> None:
        visit = stream.visit or self._visit(connection, stream)
        visit.reason, visit.overruled = "malformed", True

    def ended(self, connection: GrpcConnection, stream: Stream, failure: str | None) -> None:  # noqa: ARG002
        visit: Visit | None = stream.visit
        if visit is not None:
            now = asyncio.get_running_loop().time()
            self._records.decisions.record(visit.decision(now, failure))

    def _visit(self, connection: GrpcConnection, stream: Stream) -> Visit:
        now = asyncio.get_running_loop().time()
        visit = stream.visit = Visit(now, self._generation(), connection, connection.peer)
        return visit

    def _start(self, work: "Awaitable[None]") -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("grpc.failed", problem=type(error).__name__, exc_info=error)


def _call_of(stream: Stream) -> Call:
    if stream.call is None:
        raise RuntimeError("asked of what is no call")
    return stream.call


def _pushback(denied: Denied) -> tuple[Field, ...]:
    """When a client that retries may come again (gRFC A6)."""
    if denied.retry_after is None:
        return ()
    return ((b"grpc-retry-pushback-ms", b"%d" % math.ceil(denied.retry_after * 1000)),)
