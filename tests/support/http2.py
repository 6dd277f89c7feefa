"""An exchange of HTTP/2 without sockets: what each side sends, as frames, and what comes out for the other.

stage = Stage().ready()
stage.client(head(1), data(1, b"…", ends=True))
assert stage.out_upstream()[0].kind == HEADERS
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hpack import Decoder, Encoder

from rekeyd.http2 import frames
from rekeyd.http2.client_side import ClientSide
from rekeyd.http2.exchange import Exchange
from rekeyd.http2.fields import Field, encoded
from rekeyd.http2.frames import END_HEADERS, END_STREAM, Frame, FrameReader
from rekeyd.http2.guard import Limits
from rekeyd.http2.handling import Admit, Deny, Verdict
from rekeyd.http2.heads import Answer
from rekeyd.http2.streams import Stream
from rekeyd.http2.upstream_side import UpstreamSide

PING = b"drained?"
HEAD: tuple[Field, ...] = (
    (b":method", b"POST"),
    (b":scheme", b"https"),
    (b":path", b"/test.Service/Echo"),
    (b":authority", b"localhost:6334"),
    (b"te", b"trailers"),
    (b"content-type", b"application/grpc"),
)
ANSWER: tuple[Field, ...] = ((b":status", b"200"), (b"content-type", b"application/grpc"))
TRAILERS: tuple[Field, ...] = ((b"grpc-status", b"0"), (b"grpc-message", b""))


def with_fields(*more: Field, without: Iterable[bytes] = ()) -> tuple[Field, ...]:
    """The usual head with some fields replaced, left out or added at the end."""
    names = {*without, *(name for name, _ in more if name.startswith(b":"))}
    replaced = {name: value for name, value in more if name.startswith(b":")}
    kept = [
        (name, replaced.get(name, value)) for name, value in HEAD if name not in names or name in replaced
    ]
    return (*kept, *((name, value) for name, value in more if not name.startswith(b":")))


def block(fields: Iterable[Field]) -> bytes:
    """A field block that needs no table."""
    return bytes(Encoder().encode([(n, v, True) for n, v in fields], huffman=False))


def head(stream: int, fields: Iterable[Field] = HEAD, *, ends: bool = False, whole: bool = True) -> bytes:
    flags = (END_STREAM if ends else 0) | (END_HEADERS if whole else 0)
    return frames.frame(frames.HEADERS, flags, stream, block(fields))


def data(stream: int, payload: bytes = b"\0\0\0\0\0", *, ends: bool = False) -> bytes:
    return frames.frame(frames.DATA, END_STREAM if ends else 0, stream, payload)


def settings(payload: bytes = b"", *, ack: bool = False) -> bytes:
    return frames.frame(frames.SETTINGS, frames.ACK if ack else 0, 0, payload)


def message(content: bytes, *, compressed: bool = False) -> bytes:
    """A message as gRPC sends it."""
    return b"%c%b%b" % (compressed, len(content).to_bytes(4, "big"), content)


GREETING = frames.PREFACE + settings()


@dataclass
class Reader:
    """What comes out for one side."""

    frames: FrameReader = field(default_factory=lambda: FrameReader(2**24 - 1))
    decoder: Decoder = field(default_factory=Decoder)

    def read(self, pieces: list[bytes]) -> list[Frame]:
        given = b"".join(pieces)
        pieces.clear()
        return list(self.frames.feed(given.removeprefix(frames.PREFACE)))

    def fields(self, given: Frame) -> dict[bytes, bytes]:
        decoded = self.decoder.decode(given.payload, raw=True)
        return {bytes(name): bytes(value) for name, value in decoded}


@dataclass
class Stage:
    """Everything is let through, unless `judge` says something else. `told` has what the exchange told."""

    judge: Callable[[Stream], Verdict | None] = lambda stream: admitted(stream)  # noqa: PLW0108 - it comes later
    name: Callable[[Stream, bytes | None], Verdict | None] = lambda stream, _: admitted(stream)
    forbidden: frozenset[bytes] = frozenset()
    limits: Limits = field(default_factory=Limits)
    now: float = 0.0
    told: list[tuple[str, int, object]] = field(default_factory=list)
    connects: int = 0

    def __post_init__(self) -> None:
        self.exchange = Exchange(self, self.limits, ping=PING)
        self.client_side = ClientSide(self.exchange, self.now)
        self.upstream_side = UpstreamSide(self.exchange)
        self.at_client = Reader()
        self.at_upstream = Reader()

    # What the exchange asks and tells.

    def connect(self) -> None:
        self.connects += 1

    def came(self, stream: Stream) -> Verdict | None:
        return self.judge(stream)

    def named(self, stream: Stream, collection: bytes | None) -> Verdict | None:
        self.told.append(("named", stream.id, collection))
        return self.name(stream, collection)

    def further(self, stream: Stream, collection: bytes) -> Deny | None:
        self.told.append(("further", stream.id, collection))
        return Deny(7, "nor this one") if collection in self.forbidden else None

    def malformed(self, stream: Stream, why: str) -> None:
        self.told.append(("malformed", stream.id, why))

    def denied(self, stream: Stream, status: int, why: str) -> None:
        self.told.append(("denied", stream.id, (status, why)))

    def answered(self, stream: Stream, answer: Answer) -> None:
        self.told.append(("answered", stream.id, answer))

    def ended(self, stream: Stream, failure: str | None) -> None:
        self.told.append(("ended", stream.id, failure))

    # What the two sides do.

    def ready(self, of_upstream: bytes = b"") -> "Stage":
        """Both have greeted; what came out of it is forgotten."""
        self.client(GREETING)
        self.upstream(settings(of_upstream))
        self.out_client()
        self.out_upstream()
        return self

    def client(self, *sent: bytes, at_once: int | None = None) -> "Stage":
        """The client sends this; `at_once`: in pieces of so many bytes."""
        sent_all = b"".join(sent)
        step = at_once or max(1, len(sent_all))
        for at in range(0, len(sent_all), step):
            self.client_side.feed(sent_all[at : at + step], self.now)
        return self

    def upstream(self, *sent: bytes) -> str | None:
        was_ready = self.exchange.ready
        wrong = self.upstream_side.feed(b"".join(sent), self.now)
        if self.exchange.ready and not was_ready:
            self.client_side.resume(self.now)
        return wrong

    def out_client(self) -> list[Frame]:
        return self.at_client.read(self.exchange.to_client)

    def out_upstream(self) -> list[Frame]:
        return self.at_upstream.read(self.exchange.to_upstream)

    def tells(self, what: str) -> list[object]:
        return [about for kind, _, about in self.told if kind == what]


def admitted(stream: Stream) -> Admit:
    """As it came, without the client's credential."""
    call = stream.call
    assert call is not None
    fields = [(b":method", b"POST"), (b":path", call.path), *call.fields]
    return Admit(encoded((name, value) for name, value in fields if name != b"api-key"))


def denied(_stream: Stream) -> Deny:
    return Deny(16, "no")


def kinds(given: Iterable[Frame]) -> list[int]:
    return [frame.kind for frame in given]
