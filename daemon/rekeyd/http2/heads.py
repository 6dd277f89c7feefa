"""The head of a call: what it must be before it is judged, and what of it goes on.

The rules are RFC 9113's (8.2 and 8.3), read strictly, since the next server speaks HTTP/2 as well and might
be lenient: pseudo-fields once each and first, names in lower case, no field of the connection, no byte that
could end a field elsewhere. A call is POST with a content type of gRPC (not gRPC-Web, which browsers speak
over HTTP/1.1 and which is not served). Trailers hold no pseudo-fields. Removed are the client's credential,
in every spelling that some server takes for it, and what only rekeyd or a trusted proxy may say; added are
the request id, `X-Forwarded-*` and what the caller adds.

Must not know: frames, rights.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from rekeyd.http2.fields import Field, Fields, encoded

_PSEUDO = frozenset({b":method", b":scheme", b":path", b":authority"})
_OF_THE_CONNECTION = frozenset(
    {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade", b"http2-settings"}
)
_NAMES = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]*+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_PATH = re.compile(rb"/[!-~]*")
_AUTHORITY = re.compile(rb"[A-Za-z0-9\-._~%\[\]:]{1,512}")
_GRPC = re.compile(rb"application/grpc(?![-A-Za-z0-9])")
_UNPRINTABLE = re.compile(rb"[^ -$&-~]")
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")

_CREDENTIALS = frozenset({b"api-key", b"authorization", b"proxy-authorization"})
_OURS_TO_SAY = frozenset({b"host", b"x-request-id", b"expect", b"te"})
_REWRITTEN = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host"})
_OF_PROXIES = frozenset({b"forwarded", b"x-real-ip"})
_OURS = b"x-rekeyd-"
# Lower case already; "-" for all that is no letter and no digit.
_SPELLINGS = bytes(b if chr(b).isalnum() else ord("-") for b in range(128)) + b"-" * 128


@dataclass(frozen=True, slots=True)
class Onward:
    """What is said of a call to the upstream beside what the client said.

    `vouched`: a trusted proxy sent it, so what it says of others passes. `keep_credentials`: where rekeyd
    judges no keys they may be the upstream's own.
    """

    scheme: bytes
    authority: bytes
    vouched: bool = False
    keep_credentials: bool = False


@dataclass(frozen=True, slots=True)
class Call:
    """A call that means one thing. `path` is as the client sent it; `fields` are without pseudo-fields."""

    path: bytes
    authority: bytes
    fields: Fields = field(repr=False)
    _onward: dict[Onward, bytes] = field(default_factory=dict, compare=False, repr=False)

    def onward(self, on: Onward) -> bytes:
        """The head that the upstream gets, as literals; whoever calls again and again says mostly the
        same."""
        known = self._onward.get(on)
        if known is None:
            known = self._onward[on] = encoded(onward(self, on))
        return known

    @property
    def method(self) -> str:
        """The full name, as `qdrant.Points/Search`; what is no ASCII can't be in it."""
        return self.path[1:].decode("ascii")

    def first(self, name: bytes) -> bytes | None:
        return next((value for field, value in self.fields if field == name), None)

    @property
    def request_id(self) -> bytes | None:
        """`x-request-id` where it is one, short and plain, that can go into a log."""
        value = self.first(b"x-request-id")
        return value if value is not None and _REQUEST_ID.fullmatch(value) else None

    @property
    def encoding(self) -> bytes:
        """How messages with the compressed flag are compressed; nothing where that is said twice."""
        said = [value for name, value in self.fields if name == b"grpc-encoding"]
        return said[0] if len(said) == 1 else b""


@dataclass(frozen=True, slots=True)
class Malformed:
    """No call: what is malformed ends the stream with PROTOCOL_ERROR (RFC 9113, 8.1.1).

    With a `status` it is sound HTTP and no gRPC, which is told with that HTTP status.
    """

    why: str
    status: int | None = None


def examine(fields: Fields) -> Call | Malformed:
    """A call out of the fields that opened a stream, or what is wrong with them."""
    pseudo: dict[bytes, bytes] = {}
    for at, (name, value) in enumerate(fields):
        if not name.startswith(b":"):
            regular = fields[at:]
            break
        if name not in _PSEUDO or name in pseudo:
            return Malformed("a pseudo-field that is unknown or there twice")
        pseudo[name] = value
    else:
        regular = ()
    why = _why_unsound(regular)
    if why is not None:
        return Malformed(why)
    if _CONTROL.search(b"".join(pseudo.values())):
        return Malformed("a control character in a pseudo-field")
    return _call(pseudo, regular)


