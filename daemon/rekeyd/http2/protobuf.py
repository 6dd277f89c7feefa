"""Which collections a message of protobuf names, found while it comes in pieces.

A message is a sequence of fields, of which the last one of a number wins where there should be one only, and
the parts of a message within it are merged. So a name may be believed when all occurrences of its field
agree, and every other name counts, wherever it stands. Nothing is kept for that but the piece of a field
that is not whole.

What is not understood is a fault: groups, numbers out of range, another kind of field in the place of a
name, a length that points outside, a message within a message within a message without end. Must not know:
gRPC, rights.
"""

from collections.abc import Mapping
from dataclasses import dataclass

NAME = "name"
"""In a layout: this field names a collection."""
LONGEST_NAME = 1024
"""Bytes of a name: a longer one is nobody's."""
MOST_FIELDS, MOST_NAMES, DEEPEST = 200_000, 100, 64
_VARINT, _LENGTH = 0, 2
_SIZES = {1: 8, 5: 4}
"""Of fields of a fixed size, in bytes, by their kind."""
_NUMBERS = 2**29
"""Fields have lower numbers."""
_LONGEST_VARINT = 10
_WITHOUT_END = float("inf")
Layouts = Mapping[str, Mapping[int, str]]
"""By a message's kind and a field's number: the kind of the message in that field, or `NAME`."""


class MessageFault(Exception):  # noqa: N818 - the client's
    """A message that can't be passed on. `too_long`: because of its length."""

    def __init__(self, why: str, *, too_long: bool = False) -> None:
        self.why = why
        self.too_long = too_long
        super().__init__(why)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to look for: the name in `field`, and all that `layouts` know of, beginning with `kind`."""

    field: int
    kind: str = ""
    layouts: Layouts | None = None

    def within(self, kind: str, number: int) -> str | None:
        return self.layouts.get(kind, {}).get(number) if self.layouts is not None else None


class Scan:
    """Looks through one message. `found` is the name that is wanted, `others` are all further ones."""

    __slots__ = ("_at", "_kept", "_left", "_levels", "_naming", "_wanted", "fields_left", "found", "others")

    def __init__(self, wanted: Wanted) -> None:
        self._wanted = wanted
        self._at = 0
        """Bytes that have come."""
        self.fields_left = MOST_FIELDS
        """How many more there may be: each costs time, however few bytes it was sent in."""
        self._kept = bytearray()
        """A piece of a key, a length or a name, until it is whole."""
        self._left = 0
        """Bytes to skip."""
        self._naming: tuple[int, bool] | None = None
        """The length of the name that comes, and whether it is the one that is wanted."""
        self._levels: list[tuple[float, str]] = [(_WITHOUT_END, wanted.kind)]
        """The messages that it is in: where each ends, and its kind."""
        self.found: bytes | None = None
        self.others: set[bytes] = set()

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises MessageFault."""
        at = 0
        while at < len(piece):
            if self._left:
                step = min(self._left, len(piece) - at)
                self._left -= step
            elif self._naming is not None:
                step = self._name(piece[at : at + self._naming[0] - len(self._kept)])
            elif not (step := self._plain(piece, at)):
                self._key(piece[at])
                step = 1
            at += step
            self._at += step
            self._leave()

    def end(self) -> None:
        """The message is over. Raises MessageFault where it broke off."""
        if self._left or self._kept or self._naming is not None or len(self._levels) > 1:
            raise MessageFault("a message that breaks off in a field")

    def _leave(self) -> None:
        """The messages that end here."""
        while self._at >= self._levels[-1][0] and not self._left and self._naming is None:
            if self._kept or self._at > self._levels[-1][0]:
                raise MessageFault("a field that reaches out of its message")
            self._levels.pop()

    def _name(self, piece: bytes) -> int:
        length, wanted = self._naming or (0, False)
        self._kept += piece
        if len(self._kept) == length:
            name = bytes(self._kept)
            self._kept.clear()
            self._naming = None
            self._note(name, wanted=wanted)
        return len(piece)

    def _note(self, name: bytes, *, wanted: bool) -> None:
        if not wanted:
            self.others.add(name)
            if len(self.others) > MOST_NAMES:
                raise MessageFault("a message that names too many collections")
        elif self.found is not None and self.found != name:
            raise MessageFault("a message that names two collections")
        else:
            self.found = name

    def _plain(self, piece: bytes, begin: int) -> int:
        """How many bytes from `begin` on are whole fields that name nothing.

        Almost all are, and byte by byte they would keep everybody waiting. What is not that plain is left to
        `_key`, the faults as well.
        """
        if self._kept:
            return 0
        end, kind = self._levels[-1]
        stop = int(min(len(piece), begin + end - self._at))
        names = self._wanted.layouts.get(kind, {}) if self._wanted.layouts is not None else {}
        named = self._wanted.field if len(self._levels) == 1 else 0
        at = begin
        while at < stop and self.fields_left:
            number, wire, behind = _key_at(piece, at)
            plain = number not in {0, named} and number not in names
            behind = _end_of(piece, behind, wire) if plain else 0
            if not 0 < behind <= stop:
                break
            self.fields_left -= 1
            at = behind
        return at - begin

    def _key(self, byte: int) -> None:
        """One byte of a key and what belongs to it; most keys are one byte, and a length is one or two."""
        self._kept.append(byte)
        if len(self._kept) > 2 * _LONGEST_VARINT:
            raise MessageFault("a number that is too long")
        key, behind = _varint(self._kept, 0)
        if key is None:
            return
        number, wire = key >> 3, key & 7
        if not 0 < number < _NUMBERS:
            raise MessageFault("a field with a number out of range")
        inside = self._inside(number)
        if wire == _LENGTH:
            length, _ = _varint(self._kept, behind)
            if length is not None:
                self._field(length, inside, wanted=inside == NAME and self._is_wanted(number))
        elif inside is not None:
            raise MessageFault("a field of another kind in the place of a name")
        elif wire == _VARINT:
            value, _ = _varint(self._kept, behind)
            if value is not None:
                self._field(0, None)
        elif wire in _SIZES:
            self._field(_SIZES[wire], None)
        else:
            raise MessageFault("a field of a kind that is not used any more")

    def _inside(self, number: int) -> str | None:
        """What is in a field of the message at hand; None: nothing that matters."""
        return NAME if self._is_wanted(number) else self._wanted.within(self._levels[-1][1], number)

    def _is_wanted(self, number: int) -> bool:
        return len(self._levels) == 1 and number == self._wanted.field

    def _field(self, length: int, inside: str | None, *, wanted: bool = False) -> None:
        """The key and the length are there; `length` bytes follow."""
        self._kept.clear()
        self.fields_left -= 1
        if self.fields_left < 0:
            raise MessageFault("a message of too many fields")
        end = self._at + 1 + length
        if end > self._levels[-1][0]:
            raise MessageFault("a field that reaches out of its message")
        if inside is None:
            self._left = length
        elif inside != NAME:
            self._levels.append((end, inside))
            if len(self._levels) > DEEPEST:
                raise MessageFault("messages within messages without end")
        elif length > LONGEST_NAME:
            raise MessageFault("a name that is too long")
        elif length:
            self._naming = length, wanted
        else:
            self._note(b"", wanted=wanted)


