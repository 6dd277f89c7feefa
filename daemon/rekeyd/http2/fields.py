"""Field blocks: HPACK in, fields out, and fields to HPACK (RFC 7541).

The rules: a block is decoded within bounds, and every one is, since each changes the table by which the next
is read. What we write refers to no table of ours: every field is a literal, and the first block empties the
other side's table, so that blocks may be left out, added and put in another order.

The library is never asked for its words: they quote what it read, which may be a key. Must not know: what a
field means.
"""

import re
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from hpack import Decoder, HPACKError, OversizedHeaderListError
from hpack.table import HeaderTable

from rekeyd.http2.frames import Code, ConnectionFault

Field = tuple[bytes, bytes]
Fields = tuple[Field, ...]

TABLE_SIZE = 4096
"""Bytes of a decoder's table: the default (RFC 9113, 6.5.2), which neither side is told to change."""
EMPTIED = b"\x20"
"""The table's size set to nothing (RFC 7541, 6.3): goes before our first block."""
_THREE_RESIZINGS = re.compile(rb"(?:[\x20-\x3e]|\x3f[\x80-\xff]*+[\x00-\x7f]){3}")
"""Of the table: nobody needs more than two in a block (RFC 7541, 4.2), and each costs as much as a field."""
_REMEMBERED, _WORTH_REMEMBERING, _WORTH_KNOWING = 16, 1024, 4096
_STATUS_200 = b"\x88"


class BlockReader:
    """Decodes the blocks of one direction of one connection. `limit`: bytes of a field list, with 32 for each
    field as RFC 9113 counts them (10.5.1).

    A block that changes nothing in the table means the same until another does: such are remembered until
    then, and give the very same tuple.
    """

    def __init__(self, limit: int) -> None:
        self._table = _Table()
        self._decoder = Decoder(max_header_list_size=limit)
        self._decoder.header_table = self._table
        self._decoder.max_allowed_table_size = TABLE_SIZE
        self._known: dict[bytes, Fields] = {}

    def read(self, block: bytes) -> Fields:
        """The fields in their order.

        Raises:
            ConnectionFault: it can't be decoded (RFC 9113, 4.3), or holds more than it may.
        """
        known = self._known.get(block)
        if known is not None:
            return known
        self._table.changed = False
        if _THREE_RESIZINGS.match(block):
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a field block that resizes its table for ever")
        try:
            fields = tuple(
                (bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)
            )
        except OversizedHeaderListError:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a field list that is too long") from None
        except (HPACKError, IndexError, ValueError):
            raise ConnectionFault(Code.COMPRESSION_ERROR, "a field block that can't be decoded") from None
        if self._table.changed or len(self._known) >= _REMEMBERED:
            self._known.clear()
        if not self._table.changed and len(block) <= _WORTH_REMEMBERING:
            self._known[block] = fields
        return fields


class _Table(HeaderTable):
    """Notices that it changes."""

    changed = False

    def add(self, name: bytes, value: bytes) -> None:
        self.changed = True
        super().add(name, value)

    @property
    def maxsize(self) -> int:
        return self._maxsize

    @maxsize.setter
    def maxsize(self, newmax: int) -> None:
        self.changed = True
        HeaderTable.maxsize.fset(self, newmax)  # type: ignore[attr-defined]


T = TypeVar("T")


class Known(Generic[T]):
    """What was made of field lists that come again as the same tuple."""

    __slots__ = ("_made",)

    def __init__(self) -> None:
        self._made: dict[int, tuple[Fields, T]] = {}

    def of(self, fields: Fields, make: Callable[[Fields], T]) -> T:
        known = self._made.get(id(fields))
        if known is not None:
            return known[1]  # the tuple is kept, so that no other has its id
        made = make(fields)
        if size_of(fields) > _WORTH_KNOWING:
            return made
        if len(self._made) >= _REMEMBERED:
            self._made.clear()
        self._made[id(fields)] = fields, made
        return made


class BlockWriter:
    """Encodes the blocks of one direction of one connection."""

    def __init__(self) -> None:
        self._first = True

    def write(self, fields: Iterable[Field]) -> bytes:
        """A block."""
        return self.whole(encoded(fields))

    def whole(self, literals: bytes) -> bytes:
        """A block of fields that are encoded already."""
        if self._first:
            self._first = False
            return EMPTIED + literals
        return literals


def encoded(fields: Iterable[Field]) -> bytes:
    """Fields as literals."""
    return b"".join([literal(name, value) for name, value in fields])


def literal(name: bytes, value: bytes) -> bytes:
    """A field that goes into no table (RFC 7541, 6.2.2)."""
    if value == b"200" and name == b":status":
        return _STATUS_200
    return b"\x00%b%b%b%b" % (_length(name), name, _length(value), value)


def _length(text: bytes) -> bytes:
    """A string's length, not Huffman-coded (RFC 7541, 5.1 and 5.2)."""
    length = len(text)
    if length < 0x7F:  # noqa: PLR2004 - seven bits
        return b"%c" % length
    length -= 0x7F
    encoded = bytearray(b"\x7f")
    while length >= 0x80:  # noqa: PLR2004 - seven bits a byte
        encoded.append(length & 0x7F | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


def size_of(fields: Fields) -> int:
    """Bytes of a field list as RFC 9113 counts them (10.5.1)."""
    return sum([len(name) + len(value) + 32 for name, value in fields])
