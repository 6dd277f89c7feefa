"""The path of a request: examined, judged, passed on, recorded.

The rules: nothing reaches the upstream that wasn't judged; what is judged is what is forwarded, byte for
byte; each request has one line in the decision log, whatever became of it. rekeyd's own paths are never
forwarded.

Must not know: how bytes get to the upstream, how a decision is made, how a line is written.
"""

import asyncio
import contextlib
import secrets
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import structlog
from aiohttp import web

from rekeyd.access.admission import Ask, Presented
from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.http1 import answers, forwarding
from rekeyd.http1.request import Field, Malformed, Request, examine, printable
from rekeyd.ledger import Ledger, Use
from rekeyd.listeners.http import replies
from rekeyd.listeners.http.client import AiohttpClient
from rekeyd.listeners.http.inspection import inspect
from rekeyd.listeners.http.protocol import GatewayProtocol, GatewayServer, Rendered, Timeouts
from rekeyd.listeners.http.replies import Health, Replies
from rekeyd.listeners.http.visit import Visit
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import Settings
from rekeyd.system.peers import address_of
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.upstream.connection import UpstreamError, UpstreamTimeoutError
from rekeyd.upstream.pools import Pools
from rekeyd.upstream.relay import (
    BodyMalformedError,
    BodyTooLargeError,
    ClientGoneError,
    ClientSide,
    Relay,
    Relayed,
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Records:
    """Where what happens is told and counted."""

    decisions: DecisionLog
    handshakes: HandshakeLog
    upstream_failed: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Guards:
    """Who judges what is asked, and who ends what was let in and would not be any more."""

    gatekeeper: Gatekeeper
    ledger: Ledger


_MEGABYTE = 1024 * 1024
_LINES_GRACE = 1.0
"""Seconds for which the end of a drain waits for the lines of the requests that it cut off."""
_NEWCOMER_GRACE = 1.0
"""Seconds for which a drain waits for the first request of a connection that was just accepted."""


class HttpGateway:
    """Serves every HTTP connection of every door that is given its `protocol`."""

    def __init__(
        self,
        settings: Settings,
        *,
        current: Current,
        pools: Pools,
        health: Health,
        guards: Guards,
        records: Records,
        left: Callable[[], None],
    ) -> None:
        service = settings.service
        self._current = current
        self._pools = pools
        self._replies = Replies(health)
        self._gatekeeper = guards.gatekeeper
        self._ledger = guards.ledger
        self._records = records
        self._cutting = False
        self._visits = 0
        self._all_told = asyncio.Event()
        self._max_head = service.max_header_size_kb * 1024
        self._server = GatewayServer(
            self._handle,
            timeouts=Timeouts(
                header=service.header_timeout,
                idle=service.idle_timeout,
                max_header_size=self._max_head,
            ),
            stall_timeout=self._stall_timeout,
            malformed=self._malformed,
            ledger=guards.ledger,
            turned_away=self._turned_away,
            left=left,
        )

    def protocol(self, serving: Serving) -> GatewayProtocol:
        """A protocol for a connection that was just accepted."""
        return self._server.protocol(serving.generation)

    async def drain(self, within: float) -> int:
        """Finish what runs and close what is idle; after `within` seconds end the rest.

        Returns how many connections were cut.
        """
        self._replies.draining = True
        self._finish(newcomers_too=False)
        newcomers = asyncio.get_running_loop().call_later(
            min(_NEWCOMER_GRACE, within), lambda: self._finish(newcomers_too=True)
        )
        try:
            async with asyncio.timeout(within):
                while self._server.open:  # a handshake may have ended since it was empty
                    await self._server.emptied.wait()
        except TimeoutError:
            pass
        finally:
            newcomers.cancel()
        cut = self._cut()
        if self._visits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._all_told.wait(), _LINES_GRACE)
        return cut

    def _finish(self, *, newcomers_too: bool) -> None:
        for protocol in tuple(self._server.open):
            protocol.finish(newcomers_too=newcomers_too)

    def _cut(self) -> int:
        left = tuple(self._server.open)
        self._cutting = True
        for protocol in left:
            protocol.abort()
        return len(left)

    # One request.

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        serving = self._current.serving
        if serving is None:
            raise RuntimeError("a connection came before there was a generation")
        connection = cast(GatewayProtocol, raw.protocol)
        visit = Visit.begin(connection, serving.generation, asyncio.get_running_loop().time())
        self._visits += 1
        try:
            return await self._serve(raw, visit)
        except ClientGoneError as gone:
            visit.failure = self._why_it_was_cut(visit) or str(gone)
            connection.abort()
            return Rendered(b"", keep_alive=False)
        except asyncio.CancelledError:
            visit.failure = self._why_it_ended(visit)
            raise
        finally:
            self._record(visit)
            self._visits -= 1
            if self._replies.draining and not self._visits:
                self._all_told.set()

    def _why_it_ended(self, visit: Visit) -> str | None:
        why = self._why_it_was_cut(visit)
        return why or (None if visit.is_tunnel else "the client left")  # so ends every tunnel

    def _why_it_was_cut(self, visit: Visit) -> str | None:
        return "cut off at the end of the drain" if self._cutting else visit.connection.cut_for

    async def _serve(self, raw: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        target = visit.asks_for(raw)
        version, fields = (raw.version.major, raw.version.minor), tuple(raw.raw_headers)
        request = examine(raw.method.encode(), target, version, fields)
        if _size(target, fields) > self._max_head:
            request = Malformed(431, "The head is too large")
        if isinstance(request, Malformed):
            visit.reason = "malformed"
            return self._replies.error(visit, request, request.status, message=request.message)
        visit.path = printable(request.target)
        given = request.request_id
        visit.request_id = given.decode() if given is not None else secrets.token_hex(16)
        service = visit.generation.settings.service
        origin = forwarding.origin_of(
            request, visit.peer, tls=visit.tls is not None, trusted=service.trusted_proxies
        )
        visit.client = origin.client
        if replies.is_ours(request):
            return await self._replies.local(visit, request)
        if service.enable_cors and replies.is_preflight(request):
            return self._replies.preflight(visit, request)
        ask = Ask(request.method, request.path, Presented.among(request.fields), origin.client)
        verdict = await self._verdict(ask, visit)
        if isinstance(verdict, Denied):
            await self._gatekeeper.penalty(verdict)
            return self._replies.denial(visit, request, verdict)
        with self._resting_on(visit.connection, ask, verdict):
            return await self._let_in(raw, request, origin, visit, verdict)

    async def _verdict(self, ask: Ask, visit: Visit) -> Allowed | Denied:
        verdict = self._gatekeeper.judge(ask, visit.generation)
        if isinstance(verdict, Unverified):
            verdict, _, visit.generation = await self._gatekeeper.settled(
                verdict, visit.generation, lambda _: ask, lambda: self._current.generation
            )
        visit.verdict = verdict
        return verdict

    @contextlib.contextmanager
    def _resting_on(self, connection: GatewayProtocol, ask: Ask, verdict: Allowed) -> Iterator[None]:
        """While it runs, a request rests on what let it in: should that go, the ledger ends it."""
        if connection.entry is None or verdict.reason is Reason.OPEN:
            yield
        else:
            with self._ledger.resting(connection.entry, Use(ask, verdict.credential)):
                yield

    async def _let_in(
        self,
        raw: web.BaseRequest,
        request: Request,
        origin: forwarding.Origin,
        visit: Visit,
        verdict: Allowed,
    ) -> web.StreamResponse:
        service = visit.generation.settings.service
        limit = service.max_request_size_mb * _MEGABYTE
        if (request.framing.length or 0) > limit:
            return self._replies.error(visit, request, 413, message=_too_large(service.max_request_size_mb))
        return await self._forward(raw, request, origin, visit, verdict)

    async def _forward(
        self,
        raw: web.BaseRequest,
        request: Request,
        origin: forwarding.Origin,
        visit: Visit,
        verdict: Allowed,
    ) -> web.StreamResponse:
        settings = visit.generation.settings
        client: ClientSide = AiohttpClient(
            raw,
            max_body=settings.service.max_request_size_mb * _MEGABYTE,
            stall_timeout=settings.service.stall_timeout,
            closes=lambda: self._replies.closes(request, visit.connection),
        )
        try:
            if verdict.lookups:
                inspected = await inspect(client, request, verdict, visit.generation.policy)
                if isinstance(inspected, Denied):
                    visit.verdict = inspected
                    return self._replies.denial(visit, request, inspected)
                client, request = inspected
            done = await self._relay(client, request, origin, visit, verdict)
        except BodyTooLargeError:
            return self._replies.error(
                visit, request, 413, message=_too_large(settings.service.max_request_size_mb), close=True
            )
        except BodyMalformedError as error:
            return self._replies.error(visit, request, 400, message=str(error), close=True)
        except UpstreamError as error:
            self._upstream_failed(visit, error)
            slow = isinstance(error, UpstreamTimeoutError)
            message = "The upstream took too long" if slow else "The upstream can't be reached or broke off"
            return self._replies.error(visit, request, 504 if slow else 502, message=message)
        visit.status = done.status
        if done.failure is not None:
            self._upstream_failed(visit, done.failure)
        return Rendered(b"", keep_alive=done.keep_alive and not self._replies.draining)

    async def _relay(
        self,
        client: ClientSide,
        request: Request,
        origin: forwarding.Origin,
        visit: Visit,
        verdict: Allowed,
    ) -> Relayed:
        settings = visit.generation.settings
        relay = visit.relay = Relay(
            client,
            request,
            await self._pools.pool_for(visit.generation),
            read_timeout=settings.upstream.read_timeout,
            cors=settings.service.enable_cors,
            added=answers.quota_fields(verdict.quota),
        )
        return await relay.run(visit.onward(request, origin, verdict))

    # The record.

    def _upstream_failed(self, visit: Visit, error: UpstreamError) -> None:
        visit.failure = str(error)
        self._records.upstream_failed(error.cause)
        log.error(
            "upstream.failed",
            cause=error.cause,
            problem=str(error),
            request_id=visit.request_id,
            generation=visit.generation.number,
        )

    def _malformed(self, protocol: GatewayProtocol, status: int) -> None:
        """What never became a request has its line, too."""
        serving = self._current.serving
        if serving is None:
            return
        now = asyncio.get_running_loop().time()
        visit = Visit.begin(protocol, serving.generation, now)
        visit.reason, visit.status = "malformed", status
        self._record(visit)

    def _turned_away(self, protocol: GatewayProtocol, why: str) -> None:
        """A handshake that OpenSSL passed and we don't."""
        peer = address_of(protocol.peername)
        self._records.handshakes.failed(
            "http", peer, f"client_certificate: {why}", protocol.generation.number
        )

    def _stall_timeout(self) -> float:
        generation = self._current.generation
        return generation.settings.service.stall_timeout if generation is not None else 0.0

    def _record(self, visit: Visit) -> None:
        self._records.decisions.record(visit.decision(asyncio.get_running_loop().time()))


def _size(target: bytes, fields: tuple[Field, ...]) -> int:
    """Bytes of a head, its method and line ends about."""
    return len(target) + sum([len(name) + len(value) + 4 for name, value in fields])


def _too_large(megabytes: int) -> str:
    return f"The body is larger than {megabytes} MB"
