"""JSON that can be read in one way only (RFC 8259), for what others sign or publish and we believe.

The rules: UTF-8; no member twice in one object, of which two readers could take either (RFC 8259, 4); numbers
finite and of a size that a program would write. What is not JSON at all is told from what is and can't be
judged.

Must not know: what is read.
"""

import json
import math
from typing import Any, NoReturn

_LONGEST_NUMBER = 32
"""Characters; more is no time, no size and no count."""


class NotJsonError(ValueError):
    """It is no JSON text."""


class AmbiguousJsonError(ValueError):
    """It is JSON that can't be judged; the words complete "the … " and never repeat it."""


def parse_strictly(source: bytes) -> Any:
    """The value. Raises `NotJsonError`, `AmbiguousJsonError`."""
    try:
        return _DECODER.decode(source.decode("utf-8"))
    except AmbiguousJsonError:
        raise
    except RecursionError:
        raise AmbiguousJsonError("nests too deeply") from None
    except ValueError:
        raise NotJsonError("it is not JSON") from None  # from None: the original quotes it


def object_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """For decoders: the object, whose names must differ. Raises `AmbiguousJsonError`."""
    whole = dict(pairs)
    if len(whole) != len(pairs):
        raise AmbiguousJsonError("has a member twice")
    return whole


def _integer(text: str) -> int:
    return int(_of_a_size(text))


def _float(text: str) -> float:
    number = float(_of_a_size(text))
    return number if math.isfinite(number) else no_constant(text)


def _of_a_size(text: str) -> str:
    if len(text) > _LONGEST_NUMBER:
        raise AmbiguousJsonError("has a number that is too long")
    return text


def no_constant(_text: str) -> NoReturn:
    """For decoders: NaN and the infinities are no JSON. Raises `AmbiguousJsonError`."""
    raise AmbiguousJsonError("has a number that is not finite")


_DECODER = json.JSONDecoder(
    object_pairs_hook=object_once, parse_int=_integer, parse_float=_float, parse_constant=no_constant
)