def _call(pseudo: dict[bytes, bytes], regular: Fields) -> Call | Malformed:
    method, path = pseudo.get(b":method"), pseudo.get(b":path")
    if method is None or path is None or pseudo.get(b":scheme") not in {b"http", b"https"}:
        return Malformed("a pseudo-field that is missing or can't be")
    if _PATH.fullmatch(path) is None:
        return Malformed("a path with a byte that no path has")
    hosts = {value for name, value in regular if name == b"host"}
    authorities = hosts | {pseudo[b":authority"]} if b":authority" in pseudo else hosts
    if len(authorities) > 1 or not all(_AUTHORITY.fullmatch(each) for each in authorities):
        return Malformed("an authority that is none, or two of them")
    if method != b"POST":
        return Malformed("a method that gRPC does not use", 405)
    call = Call(path, next(iter(authorities), b""), regular)
    types = [value for name, value in regular if name == b"content-type"]
    if len(types) != 1 or _GRPC.match(types[0].lower()) is None:
        return Malformed("a content type that is not gRPC's", 415)
    return call


def why_no_trailers(fields: Fields) -> str | None:
    """What is wrong with the trailers of a client; None where they are sound."""
    if any(name.startswith(b":") for name, _ in fields):
        return "a pseudo-field in trailers"
    return _why_unsound(fields)


def _why_unsound(fields: Fields) -> str | None:
    """RFC 9113, 8.2.1 and 8.2.2."""
    if not all(name for name, _ in fields):
        return "a field without a name"
    if _NAMES.fullmatch(b"".join([name for name, _ in fields])) is None:
        return "a field name that is no token in lower case"
    if _CONTROL.search(b"".join([value for _, value in fields])):
        return "a control character in a field"
    for name, value in fields:
        if name in _OF_THE_CONNECTION or (name == b"te" and value != b"trailers"):
            return "a field of the connection"
        if value and (value[0] in b" \t" or value[-1] in b" \t"):
            return "a blank at the edge of a field"
    return None


def passed_on(fields: Fields, *, vouched: bool = False, keep_credentials: bool = False) -> list[Field]:
    """Of a client's fields, in the head or the trailers, those that the upstream may see."""
    return [
        (name, value)
        for name, value in fields
        if not _is_ours_to_say(name, vouched=vouched, keep_credentials=keep_credentials)
    ]


def _is_ours_to_say(name: bytes, *, vouched: bool, keep_credentials: bool) -> bool:
    known = name.translate(_SPELLINGS)
    if known in _CREDENTIALS:
        return not keep_credentials
    if known in _OURS_TO_SAY or known in _REWRITTEN or known.startswith(_OURS):
        return True
    of_proxies = known.startswith(b"x-forwarded-") or known in _OF_PROXIES
    # A proxy uses the usual spelling: another one may have passed it unnoticed.
    return of_proxies and not (vouched and name == known)


def onward(call: Call, on: Onward) -> list[Field]:
    """The head that the upstream gets, but for what is said of this call alone."""
    pseudo = [(b":method", b"POST"), (b":scheme", on.scheme), (b":path", call.path)]
    pseudo.append((b":authority", call.authority or on.authority))
    passed = passed_on(call.fields, vouched=on.vouched, keep_credentials=on.keep_credentials)
    return [*pseudo, (b"te", b"trailers"), *passed]


def denial(status: int, message: str, extra: Iterable[Field] = ()) -> list[Field]:
    """A whole answer in one head: Trailers-Only. `status` is gRPC's."""
    head = [(b":status", b"200"), (b"content-type", b"application/grpc")]
    return [*head, *trailers(status, message), *extra]


def trailers(status: int, message: str) -> list[Field]:
    """The end of an answer that has begun."""
    return [(b"grpc-status", b"%d" % status), (b"grpc-message", _escaped(message))]


def _escaped(message: str) -> bytes:
    """Percent-encoded as gRPC's "Status-Message" (PROTOCOL-HTTP2.md)."""
    return _UNPRINTABLE.sub(
        lambda found: b"%%%02X" % ord(found[0]), message.encode("utf-8", "backslashreplace")
    )


@dataclass(frozen=True, slots=True)
class Answer:
    """What the head or the trailers of an answer say. `status` is HTTP's, `grpc_status` gRPC's."""

    status: int | None
    grpc_status: int | None

    @property
    def is_interim(self) -> bool:
        return self.status is not None and self.status < 200  # noqa: PLR2004 - RFC 9110, 15.2


def answer_of(fields: Fields) -> Answer:
    """Read what an upstream answers."""
    found = dict(reversed(fields))  # the first of each name
    return Answer(_number(found.get(b":status")), _number(found.get(b"grpc-status")))


def _number(text: bytes | None) -> int | None:
    return int(text) if text is not None and len(text) <= 3 and text.isdigit() else None  # noqa: PLR2004 - three digits
