"""What an exchange asks of whoever owns it, and the verdicts that it understands.

Must not know: how a verdict comes about, or what is done with it.
"""

from dataclasses import dataclass, field
from typing import Protocol

from rekeyd.http2.fields import Field
from rekeyd.http2.heads import Answer
from rekeyd.http2.protobuf import Wanted
from rekeyd.http2.streams import Stream


@dataclass(frozen=True, slots=True)
class Admit:
    """Let it through, with this head: fields as literals."""

    literals: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class Deny:
    """Answer it with this status of gRPC. `message` is for the client."""

    status: int
    message: str
    extra: tuple[Field, ...] = ()


@dataclass(frozen=True, slots=True)
class Read:
    """It depends on the collections that its messages name."""

    wanted: Wanted


Verdict = Admit | Deny | Read


class Handler(Protocol):
    """Who owns an exchange."""

    def connect(self) -> None:
        """A client of HTTP/2 is there: connect to the upstream."""

    def came(self, stream: Stream) -> Verdict | None:
        """A call came, `stream.call`. None: `Exchange.decide` will be called."""

    def named(self, stream: Stream, collection: bytes | None) -> Verdict | None:
        """Its messages name this collection; None: it ended without a message."""

    def further(self, stream: Stream, collection: bytes) -> Deny | None:
        """Its messages name this one as well; None: that is allowed."""

    def malformed(self, stream: Stream, why: str) -> None:
        """It is no call; `ended` follows."""

    def denied(self, stream: Stream, status: int, why: str) -> None:
        """It was denied for what it sent, after it was judged or before; `ended` follows."""

    def answered(self, stream: Stream, answer: Answer) -> None:
        """A head or trailers go to the client, the upstream's or ours."""

    def ended(self, stream: Stream, failure: str | None) -> None:
        """It is over; `failure` says why where it is not by the book."""
