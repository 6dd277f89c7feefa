"""Which further collections a JSON body names: `lookup_from` and `with_lookup` of Qdrant's searches.

The rule: who is limited to collections must not reach another one through the body of a request. A body in
which no such member can stand is not parsed: none of their names is in it, nor what could spell one (a
backslash, a zero byte). Any other must be JSON in UTF-8 of at most `LARGEST` bytes without a member that
appears twice (two readers could take either), and every member of such a name counts, at any depth.

Must not know: who asks, or what they may do.
"""

import json
from collections.abc import Sequence
from typing import Any

from rekeyd.formats.strict_json import AmbiguousJsonError, object_once

LARGEST = 1024 * 1024
"""Bytes of a body that is parsed."""
_DISGUISES = (b"\\", b"\0")
"""An escape, and UTF-16 or UTF-32."""
_MEMBER = "collection"


class UnjudgeableError(Exception):
    """What the body names can't be known; the words never repeat it."""


def collections_named_in(body: bytes, members: Sequence[str]) -> frozenset[bytes]:
    """The names, as UTF-8.

    Raises:
        UnjudgeableError: it may name one, and can't be read.
    """
    if not any(sign in body for sign in (*_DISGUISES, *(member.encode() for member in members))):
        return frozenset()
    if len(body) > LARGEST:
        raise UnjudgeableError("the body is too large to see which collections it names")
    found: list[Any] = []

    def note(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        whole = object_once(pairs)
        found.extend(value for name, value in pairs if name in members)
        return whole

    try:
        json.loads(body.decode("utf-8"), object_pairs_hook=note)
    except AmbiguousJsonError as error:
        raise UnjudgeableError(f"the body {error}") from None
    except (ValueError, RecursionError):
        raise UnjudgeableError("the body is not JSON") from None
    return frozenset(_name_in(value) for value in found if value is not None)


def _name_in(value: Any) -> bytes:
    name = value.get(_MEMBER) if isinstance(value, dict) else value
    if not isinstance(name, str):
        raise UnjudgeableError("the body names a collection in a form that is not known")
    return name.encode("utf-8", "surrogatepass")
