"""What a request must be before it is judged, and what it is then.

The rules are RFC 9112's, read strictly wherever two servers could read a message differently: the target has
origin, absolute (http, https) or asterisk form and no byte that is a control or a blank; the one Host field
holds a host and a port and nothing else; a body is framed by one Content-Length or by `chunked` alone; no
field holds a byte that could end it. CONNECT is not served, and TRACE isn't, which would show a client what
rekeyd adds for the upstream (RFC 9110, 9.3.8).

Must not know: credentials, rights, sockets.
"""

import functools
import ipaddress
import re
from dataclasses import dataclass

Field = tuple[bytes, bytes]

# RFC 3986, 3.2.2, without user information, and without what no resolver knows in a name: sub-delimiters
# (quotes, commas) and percent-encodings.
_AUTHORITY = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|[A-Za-z0-9\-._~]+)(?::([0-9]{0,5}))?")
_LAST_PORT = 65535
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)(.*)", re.DOTALL)
_QUERY = re.compile(rb"[!-~\x80-\xff]*")
_METHOD = re.compile(rb"[A-Z]+(?:-[A-Z]+)*")
_UNSERVED = frozenset({b"CONNECT", b"TRACE", b"GRPC"})
"""`GRPC` is how policies call what is asked by gRPC (`access/policy.py`)."""
_TOKENS = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]*")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LONGEST_LENGTH = 18
"""Digits of a Content-Length: fewer than 2**63 bytes."""
_NO_OPTIONS: frozenset[bytes] = frozenset()
_HOSTS = 64
"""How many names of hosts are remembered for what they are: clients ask for few."""
_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:/+=@-]{1,128}")


@dataclass(frozen=True, slots=True)
class Framing:
    """How the body of a message is delimited: by `length` (bytes), by chunks, or there is none."""

    length: int | None = None
    chunked: bool = False

    @property
    def has_body(self) -> bool:
        return self.chunked or bool(self.length)


NO_BODY = Framing()


@dataclass(frozen=True, slots=True)
class Request:
    """A request that means one thing. Bytes are as the client sent them.

    `target` is in origin or asterisk form; `path` is the target up to `?`. `authority` is empty where the
    client named none (HTTP/1.0). `persists`: the client wants to use the connection again (RFC 9112, 9.3).
    `upgrades` to WebSocket; `asks_for_another` protocol than that and HTTP. `options` are what Connection
    names, in lower case.
    """

    method: bytes
    target: bytes
    path: bytes
    authority: bytes
    minor: int
    fields: tuple[Field, ...]
    framing: Framing
    expects_continue: bool
    upgrades: bool
    persists: bool
    asks_for_another: bool = False
    options: frozenset[bytes] = frozenset()

    def first(self, name: bytes) -> bytes | None:
        for field, value in self.fields:  # not by a generator, which costs as much as all the rest
            if field.lower() == name:
                return value
        return None

    @property
    def request_id(self) -> bytes | None:
        """`X-Request-Id` where it is one, short and plain, that can go into a log."""
        value = self.first(b"x-request-id")
        return value if value is not None and _REQUEST_ID.fullmatch(value) else None


@dataclass(frozen=True, slots=True)
class Malformed:
    """No request that can be judged: the HTTP status to answer with, and why."""

    status: int
    message: str


def examine(
    method: bytes, target: bytes, version: tuple[int, int], fields: tuple[Field, ...]
) -> Request | Malformed:
    """A request out of a parsed head, or what is wrong with it."""
    if version not in {(1, 0), (1, 1)}:
        return Malformed(505, "Only HTTP/1.0 and HTTP/1.1 are spoken here")
    if _METHOD.fullmatch(method) is None or method in _UNSERVED:
        return Malformed(400, "The method is not allowed")
    if not _are_lines(fields):
        return Malformed(400, "A header field is malformed")
    lowered: dict[bytes, list[bytes]] = {}
    for name, value in fields:
        lowered.setdefault(name.lower(), []).append(value)
    return understood(method, target, version, fields, lowered)


