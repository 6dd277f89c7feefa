"""One plain exchange without a task: from a judged request to the last byte of its answer, by callbacks.

The rules are those of `relay.py`, which carries everything else: nothing is buffered beyond a few pieces; an
idempotent request without a body is sent once more where a kept-alive connection was closed before the answer
began; an answer that breaks off is never made to look whole; a client that leaves cancels its request. A task
is made only where a connection has to be opened.

Must not know: what the client's end is; who asked, and whether they might.
"""

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from rekeyd.http1 import forwarding
from rekeyd.http1.request import Field, Request
from rekeyd.http1.response import ResponseHead
from rekeyd.upstream.connection import Homeward, UpstreamConnection, UpstreamError, UpstreamStaleError
from rekeyd.upstream.pool import Pool
from rekeyd.upstream.relay import IDEMPOTENT


class Client(Protocol):
    """The client's end, as a passage needs it."""

    @property
    def closes(self) -> bool:
        """Whether the connection must not be used for another request."""

    @property
    def full(self) -> bool:
        """Whether the client takes no more for now; it calls `room_for_client` when it does."""

    @property
    def write(self) -> Callable[[bytes], None]:
        """Send."""

    def body_wanted(self) -> None:
        """There is room for more of the body: `body` may be called (again)."""

    def abort(self) -> None:
        """Break the connection so that the client can tell."""

    def passed(self) -> None:
        """It is over; see `status`, `failure` and `keep_alive`."""


class Passage:
    """Carries one request to a pool's upstream and its answer back.

    `status` is what the client was told; None until then. `failure` ended it; where `status` is None nothing
    of an answer was passed on.
    """

    __slots__ = (
        "_added",
        "_client",
        "_connection",
        "_cors",
        "_head",
        "_opening",
        "_pool",
        "_read_timeout",
        "_request",
        "_rewritten",
        "_tried_again",
        "failure",
        "keep_alive",
        "left",
        "status",
        "wants_body",
    )

    def __init__(
        self,
        client: Client,
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
        self._head = b""
        self._connection: UpstreamConnection | None = None
        self._opening: asyncio.Task[None] | None = None
        self._tried_again = False
        self._rewritten = False
        self.left = request.framing.length or 0
        """Bytes of the body that are still to come."""
        self.wants_body = False
        """Whether the upstream takes some now."""
        self.status: int | None = None
        self.failure: UpstreamError | None = None
        self.keep_alive = False

    def begin(self, head: bytes) -> None:
        """Send `head` on a connection of the pool's."""
        self._head = head
        connection = self._pool.take()
        if connection is None:
            self._open()
        else:
            self._start(connection)

    # What the client does.

    def body(self, piece: bytes) -> None:
        """Pass a piece of the body on; at most `left` bytes, and only while it is wanted."""
        connection = self._connection
        if connection is None:
            return
        self.left -= len(piece)
        self.wants_body = connection.send(piece) and self.left > 0
        if not self.left:
            connection.request_sent()

    def room_for_client(self) -> None:
        """The client takes more."""
        if self._connection is not None:
            self.news()

    def cancel(self) -> None:
        """The client is gone. Where the upstream has said all, its connection is of use to others."""
        self.wants_body = False
        if self._opening is not None:
            self._opening.cancel()
            self._opening = None
        connection = self._connection
        if connection is not None and connection.has_whole_answer and not self.left:
            self._connection = None
            self._pool.release(connection)
        else:
            self._give_up()

    # What the upstream does.

    def news(self) -> None:
        connection = self._connection
        reader = connection.reader if connection is not None else None
        if connection is None or reader is None:
            return
        if self.status is not None:
            if self._client.full:
                return  # the pieces wait in the connection, which stops reading at its high water
            head = b""
        elif reader.head is not None:
            head = self._answer(connection, reader.head)
        else:
            self._without_answer(connection)
            return
        data = connection.taken()
        if self._rewritten:
            data = self._chunked(data, whole=reader.complete)
        if data := head + data:
            self._client.write(data)
        if self._connection is not connection:
            return  # writing ended it
        if reader.complete:
            self._finish(connection)
        elif (error := connection.error) is not None:
            self._broken(error)

    def room_again(self) -> None:
        self.wants_body = self.left > 0
        if self.wants_body:
            self._client.body_wanted()

    # Inside.

    def _open(self, *, fresh: bool = False) -> None:
        self._opening = asyncio.get_running_loop().create_task(self._opened(fresh=fresh))

    async def _opened(self, *, fresh: bool) -> None:
        try:
            connection = await self._pool.acquire(fresh=fresh)
        except UpstreamError as error:
            self._opening = None
            self._end(error)
            return
        self._opening = None
        self._start(connection)

    def _start(self, connection: UpstreamConnection) -> None:
        self._connection = connection
        connection.begin(
            self._head, self._request.method, upgrades=False, read_timeout=self._read_timeout, hears=self
        )
        if connection.error is not None:
            self.news()
        elif self.left:
            self.room_again()
        else:
            connection.request_sent()

    def _without_answer(self, connection: UpstreamConnection) -> None:
        """There is none yet; if there will be none, ask again where that does no harm."""
        error = connection.error
        if error is None:
            return
        self._give_up()
        request = self._request
        again = request.method in IDEMPOTENT and not request.framing.has_body
        if isinstance(error, UpstreamStaleError) and again and not self._tried_again:
            self._tried_again = True
            self._open(fresh=True)
        else:
            self._end(error)

    def _answer(self, connection: UpstreamConnection, answer: ResponseHead) -> bytes:
        """The head that the client gets."""
        self.keep_alive = not (self.left or self._client.closes)
        self.status = answer.status
        usual = self.keep_alive and not self._added
        last = connection.homeward
        if usual and last is not None and last.answer is answer and last.cors is self._cors:
            self._rewritten = last.chunked
            return last.head
        request = self._request
        framing = forwarding.framing_homeward(answer, request.method, request.minor)
        self._rewritten = framing.chunked and not forwarding.is_bodiless(request.method, answer)
        head = forwarding.homeward(
            answer,
            framing,
            minor=request.minor,
            keep_alive=self.keep_alive,
            cors=self._cors,
            added=self._added,
        )
        if usual:
            connection.homeward = Homeward(answer, self._cors, head, self._rewritten)
        return head

    def _chunked(self, data: bytes, *, whole: bool) -> bytes:
        chunks = forwarding.chunk(data) if data else b""
        return chunks + forwarding.LAST_CHUNK if whole else chunks

    def _finish(self, connection: UpstreamConnection) -> None:
        self._connection = None
        self.wants_body = False
        if self.left:
            self._pool.discard(connection)
        else:
            self._pool.release(connection)
        self._client.passed()

    def _broken(self, error: UpstreamError) -> None:
        self.keep_alive = False
        self._give_up()
        self._client.abort()
        self._end(error)

    def _give_up(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            self._pool.discard(connection)

    def _end(self, error: UpstreamError) -> None:
        self.failure = error
        self.wants_body = False
        self._client.passed()
