"""What of a message goes on, and what a gateway changes in it.

The rules: bytes pass as they came, in their order. Removed are hop-by-hop fields, in both directions (RFC
9110, 7.6.1: those named by Connection, and the known ones); the client's credential; ways to name another
method or path than the one that was judged; fields in our own name. A field is removed in every spelling that
some server takes for it: many make variables of fields, where `API_KEY` is `api-key` (RFC 3875, 4.1.18).
Added are framing, `X-Forwarded-*`, the request id and `upstream.api_key`; nothing else that nobody asked for.
Whatever is given, each field comes out as one line.

Must not know: sockets, who was let in and why.
"""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from rekeyd.http1.request import NO_BODY, Field, Framing, Request, tokens
from rekeyd.http1.response import SWITCHING_PROTOCOLS, ResponseHead

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_HOP_BY_HOP = frozenset(
    b"connection keep-alive proxy-connection proxy-authenticate proxy-authorization"
    b" te trailer transfer-encoding upgrade".split()
)
# Written anew: where they come from is ours to say.
_OURS_TO_SAY = frozenset(b"host content-length expect x-request-id".split())
_ANOTHER_REQUEST = frozenset(
    b"x-http-method-override x-http-method x-method-override x-original-url x-rewrite-url".split()
)
_REWRITTEN = frozenset(b"x-forwarded-for x-forwarded-proto x-forwarded-host".split())
_NEVER_ONWARD = _HOP_BY_HOP | _OURS_TO_SAY | _ANOTHER_REQUEST | _REWRITTEN | {b"http2-settings"}
_OF_PROXIES = frozenset({b"forwarded", b"x-real-ip"})
_CREDENTIALS = frozenset({b"api-key", b"authorization"})
_DROPPED = _NEVER_ONWARD | _CREDENTIALS
OURS = b"x-rekeyd-"
_MAY_BE_CLAIMED = (b"x-", b"forwarded")
"""All that `_is_claimed` says yes to begins so."""

