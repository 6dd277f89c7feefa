"""The path of a request: examined, judged, passed on, recorded.

The rules: nothing reaches the upstream that wasn't judged; what is judged is what is forwarded, byte for
byte; each request has one line in the decision log, whatever became of it. rekeyd's own paths are never
forwarded.

Must not know: how bytes get to the upstream, how a decision is made, how a line is written.
"""

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import cast

from aiohttp import web

from rekeyd.access.admission import Ask, Presented
from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from rekeyd.http1 import answers, forwarding, plain
from rekeyd.http1.request import Malformed, Request, examine, printable
from rekeyd.ledger import Use
from rekeyd.listeners.http.client import AiohttpClient
from rekeyd.listeners.http.connection import Host
from rekeyd.listeners.http.desk import MEGABYTE, Desk, Guards, Records, told_of, too_large
from rekeyd.listeners.http.guests import Guests
from rekeyd.listeners.http.inspection import Prompted, Replayed, inspect
from rekeyd.listeners.http.lane import Lane
from rekeyd.listeners.http.protocol import GatewayProtocol, GatewayServer, Rendered, Timeouts
from rekeyd.listeners.http.replies import Health, Replies, Reply, is_ours, is_preflight
from rekeyd.listeners.http.visit import Visit
from rekeyd.reload.current import Current, Serving
from rekeyd.settings import Settings
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.pools import Pools
from rekeyd.upstream.relay import (
    BodyMalformedError,
    BodyTooLargeError,
    ClientGoneError,
    ClientSide,
    Relay,
    Relayed,
)

