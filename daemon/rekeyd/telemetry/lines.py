"""One event as one line of JSON.

The rules: a line is always written, whatever the values are; it holds no byte that ends a line or steers a
terminal but its own newline; and a value is written as its own text form, never by its fields, because an
object may hold a secret that its repr leaves out.

Pure. Must not know: where lines go, or which events there are.
"""

import re
import traceback
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

_OPTIONS = orjson.OPT_PASSTHROUGH_DATACLASS
_DEPTH = 16
_FRAMES = 20
_CAUSES = 3

# UTF-8 of DEL, C1 controls, U+2028/2029 and the marks that turn the direction of text: legal in JSON, but a
# terminal obeys the first, some readers end lines at the second, and the third lie to the eye.
_STEERING = re.compile(
    rb"\x7f|\xc2[\x80-\x9f]|\xd8\x9c|\xe2\x80[\x8e\x8f\xa8-\xae]|\xe2\x81[\xa6-\xa9]|\xef\xbb\xbf"
)
# Libraries that parse what came over the network: their messages quote it, and it may hold a key.
_PARSERS = ("aiohttp", "httptools", "multidict", "yarl", "hpack")
WITHHELD = "(withheld: it may quote what a peer sent)"


def stamp(nanoseconds: int) -> str:
    """ISO 8601 in UTC with microseconds, of nanoseconds since the epoch."""
    second = nanoseconds // 1_000_000_000
    last, text = _Second.stamped
    if second != last:
        text = f"{datetime.fromtimestamp(second, UTC):%Y-%m-%dT%H:%M:%S}."
        _Second.stamped = second, text
    return f"{text}{nanoseconds // 1000 % 1_000_000:06d}Z"


def to_json(event: Mapping[str, Any]) -> bytes:
    """The line, its newline included. Never raises."""
    try:
        line = orjson.dumps(event, default=_stand_in, option=_OPTIONS)
    except TypeError:  # lone surrogates, integers over 64 bits, keys that aren't text, a cycle
        line = orjson.dumps(_plain(event, _DEPTH), option=_OPTIONS)
    # The sum is a copy that fits: orjson's own bytes lie in a buffer of a KiB and more, and to keep many of
    # them until they are written costs ten times what rendering does.
    if line.isascii() and b"\x7f" not in line:
        return line + b"\n"
    return _STEERING.sub(_escape, line) + b"\n"


def describe(exception: BaseException) -> dict[str, Any]:
    """An exception in short: type, message, frames as `file:line` (innermost last), and what caused it.

    No local variables; and no message where the exception comes from a library that parses what peers send.
    """
    return _describe(exception, _CAUSES)


def _describe(exception: BaseException, causes: int) -> dict[str, Any]:
    frames = traceback.extract_tb(exception.__traceback__)
    told: dict[str, Any] = {
        "type": _type_name(type(exception)),
        "message": WITHHELD if _may_quote_a_peer(exception, frames) else _text_of(exception),
        "frames": [f"{_short(frame.filename)}:{frame.lineno}" for frame in frames[-_FRAMES:]],
    }
    cause = exception.__cause__ or (None if exception.__suppress_context__ else exception.__context__)
    if cause is not None and causes:
        told["cause"] = _describe(cause, causes - 1)
    if isinstance(exception, BaseExceptionGroup) and causes:
        told["exceptions"] = [_describe(each, causes - 1) for each in exception.exceptions[:_CAUSES]]
    return told


def _may_quote_a_peer(exception: BaseException, frames: Sequence[traceback.FrameSummary]) -> bool:
    if type(exception).__module__.startswith(_PARSERS):
        return True
    innermost = Path(frames[-1].filename).parts if frames else ()
    return isinstance(exception, ValueError) and any(library in innermost for library in _PARSERS)


def _short(filename: str) -> str:
    for root in ("/site-packages/", "/daemon/"):
        if (at := filename.rfind(root)) >= 0:
            return filename[at + len(root) :]
    return filename


def _type_name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


class _Second:
    """The second last stamped: most lines share theirs with the line before."""

    stamped = -1, ""


def _escape(match: re.Match[bytes]) -> bytes:
    return b"\\u%04x" % ord(match.group().decode())


def _text_of(value: object) -> str:
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a value that can't say what it is must not lose the line
        return f"({_type_name(type(value))} without a text form: {_type_name(type(error))})"


def _stand_in(value: object) -> Any:
    """What orjson writes for a value that it doesn't know."""
    match value:
        case bytes() | bytearray() | memoryview():
            return bytes(value).decode("utf-8", "backslashreplace")
        case BaseException():
            return f"{_type_name(type(value))}: {_text_of(value)}"
        case set() | frozenset():
            return sorted(map(_text_of, value))
        case Mapping():
            return dict(value)
        case _:
            return _text_of(value)


def _plain(value: object, depth: int) -> Any:
    """A copy that orjson takes whatever is in it; deeper than `depth` the text form stands."""
    match value:
        case None | bool() | float():
            return value
        case int():
            return int(value) if -(1 << 63) <= value < 1 << 64 else str(int(value))
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case Mapping() if depth:
            return {_plain(_text_of(key), 0): _plain(each, depth - 1) for key, each in value.items()}
        case list() | tuple() if depth:
            return [_plain(each, depth - 1) for each in value]
        case Mapping() | list() | tuple():
            return "(nested too deeply)"
        case datetime():
            return value.isoformat()
        case _:
            other = _stand_in(value)
            return _plain(other, depth) if isinstance(other, list) else _plain(_text_of(other), 0)
