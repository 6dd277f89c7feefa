"""Is a request path in the one form that every server reads alike?

The rule: a path is judged as the bytes that are forwarded. Where a server behind rekeyd might read those
bytes as another path (it removes dot segments, joins `//`, cuts at `;`, decodes twice or sloppily), judging
them proves nothing, so such a path needs the highest right. Normal is what RFC 3986 allows in a path, without
parameters (`;`), empty segments inside, dot segments, and without percent-encodings that hide a delimiter,
however often they are decoded, or are no UTF-8. Encoded names (`my%20collection`, `%41bc`, `100%25`) are
normal.

Must not know: rights and rules.
"""

import re
from collections.abc import Iterator
from urllib.parse import unquote_to_bytes

# RFC 3986, 3.3: pchar without ";", and "/". A "%" must start an octet; what it encodes is looked at below.
_PCHARS = re.compile(rb"/(?:[A-Za-z0-9\-._~!$&'()*+,=:@/]++|%[0-9A-Fa-f]{2})*+")
_HIDDEN = re.compile(rb"[\x00-\x1f\x7f/\\]")
_DOT_SEGMENT = re.compile(rb"/\.\.?(?:/|\Z)")
_DOTS = (b".", b"..")
_LAYERS = 4
"""More layers of encoding than this are nobody's name; each costs a pass over the segment."""


def is_normal(path: bytes) -> bool:
    """Whether every server reads `path` (the target up to `?`, as it came) as the same segments."""
    if _PCHARS.fullmatch(path) is None or b"//" in path:
        return False
    if _DOT_SEGMENT.search(path):
        return False
    return b"%" not in path or all(_is_plain(s) for s in path.split(b"/") if b"%" in s)


def decoded(segment: bytes) -> bytes:
    """One segment with its percent-encoding undone, once."""
    return unquote_to_bytes(segment)


def layers(segment: bytes) -> Iterator[bytes]:
    """What a segment becomes as it is decoded again and again, `_LAYERS` times or until nothing changes."""
    for _ in range(_LAYERS):
        segment, before = decoded(segment), segment
        yield segment
        if segment == before:
            return


def _is_plain(segment: bytes) -> bool:
    names = list(layers(segment))
    hidden = any(name in _DOTS or _HIDDEN.search(name) for name in names)
    return not hidden and names[-1] in names[:-1] and _is_utf8(names[0])


def _is_utf8(name: bytes) -> bool:
    try:
        name.decode("utf-8")  # strict: an overlong "/" (C0 AF) is not UTF-8
    except UnicodeDecodeError:
        return False
    return True
