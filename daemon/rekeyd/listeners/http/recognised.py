"""A head that was read, and all that follows from its bytes, its connection and a generation.

The rule: what is the same for the same bytes is worked out once; whether the request may pass is no part of
it, for that is decided anew each time. Must not know: how a decision is made.
"""

from rekeyd.access.admission import Ask, Presented
from rekeyd.access.verdict import Allowed
from rekeyd.http1 import forwarding
from rekeyd.http1.request import Request, printable
from rekeyd.listeners.http.visit import Guest, Visit
from rekeyd.trust.generation import Generation

_NOBODY = object()


class Recognised:
    """A head, and all that follows from its bytes, its connection and a generation; no decision.

    `length` is that of the body in bytes; `request_id` is empty where the client gave none.
    """

    __slots__ = (
        "around",
        "ask",
        "generation",
        "length",
        "let_in_by",
        "method",
        "origin",
        "path",
        "raw",
        "request",
        "request_id",
        "size",
    )

    def __init__(self, raw: bytes, request: Request, guest: Guest, generation: Generation) -> None:
        trusted = generation.settings.service.trusted_proxies
        given = request.request_id
        self.raw = raw
        self.size = len(raw)
        self.request = request
        self.generation = generation
        self.length = request.framing.length or 0
        self.method = request.method.decode()
        self.path = printable(request.target)
        self.request_id = given.decode() if given is not None else ""
        self.origin = forwarding.origin_of(request, guest.peer, tls=guest.tls is not None, trusted=trusted)
        self.ask = Ask(request.method, request.path, Presented.among(request.fields), self.origin.client)
        self.let_in_by: object = _NOBODY
        self.around = (b"", b"")

    def onward(self, visit: Visit, verdict: Allowed) -> bytes:
        """The head that goes to the upstream."""
        if visit.generation is not self.generation:
            return visit.onward(self.request, self.origin, verdict)
        if verdict.credential is not self.let_in_by:
            self.around = visit.around_id(self.request, self.origin, verdict)
            self.let_in_by = verdict.credential
        before, behind = self.around
        return (
            before + visit.request_id.encode() + behind
        )  # an id is one word: ours, or one that was looked at
