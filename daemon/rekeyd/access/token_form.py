"""The form of a token: bytes to header, claims and signature (JWS compact, RFC 7515, 7.1), nothing believed.

The rules. A token is three parts of base64url in the one way in which they can be written, of at most
`LARGEST` bytes together; the first two are JSON objects. What is not of this form is no token, and may be a
mistyped key. What is, and can't be read in one way only (`strict_json`), or asks for an extension that must
be understood (`crit`, RFC 7515, 4.1.11; `b64`, RFC 7797), can't be judged. Keys and their addresses within a
token (`jwk`, `jku`, `x5c`, `x5u`) are not looked at: whoever made it put them there.

Must not know: keys, what claims mean, the clock.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rekeyd.formats.strict_json import AmbiguousJsonError, NotJsonError, parse_strictly

LARGEST = 8192
"""Bytes. A token is a header field; servers take few that are larger."""

_TOKEN = re.compile(rb"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)")


class UnjudgeableTokenError(Exception):
    """A token that can't be judged; the words begin with "the token" and never repeat what is in it."""


@dataclass(frozen=True, slots=True)
class Token:
    """What stands in a token. Whoever reads it has yet to look at the signature."""

    header: Mapping[str, Any] = field(repr=False)
    claims: Mapping[str, Any] = field(repr=False)
    signed: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    @property
    def algorithm(self) -> str | None:
        """`alg`; None where it is no text."""
        algorithm = self.header.get("alg")
        return algorithm if isinstance(algorithm, str) else None


def read_token(text: bytes) -> Token | None:
    """The token that it is; None where it is none. Raises `UnjudgeableTokenError`."""
    form = _TOKEN.fullmatch(text) if len(text) <= LARGEST else None
    if form is None:
        return None
    header, claims = _object(form[1]), _object(form[2])
    signature = _bytes(form[3])
    if header is None or claims is None or signature is None:
        return None
    if "crit" in header or "b64" in header:
        raise UnjudgeableTokenError("the token asks for an extension that is not known")
    return Token(header, claims, text[: form.end(2)], signature)


def _object(part: bytes) -> dict[str, Any] | None:
    data = _bytes(part)
    if data is None:
        return None
    try:
        value = parse_strictly(data)
    except NotJsonError:
        return None
    except AmbiguousJsonError as error:
        raise UnjudgeableTokenError(f"the token {error}") from None
    return value if isinstance(value, dict) else None


def _bytes(part: bytes) -> bytes | None:
    """None where the part could be written in another way: then it is not ours to guess."""
    try:
        data = base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error:
        return None
    return data if base64.urlsafe_b64encode(data).rstrip(b"=") == part else None
