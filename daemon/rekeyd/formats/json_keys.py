"""JSON of any length, piece by piece.

The rule: one call of a JSON parser on a file of 20 MB keeps the interpreter for a fifth of a second, in
whichever thread, and with it every connection. So the elements of one long list are parsed one by one, and
each is gone before the next one comes. A name that stands twice in one object is a mistake, as in YAML.

Must not know: what the values mean.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from rekeyd.errors import RekeydError
from rekeyd.formats.strict_json import no_constant, object_once

_PIECE = re.compile(r"[A-Za-z0-9.+-]{0,20}\Z", re.ASCII)
"""What may be left of a number or word where the text breaks off."""
_BLANK = re.compile(r"[ \t\n\r]*")


class TornJsonError(RekeydError):
    """The text ends before its time."""


class UnsoundJsonError(RekeydError):
    """It is no JSON. The words say where, and never what stands there."""


def members_of(source: bytes, *, streamed: str) -> Iterator[tuple[str, Any]]:
    """The members of the object that the source consists of. The value of `streamed`, where it is a list, is
    an iterator over its elements, which must be used up before the next member is asked for.

    Raises:
        TornJsonError: it breaks off.
        UnsoundJsonError: it is no JSON, or no object.
    """
    try:
        text = source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.end >= len(source) and "unexpected end" in error.reason:
            raise TornJsonError from None
        line = source.count(b"\n", 0, error.start) + 1
        raise UnsoundJsonError(f"no UTF-8 text in line {line}") from None
    yield from _Text(text).members(streamed)


class _Text:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._decoder = json.JSONDecoder(object_pairs_hook=object_once, parse_constant=no_constant)

    def members(self, streamed: str) -> Iterator[tuple[str, Any]]:
        self._expect("{")
        seen: set[str] = set()
        while not self._ends("}", first=not seen):
            name = self._value()
            if not isinstance(name, str) or name in seen:
                raise self._unsound()
            seen.add(name)
            self._expect(":")
            if name == streamed and self._next() == "[":
                yield name, self._elements()
            else:
                yield name, self._value()
        if self._next():
            raise self._unsound()

    def _elements(self) -> Iterator[Any]:
        self._expect("[")
        first = True
        while not self._ends("]", first=first):
            first = False
            yield self._value()

    def _ends(self, bracket: str, *, first: bool) -> bool:
        """Whether the bracket stands here, and is passed; else what comes before another piece is."""
        if self._next() == bracket:
            self._at += 1
            return True
        if not first:
            self._expect(",")
        return False

    def _value(self) -> Any:
        self._next()
        try:
            value, self._at = self._decoder.raw_decode(self._text, self._at)
        except json.JSONDecodeError as error:
            if _PIECE.match(self._text, error.pos) or error.msg.startswith("Unterminated string"):
                raise TornJsonError from None
            self._at = error.pos
            raise self._unsound() from None
        except (ValueError, RecursionError):  # a name twice, NaN, a number of thousands of digits; brackets
            raise self._unsound() from None
        return value

    def _expect(self, sign: str) -> None:
        found = self._next()
        if not found:
            raise TornJsonError
        if found != sign:
            raise self._unsound()
        self._at += 1

    def _next(self) -> str:
        """The next character that is not blank; empty at the end."""
        blank = _BLANK.match(self._text, self._at)
        self._at = blank.end() if blank else self._at
        return self._text[self._at : self._at + 1]

    def _unsound(self) -> UnsoundJsonError:
        line = self._text.count("\n", 0, self._at) + 1
        column = self._at - self._text.rfind("\n", 0, self._at)
        return UnsoundJsonError(f"line {line}, column {column}")