__all__ = ["Guards", "HttpGateway", "Records"]

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
        replies = Replies(health)
        max_head = service.max_header_size_kb * 1024
        self._desk = desk = Desk(current, pools, guards, records, replies=replies, max_head=max_head)
        self._guests = Guests(guards.ledger, desk.turned_away, left)
        self._timeouts = Timeouts(
            header=service.header_timeout, idle=service.idle_timeout, max_header_size=max_head
        )
        self._server = GatewayServer(
            self._handle,
            timeouts=self._timeouts,
            stall_timeout=desk.stall_timeout,
            malformed=desk.malformed,
            guests=self._guests,
        )
        self._lane = Host(desk, self._guests, self._timeouts, self._server.protocol)
        self.short = True
        """Whether plain requests take the short lane; else all of them take aiohttp's."""

    def protocol(self, serving: Serving) -> asyncio.Protocol:
        """A protocol for a connection that was just accepted."""
        if self.short:
            return Lane(self._lane, serving.generation)
        return self._server.protocol(serving.generation)

    async def drain(self, within: float) -> int:
        """Finish what runs and close what is idle; after `within` seconds end the rest.

        Returns how many connections were cut.
        """
        self._desk.replies.draining = True
        self._finish(newcomers_too=False)
        newcomers = asyncio.get_running_loop().call_later(
            min(_NEWCOMER_GRACE, within), lambda: self._finish(newcomers_too=True)
        )
        try:
            async with asyncio.timeout(within):
                while self._guests.open:  # a handshake may have ended since it was empty
                    await self._guests.emptied.wait()
        except TimeoutError:
            pass
        finally:
            newcomers.cancel()
        cut = self._cut()
        if self._desk.visits:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._desk.all_told.wait(), _LINES_GRACE)
        return cut

    def _finish(self, *, newcomers_too: bool) -> None:
        for protocol in tuple(self._guests.open):
            protocol.finish(newcomers_too=newcomers_too)

    def _cut(self) -> int:
        left = tuple(self._guests.open)
        self._desk.cutting = True
        for protocol in left:
            protocol.abort()
        return len(left)

    # One request.

    async def _handle(self, raw: web.BaseRequest) -> web.StreamResponse:
        connection = cast(GatewayProtocol, raw.protocol)
        visit = self._desk.begin(connection, self._desk.generation())
        try:
            answer = await self._serve(raw, visit, connection)
        except ClientGoneError as gone:
            visit.failure = self._desk.why_it_was_cut(connection) or str(gone)
            connection.abort()
            return Rendered(b"", keep_alive=False)
        except asyncio.CancelledError:
            visit.failure = self._why_it_ended(visit)
            raise
        finally:
            self._desk.end(visit)
        return answer if isinstance(answer, Rendered) else Rendered(answer.data, keep_alive=answer.keep_alive)

    def _why_it_ended(self, visit: Visit) -> str | None:
        why = self._desk.why_it_was_cut(visit.connection)
        return why or (None if visit.is_tunnel else "the client left")  # so ends every tunnel

    async def _serve(
        self, raw: web.BaseRequest, visit: Visit, connection: GatewayProtocol
    ) -> Reply | Rendered:
        replies = self._desk.replies
        target = raw.raw_path.encode("utf-8", "surrogateescape")
        visit.asks_for(raw.method, target)
        version, fields = (raw.version.major, raw.version.minor), tuple(raw.raw_headers)
        request = examine(raw.method.encode(), target, version, fields)
        if plain.size(target, fields) > self._desk.max_head:
            request = Malformed(431, "The head is too large")
        if isinstance(request, Malformed):
            visit.reason = "malformed"
            return replies.error(visit, request, request.status, message=request.message)
        visit.path = printable(request.target)
        given = request.request_id
        visit.request_id = given.decode() if given is not None else self._desk.new_id()
        service = visit.generation.settings.service
        origin = forwarding.origin_of(
            request, visit.peer, tls=visit.tls is not None, trusted=service.trusted_proxies
        )
        visit.client = origin.client
        if is_ours(request):
            return await replies.local(visit, request)
        if service.enable_cors and is_preflight(request):
            return replies.preflight(visit, request)
        ask = Ask(request.method, request.path, Presented.among(request.fields), origin.client)
        verdict = await self._verdict(ask, visit)
        if isinstance(verdict, Denied):
            await self._desk.gatekeeper.penalty(verdict)
            return replies.denial(visit, request, verdict)
        with self._resting_on(connection, ask, verdict):
            if (words := self._desk.too_large(request, visit.generation)) is not None:
                return replies.error(visit, request, 413, message=words)
            return await self._forward(raw, request, origin, visit, verdict)

    async def _verdict(self, ask: Ask, visit: Visit) -> Allowed | Denied:
        gatekeeper = self._desk.gatekeeper
        verdict = gatekeeper.judge(ask, visit.generation)
        if isinstance(verdict, Unverified):
            verdict, _, visit.generation = await gatekeeper.settled(
                verdict, visit.generation, lambda _: ask, lambda: self._desk.current.generation
            )
        visit.verdict = verdict
        return verdict

    @contextlib.contextmanager
    def _resting_on(self, connection: GatewayProtocol, ask: Ask, verdict: Allowed) -> Iterator[None]:
        """While it runs, a request rests on what let it in: should that go, the ledger ends it."""
        if connection.entry is None or verdict.reason is Reason.OPEN:
            yield
        else:
            with self._desk.ledger.resting(connection.entry, Use(ask, verdict.credential)):
                yield

    async def _forward(
        self,
        raw: web.BaseRequest,
        request: Request,
        origin: forwarding.Origin,
        visit: Visit,
        verdict: Allowed,
    ) -> Reply | Rendered:
        settings, replies = visit.generation.settings, self._desk.replies
        client: ClientSide = AiohttpClient(
            raw,
            max_body=settings.service.max_request_size_mb * MEGABYTE,
            stall_timeout=settings.service.stall_timeout,
            closes=lambda: replies.closes(request, visit.connection),
        )
        try:
            if verdict.lookups:
                sender = Prompted(client) if request.expects_continue else client
                body = await inspect(sender, request, verdict, visit.generation.policy)
                if isinstance(body, Denied):
                    visit.verdict = body
                    return replies.denial(visit, request, body)
                client, request = Replayed(client, body), replace(request, expects_continue=False)
            done = await self._relay(client, request, origin, visit, verdict)
        except BodyTooLargeError:
            return replies.error(
                visit, request, 413, message=too_large(settings.service.max_request_size_mb), close=True
            )
        except BodyMalformedError as error:
            return replies.error(visit, request, 400, message=str(error), close=True)
        except UpstreamError as error:
            self._desk.upstream_failed(visit, error)
            status, message = told_of(error)
            return replies.error(visit, request, status, message=message)
        visit.status = done.status
        if done.failure is not None:
            self._desk.upstream_failed(visit, done.failure)
        return Rendered(b"", keep_alive=done.keep_alive and not replies.draining)

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
            await self._desk.pools.pool_for(visit.generation),
            read_timeout=settings.upstream.read_timeout,
            cors=settings.service.enable_cors,
            added=answers.quota_fields(verdict.quota),
        )
        return await relay.run(visit.onward(request, origin, verdict))
