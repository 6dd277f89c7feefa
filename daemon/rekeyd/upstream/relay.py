"""One exchange, from a judged request to the last byte of its answer, streaming both ways.

The rules: nothing is buffered beyond a few pieces. An idempotent request without a body is sent once more, on
a new connection, where a kept-alive one turned out to be closed before the answer began; others never (RFC
9110, 9.2.2). An answer that breaks off is never made to look whole: the client's connection is aborted. A
client that leaves cancels the request at the upstream.

Must not know: aiohttp; who asked, and whether they might.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from rekeyd.http1 import forwarding
from rekeyd.http1.request import Field, Framing, Request
from rekeyd.http1.response import SWITCHING_PROTOCOLS, ResponseHead
from rekeyd.upstream.connection import UpstreamConnection, UpstreamError, UpstreamStaleError
from rekeyd.upstream.pool import Pool

IDEMPOTENT = frozenset({b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"})
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class BodyTooLargeError(Exception):
    """The client sends more than it may."""


class BodyMalformedError(Exception):
    """The client's body is not framed as its head announced."""


class ClientGoneError(Exception):
    """The client broke off or stopped moving."""


class ClientSide(Protocol):
    """The client's end of an exchange, as the relay needs it."""

    async def read(self) -> bytes:
        """A piece of the request's body; empty at its end.

        Raises:
            BodyTooLargeError, BodyMalformedError, ClientGoneError: there will be no more of it.
        """

    async def write(self, data: bytes) -> None:
        """Send; returns when there is room for more. Raises ClientGoneError."""

    def abort(self) -> None:
        """Break the connection so that the client can tell (RST, no close_notify)."""

    def switch(self) -> None:
        """The protocol was switched: from now on `read` gives raw bytes until the client closes."""

    @property
    def closes(self) -> bool:
        """Whether the connection must not be used for another request."""


@dataclass(frozen=True, slots=True)
class Relayed:
    """What became of an exchange whose answer had begun. `failure` is None where it is whole."""

    status: int
    keep_alive: bool
    failure: UpstreamError | None = None


