"""The plain head: what most requests look like, read in one step.

The rule: this grammar is narrower than HTTP's, so that what it accepts can be read in one way only, and
whatever else comes is left to a full parser, which refuses or understands it. Plain is origin form in
HTTP/1.1, lines that end with CRLF, names that are tokens directly before their colon, one field of each name,
and a body of known length or none. Nothing in it asks for more than an answer: no upgrade, no expectation, no
transfer coding.

Must not know: sockets, credentials, which paths there are.
"""

import re

from rekeyd.http1.request import Field, Malformed, Request, understood

END_OF_HEAD = b"\r\n\r\n"
MOST_FIELDS = 100

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_VALUE = rb"[\t -~\x80-\xff]*+"
_LINES = rb"(?:" + _TOKEN + rb"++:" + _VALUE + rb"\r\n)*+"
_FIRST = rb"(%b) (/[!-~]*+) HTTP/1\.1\r\n" % "|".join(_METHODS).encode()
_HEAD = re.compile(_FIRST + rb"(" + _LINES + rb")\r\n")
_FIELD = re.compile(rb"([^:]+):[\t ]*+([^\r]*)\r\n")
"""In lines that are such."""


def _beginnings(*words: str) -> bytes:
    found = {word[:length] for word in words for length in range(len(word) + 1)}
    return "|".join(re.escape(each) for each in sorted(found, reverse=True)).encode()


_BEGUN = re.compile(
    _FIRST + _LINES + rb"(?:" + _TOKEN + rb"++(?::" + _VALUE + rb")?)?\r?"
    rb"|(?:%b)(?: /[!-~]*+)? (?:%b)\r?"
    % ("|".join(_METHODS).encode(), _beginnings("HTTP/1.1"))
    + rb"|(?:%b) (?:/[!-~]*+)?" % "|".join(_METHODS).encode()
    + rb"|(?:%b)" % _beginnings(*_METHODS)
)
_UNUSUAL = frozenset({b"transfer-encoding", b"upgrade", b"expect", b"te", b"trailer", b"http2-settings"})
_VERSION = (1, 1)


def read(head: bytes, max_size: int) -> Request | None:
    """The request of a whole head, its blank line included; None where it isn't plain.

    `max_size` bounds target and fields as `size` counts them.
    """
    match = _HEAD.fullmatch(head)
    if match is None:
        return None
    method, target, lines = match.groups()
    found = _FIELD.findall(lines)
    if b" \r" in lines or b"\t\r" in lines:
        found = [(name, value.rstrip(b"\t ")) for name, value in found]
    fields: tuple[Field, ...] = tuple(found)
    named = {name.lower(): [value] for name, value in fields}
    if len(fields) > MOST_FIELDS or len(named) < len(fields) or not _UNUSUAL.isdisjoint(named):
        return None
    # As `size` counts, a field has a byte more than its line at most.
    if len(head) + len(fields) > max_size and size(target, fields) > max_size:
        return None
    request = understood(method, target, _VERSION, fields, named)
    return None if isinstance(request, Malformed) else request


def may_become_plain(data: bytes) -> bool:
    """Whether what has come so far, which holds no end of a head, can be the beginning of a plain one."""
    return _BEGUN.fullmatch(data) is not None


def size(target: bytes, fields: tuple[Field, ...]) -> int:
    """Bytes of a head, its method and line ends about."""
    return len(target) + sum([len(name) + len(value) + 4 for name, value in fields])