def _key_at(piece: bytes, at: int) -> tuple[int, int, int]:
    """The number and the kind of the field at `at`, and where its key ends; 0 for a key that isn't plain."""
    key, behind = _number_at(piece, at)
    return (0, 0, 0) if key is None or key >> 3 >= _NUMBERS else (key >> 3, key & 7, behind)


def _end_of(piece: bytes, at: int, wire: int) -> int:
    """Where the field ends whose key ends at `at`, perhaps behind the piece; 0 if that is not seen."""
    if wire in _SIZES:
        return at + _SIZES[wire]
    value, behind = _number_at(piece, at) if wire in {_VARINT, _LENGTH} else (None, at)
    if value is None:
        return 0
    return behind + value if wire == _LENGTH else behind


def _number_at(piece: bytes, at: int) -> tuple[int | None, int]:
    """As `_varint`, quick for the numbers of one byte."""
    if at < len(piece) and piece[at] < 0x80:  # noqa: PLR2004 - the high bit says that more follows
        return piece[at], at + 1
    return _varint(piece, at)


def _varint(data: bytes | bytearray, at: int) -> tuple[int | None, int]:
    """The number that begins at `at` and where it ends; None where it is not whole."""
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:  # noqa: PLR2004 - the high bit says that more follows
            return value, at + place + 1
    if len(data) - at >= _LONGEST_VARINT:
        raise MessageFault("a number that is too long")
    return None, at
