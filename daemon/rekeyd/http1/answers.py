"""rekeyd's own answers, rendered whole.

The rules: 401 is Qdrant's own words as plain text, everything else Qdrant's JSON form, so that its clients
understand; 401 names its scheme (RFC 9110, 15.5.2). No answer says more than the client needs: no version, no
file, no address.

Must not know: sockets; how a decision was made.
"""

import functools
import json
import math
import re
from collections.abc import Iterable

from rekeyd.access.limiter import whole_seconds
from rekeyd.access.verdict import Denied, Quota, Reason
from rekeyd.http1.request import Field

PHRASES = {
    200: b"OK",
    204: b"No Content",
    400: b"Bad Request",
    401: b"Unauthorized",
    403: b"Forbidden",
    404: b"Not Found",
    405: b"Method Not Allowed",
    408: b"Request Timeout",
    413: b"Content Too Large",
    417: b"Expectation Failed",
    429: b"Too Many Requests",
    431: b"Request Header Fields Too Large",
    500: b"Internal Server Error",
    502: b"Bad Gateway",
    503: b"Service Unavailable",
    504: b"Gateway Timeout",
    505: b"HTTP Version Not Supported",
}

_STATUS_OF = {
    Reason.NO_CREDENTIAL: 401,
    Reason.UNKNOWN_KEY: 401,
    Reason.WEAK_SECRET: 401,
    Reason.REPEATED_CREDENTIAL: 400,
    Reason.PATH_NOT_NORMAL: 400,
    Reason.TOO_MANY_FAILURES: 429,
    Reason.TOO_MANY_WAITING: 429,
    Reason.RATE_LIMITED: 429,
}
"""What is not here was understood, and is refused: 403 (RFC 9110, 15.5.4)."""

_NAMES = re.compile(rb"[A-Za-z0-9_, \t-]+")

JSON: Field = (b"Content-Type", b"application/json")
PLAIN: Field = (b"Content-Type", b"text/plain; charset=utf-8")
ANY_ORIGIN: Field = (b"Access-Control-Allow-Origin", b"*")


def answer(status: int, body: bytes, *fields: Field, method: bytes, minor: int, keep_alive: bool) -> bytes:
    """A whole answer: head and body, without the body for HEAD."""
    lines = [b"HTTP/1.1 %d %b" % (status, PHRASES[status])]
    lines += [name + b": " + value for name, value in fields]
    if status != 204:  # noqa: PLR2004 - RFC 9110, 8.6: no Content-Length in 204
        lines.append(b"Content-Length: %d" % len(body))
    if not keep_alive:
        lines.append(b"Connection: close")
    elif minor == 0:
        lines.append(b"Connection: keep-alive")
    return b"\r\n".join(lines) + b"\r\n\r\n" + (b"" if method == b"HEAD" else body)


answer_again = functools.lru_cache(maxsize=64)(answer)
"""The same for answers of which there are few."""


def status_of(denied: Denied) -> int:
    return _STATUS_OF.get(denied.reason, 403)


def body_of(denied: Denied, duration: float) -> tuple[bytes, tuple[Field, ...]]:
    """Body and fields that tell a client why it was denied. `duration` in seconds."""
    if status_of(denied) == 401:  # noqa: PLR2004
        return denied.message.encode(), (PLAIN, (b"WWW-Authenticate", b"Bearer"))
    fields = [JSON, *quota_fields(denied.quota)]
    if denied.retry_after is not None:
        fields.append((b"Retry-After", b"%d" % whole_seconds(denied.retry_after)))
    return error_body(denied.message, duration), tuple(fields)


def quota_fields(quota: Quota | None) -> tuple[Field, ...]:
    """What a key that has a rate is told of it; `X-RateLimit-Reset` is in seconds from now."""
    if quota is None:
        return ()
    return (
        (b"X-RateLimit-Limit", f"{quota.limit:g}".encode()),
        (b"X-RateLimit-Remaining", b"%d" % quota.remaining),
        (b"X-RateLimit-Reset", b"%d" % math.ceil(quota.reset)),
    )


def error_body(message: str, duration: float) -> bytes:
    """Qdrant's form of an error."""
    return json.dumps(
        {"status": {"error": message}, "time": round(duration, 6)}, separators=(",", ":")
    ).encode()


def preflight_fields(asked: Iterable[Field]) -> tuple[Field, ...]:
    """What a CORS preflight is told: any origin, any method, and the header fields that it asked for."""
    wanted = next((v for name, v in asked if name.lower() == b"access-control-request-headers"), b"")
    return (
        ANY_ORIGIN,
        (b"Access-Control-Allow-Methods", b"GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS"),
        (b"Access-Control-Allow-Headers", wanted if _NAMES.fullmatch(wanted) else b"*"),
        (b"Access-Control-Max-Age", b"3600"),
    )