class Relay:
    """Carries one request to a pool's upstream and its answer back.

    `added` are fields for the head of the answer. `status` is what the client was told; None until then.
    """

    def __init__(
        self,
        client: ClientSide,
        request: Request,
        pool: Pool,
        *,
        read_timeout: float,
        cors: bool,
        added: Sequence[Field] = (),
    ) -> None:
        self._client = client
        self._request = request
        self._pool = pool
        self._read_timeout = read_timeout
        self._cors = cors
        self._added = added
        self._upload: asyncio.Task[None] | None = None
        self.status: int | None = None

    async def run(self, head: bytes) -> Relayed:
        """Send `head` and the client's body; pass the answer on.

        Raises:
            UpstreamError: before a byte of the answer was passed on.
            BodyTooLargeError, BodyMalformedError: likewise.
            ClientGoneError: the client is gone or has stopped moving.
        """
        connection, answer = await self._ask(head)
        try:
            if answer.status == SWITCHING_PROTOCOLS:
                return await self._tunnel(connection, answer)
            return await self._answer(connection, answer)
        finally:
            await self._settle(connection)

    async def _ask(self, head: bytes) -> tuple[UpstreamConnection, ResponseHead]:
        """Send the request until an answer begins."""
        retriable = self._request.method in IDEMPOTENT and not self._request.framing.has_body
        connection = await self._pool.acquire()
        try:
            return connection, await self._ask_once(connection, head)
        except UpstreamStaleError:
            await self._give_up(connection)
            if not retriable:
                raise
        except BaseException:
            await self._give_up(connection)
            raise
        connection = await self._pool.acquire(fresh=True)
        try:
            return connection, await self._ask_once(connection, head)
        except BaseException:
            await self._give_up(connection)
            raise

    async def _ask_once(self, connection: UpstreamConnection, head: bytes) -> ResponseHead:
        request = self._request
        connection.begin(head, request.method, upgrades=request.upgrades, read_timeout=self._read_timeout)
        if not request.framing.has_body:
            connection.request_sent()
            return await connection.head()
        if request.expects_continue:
            await self._client.write(CONTINUE)
        self._upload = asyncio.create_task(self._send_body(connection))
        answer = asyncio.create_task(connection.head())
        try:
            await asyncio.wait({self._upload, answer}, return_when=asyncio.FIRST_COMPLETED)
            if (fault := self._client_fault()) is not None:
                raise fault
            return await answer
        finally:
            await _cancelled(answer)

    def _client_fault(self) -> BaseException | None:
        """An upload that the upstream cut short may still be answered; one that the client spoilt is over."""
        if self._upload is None or not self._upload.done():
            return None
        fault = self._upload.exception()
        return None if isinstance(fault, UpstreamError) else fault

    async def _send_body(self, connection: UpstreamConnection) -> None:
        chunked = self._request.framing.chunked
        try:
            while piece := await self._client.read():
                await connection.write(forwarding.chunk(piece) if chunked else piece)
        except (BodyTooLargeError, BodyMalformedError, ClientGoneError):
            connection.close()  # half a body must not be taken for a whole one
            raise
        if chunked:
            await connection.write(forwarding.LAST_CHUNK)
        connection.request_sent()

    async def _answer(self, connection: UpstreamConnection, answer: ResponseHead) -> Relayed:
        framing = forwarding.framing_homeward(answer, self._request.method, self._request.minor)
        bodiless = forwarding.is_bodiless(self._request.method, answer)
        ends_with_close = not bodiless and framing == Framing()
        keep_alive = not (self._client.closes or ends_with_close or self._upload_runs())
        head = forwarding.homeward(
            answer,
            framing,
            minor=self._request.minor,
            keep_alive=keep_alive,
            cors=self._cors,
            added=self._added,
        )
        failure = None
        self.status = answer.status
        try:
            await self._pass_body(connection, head, chunked=framing.chunked and not bodiless)
        except UpstreamError as error:
            self._client.abort()
            if (fault := self._client_fault()) is not None:
                raise ClientGoneError("the client spoilt its body while it was answered") from fault
            failure = error
        return Relayed(answer.status, keep_alive and failure is None, failure)

    async def _pass_body(self, connection: UpstreamConnection, head: bytes, *, chunked: bool) -> None:
        if not connection.has_whole_answer:
            await self._client.write(head)  # at once: a stream may be silent for long
            head = b""
        while piece := await connection.piece():
            await self._client.write(head + (forwarding.chunk(piece) if chunked else piece))
            head = b""
        tail = head + (forwarding.LAST_CHUNK if chunked else b"")
        if tail:
            await self._client.write(tail)

    async def _tunnel(self, connection: UpstreamConnection, answer: ResponseHead) -> Relayed:
        """Bytes both ways until either end closes."""
        connection.tunnel()
        self._client.switch()
        self.status = answer.status
        await self._client.write(forwarding.homeward(answer, Framing(), minor=1, keep_alive=True))
        self._upload = asyncio.create_task(self._send_raw(connection))
        with suppress(UpstreamError):  # a tunnel has no end of its own: a broken one is a closed one
            while piece := await connection.piece():
                await self._client.write(piece)
        return Relayed(answer.status, keep_alive=False)

    async def _send_raw(self, connection: UpstreamConnection) -> None:
        while piece := await self._client.read():
            await connection.write(piece)

    def _upload_runs(self) -> bool:
        return self._upload is not None and not self._upload.done()

    async def _settle(self, connection: UpstreamConnection) -> None:
        """Return the connection, if the exchange left it clean."""
        sent = self._upload is None or (self._upload.done() and self._upload.exception() is None)
        if sent:
            self._pool.release(connection)
        else:
            await self._give_up(connection)

    async def _give_up(self, connection: UpstreamConnection) -> None:
        self._pool.discard(connection)  # first: whoever waits may be cancelled
        if self._upload is not None:
            await _cancelled(self._upload)


async def _cancelled(task: asyncio.Task[Any]) -> None:
    """End a task whose outcome no longer matters."""
    task.add_done_callback(_seen)
    if task.cancel():
        await asyncio.wait({task})


def _seen(task: asyncio.Task[Any]) -> None:
    if not task.cancelled():
        task.exception()