def understood(
    method: bytes,
    target: bytes,
    version: tuple[int, int],
    fields: tuple[Field, ...],
    lowered: dict[bytes, list[bytes]],
) -> Request | Malformed:
    """What a head means whose method can be served and whose fields are lines. `lowered` has their values, by
    name in lower case."""
    framing = _framing(lowered, version)
    if isinstance(framing, Malformed):
        return framing
    place = _place(method, target, lowered, version)
    if isinstance(place, Malformed):
        return place
    authority, onward = place
    expect = lowered.get(b"expect", [])
    if expect and [e.lower() for e in expect] != [b"100-continue"]:
        return Malformed(417, "Only 100-continue can be expected")
    options = frozenset(tokens(lowered[b"connection"])) if b"connection" in lowered else _NO_OPTIONS
    return Request(
        method=method,
        target=onward,
        path=onward.partition(b"?")[0],
        authority=authority,
        minor=version[1],
        fields=fields,
        framing=framing,
        expects_continue=bool(expect) and version == (1, 1),
        upgrades=b"upgrade" in lowered
        and method == b"GET"
        and version == (1, 1)
        and not framing.has_body
        and [u.lower() for u in lowered[b"upgrade"]] == [b"websocket"]
        and b"upgrade" in options,
        persists=b"close" not in options and (version == (1, 1) or b"keep-alive" in options),
        asks_for_another=lowered.get(b"upgrade", [b"websocket"])[0].lower() != b"websocket",
        options=options,
    )


def _are_lines(fields: tuple[Field, ...]) -> bool:
    """Whether each field has a name that is a token, and a value that is one line (RFC 9110, 5.1 and 5.5)."""
    return (
        all(name for name, _ in fields)
        and _TOKENS.fullmatch(b"".join([name for name, _ in fields])) is not None
        and _CONTROL.search(b"".join([value for _, value in fields])) is None
    )


def _framing(lowered: dict[bytes, list[bytes]], version: tuple[int, int]) -> Framing | Malformed:
    codings, lengths = lowered.get(b"transfer-encoding"), lowered.get(b"content-length")
    if codings is not None:
        if [c.lower() for c in codings] != [b"chunked"] or lengths is not None or version == (1, 0):
            return Malformed(400, "The body must be framed by one Content-Length or by chunked alone")
        return Framing(chunked=True)
    if lengths is None:
        return NO_BODY
    if len(lengths) > 1 or not lengths[0].isdigit() or len(lengths[0]) > _LONGEST_LENGTH:
        return Malformed(400, "The body must be framed by one Content-Length or by chunked alone")
    return Framing(length=int(lengths[0]))


def _place(
    method: bytes, target: bytes, lowered: dict[bytes, list[bytes]], version: tuple[int, int]
) -> tuple[bytes, bytes] | Malformed:
    """The authority, and the target in origin or asterisk form."""
    hosts = lowered.get(b"host", [])
    if len(hosts) > 1 or (not hosts and version == (1, 1)):
        return Malformed(400, "There must be one Host field")
    authority = hosts[0] if hosts else b""
    if authority and not _is_authority(authority):
        return Malformed(400, "The Host is no host")
    if not target.startswith(b"/") and (match := _ABSOLUTE.fullmatch(target)):
        # RFC 9112, 3.2.2: the target's authority holds, whatever Host says.
        if not _is_authority(match[1]):
            return Malformed(400, "The target names no host")
        authority, rest = match[1], match[2]
        target = rest if rest.startswith(b"/") else b"/" + rest
    asterisk = target == b"*" and method == b"OPTIONS"
    if not (asterisk or target.startswith(b"/")) or _QUERY.fullmatch(target) is None:
        return Malformed(400, "The target is not in a form that is served here")
    return authority, target


@functools.lru_cache(maxsize=_HOSTS)
def _is_authority(text: bytes) -> bool:
    match = _AUTHORITY.fullmatch(text)
    if match is None or int(match[2] or 0) > _LAST_PORT:
        return False
    try:
        return match[1] is None or bool(ipaddress.IPv6Address(match[1].decode()))
    except ValueError:
        return False


def tokens(values: list[bytes]) -> set[bytes]:
    """The members of a comma-separated list field, in lower case (RFC 9110, 5.6.1)."""
    return {token.strip(b" \t").lower() for value in values for token in value.split(b",")} - {b""}


def printable(target: bytes, *, most: int | None = None) -> str:
    """A target as the log may have it: without its query and fragment, in which people put keys; cut at
    `most` bytes."""
    path = target.partition(b"?")[0].partition(b"#")[0]
    return path[:most].decode("ascii", "backslashreplace")
