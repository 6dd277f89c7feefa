"""Requests whose body must be seen before they go on: read whole, judged, and then passed as they came.

The rules: at most `MOST` bytes are kept; a body that is larger, or in a coding, is not judged and so not let
in. Must not know: what a body must not say (`access`).
"""

import asyncio
from typing import Protocol

from rekeyd.access.admission import judge_body
from rekeyd.access.policy import Policy
from rekeyd.access.verdict import Allowed, Denied, Reason
from rekeyd.http1.request import Request
from rekeyd.upstream.relay import CONTINUE, ClientSide

MOST = 4 * 1024 * 1024
"""Bytes of a body that are kept to be judged."""
_AT_ONCE = 64 * 1024
"""Bytes of a body that are judged on the event loop; more are in a thread."""


class Prompted:
    """A client that waits for a sign before it sends its body, and gets one when that is asked for."""

    def __init__(self, client: ClientSide) -> None:
        self._client = client
        self._waits = True

    async def read(self) -> bytes:
        if self._waits:
            self._waits = False
            await self._client.write(CONTINUE)
        return await self._client.read()


class Replayed:
    """A client whose body was read already."""

    def __init__(self, client: ClientSide, body: bytes) -> None:
        self._client = client
        self._body = body

    async def read(self) -> bytes:
        """The body, and then whatever comes after it (nothing, or the bytes of a tunnel)."""
        body, self._body = self._body, b""
        return body or await self._client.read()

    async def write(self, data: bytes) -> None:
        await self._client.write(data)

    def abort(self) -> None:
        self._client.abort()

    def switch(self) -> None:
        self._client.switch()

    @property
    def closes(self) -> bool:
        return self._client.closes


class Sender(Protocol):
    """A client, as far as its body is read."""

    async def read(self) -> bytes: ...


async def inspect(sender: Sender, request: Request, verdict: Allowed, policy: Policy) -> bytes | Denied:
    """The body, which is to be passed on as it is, or why it isn't.

    Raises what `ClientSide.read` does.
    """
    if request.first(b"content-encoding") is not None:
        return _unseen(verdict, "in a coding")
    body = bytearray()
    while piece := await sender.read():
        body += piece
        if len(body) > MOST:
            return _unseen(verdict, "too large")
    if len(body) > _AT_ONCE:
        judged = await asyncio.to_thread(judge_body, verdict, bytes(body), policy)
    else:
        judged = judge_body(verdict, bytes(body), policy)
    if isinstance(judged, Denied):
        return judged
    return bytes(body)


def _unseen(verdict: Allowed, why: str) -> Denied:
    message = f"Forbidden: the body is {why}, so which collections it names can't be seen"
    return Denied(Reason.BODY_NOT_JUDGED, message, verdict.credential, verdict.needed)