# Lower case, and "-" for all that is no letter and no digit.
_SPELLINGS = bytes(b if chr(b).isalnum() else ord("-") for b in bytes(range(128)).lower()) + b"-" * 128
_BREAK = re.compile(rb"[\r\n\x00]+")
_END = b"\r\n\r\n"
_MAPPED = "::ffff:"
# An address as proxies write it: bare, or with a port, for which an IPv6 one has brackets.
_HOP = re.compile(rb"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]+)")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request really came from: addresses and scheme as the next server should see them.

    `vouched`: a trusted proxy sent it, so what it says about the client passes.
    """

    client: str
    vouched: bool
    forwarded_for: bytes
    proto: bytes
    host: bytes


class Headed(Protocol):
    """A request of any version of HTTP, as far as it says where it comes from."""

    @property
    def authority(self) -> bytes: ...

    @property
    def fields(self) -> tuple[Field, ...]: ...

    def first(self, name: bytes) -> bytes | None: ...


def origin_of(request: Headed, peer: str, *, tls: bool, trusted: Sequence[IPNetwork]) -> Origin:
    """The client behind trusted proxies; without them the peer, and nothing that it says about others.

    `X-Forwarded-For` is read from its end: the first address that no trusted proxy owns is the client. What
    is no address ends the search, since whoever wrote it may have written all that stands before it.
    """
    proto = b"https" if tls else b"http"
    client = _address(peer) if trusted or peer.startswith(_MAPPED) else None
    peer = str(client or peer)
    if client is None or not _is_within(client, trusted):
        return Origin(peer, False, peer.encode(), proto, request.authority)
    values = [v for name, v in request.fields if name.lower() == b"x-forwarded-for"]
    hops = [hop for value in values for member in value.split(b",") if (hop := member.strip(b" \t"))]
    for hop in reversed(hops):
        before = _hop(hop)
        if before is None:
            break
        client = before
        if not _is_within(client, trusted):
            break
    told = request.first(b"x-forwarded-proto")
    return Origin(
        str(client),
        True,
        b", ".join([*hops, peer.encode()]),
        told.lower() if told is not None and told.lower() in {b"http", b"https"} else proto,
        request.first(b"x-forwarded-host") or request.authority,
    )


def _hop(text: bytes) -> IPAddress | None:
    match = _HOP.fullmatch(text)
    return _address((match[1] or match[2] or match[3]).decode()) if match else None


def _address(text: str) -> IPAddress | None:
    """An address; one of IPv4 that came through a socket of IPv6 is one of IPv4 (RFC 4291, 2.5.5.2)."""
    try:
        ip = ipaddress.ip_address(text)
    except ValueError:
        return None
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        return ip.ipv4_mapped
    return ip


def _is_within(ip: IPAddress, networks: Sequence[IPNetwork]) -> bool:
    return any(ip in network for network in networks)


def onward(
    request: Request,
    origin: Origin,
    *,
    request_id: bytes,
    default_authority: bytes,
    added: Sequence[Field] = (),
    keep_credentials: bool = False,
) -> bytes:
    """The head that the upstream gets, in HTTP/1.1."""
    around = around_id(
        request, origin, default_authority=default_authority, added=added, keep_credentials=keep_credentials
    )
    return with_id(around, request_id)


def around_id(
    request: Request,
    origin: Origin,
    *,
    default_authority: bytes,
    added: Sequence[Field] = (),
    keep_credentials: bool = False,
) -> tuple[bytes, bytes]:
    """The same head without its request id: what stands before it, and what behind."""
    dropped = _NEVER_ONWARD if keep_credentials else _DROPPED
    if request.options:
        dropped = dropped.union([name.translate(_SPELLINGS) for name in request.options])
    lines = [
        request.method + b" " + request.target + b" HTTP/1.1",
        b"Host: " + (request.authority or default_authority),
    ]
    lines += [
        name + b": " + value
        for name, value in request.fields
        if (known := name.translate(_SPELLINGS)) not in dropped
        and not (known.startswith(_MAY_BE_CLAIMED) and _is_claimed(name, known, vouched=origin.vouched))
    ]
    if request.framing is not NO_BODY:
        lines += _framing_lines(request.framing)
    if request.options:
        lines += _hop_lines(request)
    lines += [
        b"X-Forwarded-For: " + origin.forwarded_for,
        b"X-Forwarded-Proto: " + origin.proto,
        b"X-Forwarded-Host: " + origin.host,
        b"X-Request-Id: ",
    ]
    return _lines(lines), _head([b"", *[name + b": " + value for name, value in added]]) if added else _END


def with_id(around: tuple[bytes, bytes], request_id: bytes) -> bytes:
    """The head, of what is around its request id."""
    return around[0] + _BREAK.sub(b" ", request_id) + around[1]


def _head(lines: list[bytes]) -> bytes:
    return _lines(lines) + _END


def _lines(lines: list[bytes]) -> bytes:
    """The lines as they are sent; a byte that would make two of one becomes a blank."""
    joined = b"\r\n".join(lines)
    if joined.count(b"\n") + joined.count(b"\r") > 2 * (len(lines) - 1) or b"\x00" in joined:
        joined = b"\r\n".join([_BREAK.sub(b" ", line) for line in lines])
    return joined


def _is_claimed(name: bytes, known: bytes, *, vouched: bool) -> bool:
    """Whether a client claims with this field what only rekeyd or a trusted proxy may say.

    A proxy uses the usual spelling: another one may have passed it unnoticed.
    """
    if known.startswith(OURS):
        return True
    of_proxies = known.startswith(b"x-forwarded-") or known in _OF_PROXIES
    return of_proxies and not (vouched and name.lower() == known)


def _framing_lines(framing: Framing) -> list[bytes]:
    if framing.chunked:
        return [b"Transfer-Encoding: chunked"]
    return [] if framing.length is None else [b"Content-Length: %d" % framing.length]


def _hop_lines(request: Request) -> list[bytes]:
    """Without options in Connection there is none."""
    if request.upgrades:
        return [b"Connection: Upgrade", b"Upgrade: websocket"]
    if b"te" in request.options and b"trailers" in tokens(
        [v for name, v in request.fields if name.lower() == b"te"]
    ):
        return [b"Connection: TE", b"TE: trailers"]
    return []


def is_bodiless(method: bytes, answer: ResponseHead) -> bool:
    """Whether the answer to such a request has no body, whatever its head says (RFC 9110, 6.4.1)."""
    return method == b"HEAD" or answer.status in {204, 304}


def framing_homeward(answer: ResponseHead, method: bytes, minor: int) -> Framing:
    """Where the length isn't known: chunks for HTTP/1.1 clients, the connection's end for HTTP/1.0."""
    if answer.framing.length is not None or (is_bodiless(method, answer) and not answer.framing.chunked):
        return answer.framing
    return Framing(chunked=minor > 0)


def homeward(
    head: ResponseHead,
    framing: Framing,
    *,
    minor: int,
    keep_alive: bool,
    cors: bool = False,
    added: Sequence[Field] = (),
) -> bytes:
    """The head that the client gets.

    `framing` says how the body is sent to it; with neither length nor chunks the body ends with the
    connection. `minor` is the client's HTTP/1 minor version. `added` fields take the place of the upstream's.
    """
    named = tokens([v for name, v in head.fields if name.lower() == b"connection"])
    dropped = _HOP_BY_HOP | named | {b"content-length"} | {name.lower() for name, _ in added}
    lines = [b"HTTP/1.1 %d " % head.status + head.reason]
    lines += [name + b": " + value for name, value in head.fields if name.lower() not in dropped]
    lines += _framing_lines(framing)
    if cors and not any(name.lower() == b"access-control-allow-origin" for name, _ in head.fields):
        lines.append(b"Access-Control-Allow-Origin: *")
    lines += [name + b": " + value for name, value in added]
    if head.status == SWITCHING_PROTOCOLS:
        lines += [b"Connection: Upgrade", b"Upgrade: websocket"]
    elif not keep_alive:
        lines.append(b"Connection: close")
    elif minor == 0:
        lines.append(b"Connection: keep-alive")
    return _head(lines)


def chunk(piece: bytes) -> bytes:
    """One piece of a body as a chunk (RFC 9112, 7.1)."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


LAST_CHUNK = b"0\r\n\r\n"
