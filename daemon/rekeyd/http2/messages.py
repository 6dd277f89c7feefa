"""The messages inside DATA: how long they are, and which collection they name.

gRPC puts five bytes before each message: whether it is compressed, and its length (PROTOCOL-HTTP2.md,
"Length- Prefixed-Message"). A message of protobuf is a sequence of fields, of which the last one of a number
wins where there should be one only. So a name may be believed when all occurrences agree: what is found
first is what is judged, and everything after it, up to the end of the last message of the stream, must say
the same. Nobody needs to keep a message for that, however long it is.

What is not understood is a fault: groups, numbers out of range, another wire type for the field, a length
that points outside, compression other than gzip, or more behind it. Must not know: rights, frames.
"""

import zlib
from collections.abc import Iterator

_PREFIX = 5
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10
LONGEST_NAME = 1024
"""Bytes of a name: a longer one is nobody's."""
_INFLATED_AT_ONCE = 64 * 1024


class MessageFault(Exception):  # noqa: N818 - the client's
    """A message that can't be passed on. `too_long`: because of its length."""

    def __init__(self, why: str, *, too_long: bool = False) -> None:
        self.why = why
        self.too_long = too_long
        super().__init__(why)


def collection_in(message: bytes, field: int) -> bytes | None:
    """The text that `field` of a whole message names; None where it has none.

    Raises:
        MessageFault: it is no message, or occurrences of the field differ.
    """
    scan = Scan(field)
    scan.feed(message)
    scan.end()
    return scan.found


class Scan:
    """Looks for one field at the top of a message that comes in pieces."""

    __slots__ = ("_field", "_kept", "_left", "_naming", "found")

    def __init__(self, field: int) -> None:
        self._field = field
        self._kept = bytearray()
        """A piece of a key, a length or a name, until it is whole."""
        self._left = 0
        """Bytes to skip."""
        self._naming: int | None = None
        """The length of the name that comes."""
        self.found: bytes | None = None

    def feed(self, piece: bytes) -> None:
        """The next bytes. Raises MessageFault."""
        at = 0
        while at < len(piece):
            if self._left:
                step = min(self._left, len(piece) - at)
                self._left -= step
                at += step
            elif self._naming is not None:
                at += self._name(piece[at : at + self._naming - len(self._kept)])
            else:
                at = self._key(piece, at)
        if self._naming == len(self._kept):  # an empty name at the very end
            self._name(b"")

    def end(self) -> None:
        """The message is over. Raises MessageFault where it broke off."""
        if self._left or self._kept or self._naming is not None:
            raise MessageFault("a message that breaks off in a field")

    def _name(self, piece: bytes) -> int:
        self._kept += piece
        if len(self._kept) == self._naming:
            name = bytes(self._kept)
            self._kept.clear()
            self._naming = None
            if self.found is not None and self.found != name:
                raise MessageFault("a message that names two collections")
            self.found = name
        return len(piece)

    def _key(self, piece: bytes, at: int) -> int:
        """One byte of a key and what belongs to it; most keys are one byte, and a length is one or two."""
        self._kept.append(piece[at])
        if len(self._kept) > 2 * _LONGEST_VARINT:
            raise MessageFault("a number that is too long")
        key, behind = _varint(self._kept, 0)
        if key is None:
            return at + 1
        number, wire = key >> 3, key & 7
        if not 0 < number < 2**29:
            raise MessageFault("a field with a number out of range")
        if wire == _LENGTH:
            length, _ = _varint(self._kept, behind)
            if length is not None:
                self._kept.clear()
                self._long_field(number, length)
        elif number == self._field:
            raise MessageFault("a field of another kind in the place of the name")
        elif wire == _VARINT:
            value, _ = _varint(self._kept, behind)
            if value is not None:
                self._kept.clear()
        elif wire in {_FIXED32, _FIXED64}:
            self._kept.clear()
            self._left = 4 if wire == _FIXED32 else 8
        else:
            raise MessageFault("a field of a kind that is not used any more")
        return at + 1

    def _long_field(self, number: int, length: int) -> None:
        if number != self._field:
            self._left = length
        elif length > LONGEST_NAME:
            raise MessageFault("a name that is too long")
        else:
            self._naming = length


def _varint(data: bytearray, at: int) -> tuple[int | None, int]:
    """The number that begins at `at` and where it ends; None where it is not whole."""
    value = 0
    for place, byte in enumerate(data[at : at + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << 7 * place
        if byte < 0x80:  # noqa: PLR2004 - the high bit says that more follows
            return value, at + place + 1
    if len(data) - at >= _LONGEST_VARINT:
        raise MessageFault("a number that is too long")
    return None, at


class Messages:
    """Follows the messages of one stream, whose DATA comes in pieces.

    `limit` is the longest message in bytes, as it is sent and where it is read also as it is inflated. With
    `field` each message is searched for the name in it: `collection` is what all have named so far.
    """

    __slots__ = (
        "_field",
        "_gzip",
        "_inflate",
        "_inflated",
        "_left",
        "_limit",
        "_prefix",
        "_scan",
        "collection",
    )

    def __init__(self, limit: int, *, field: int | None = None, encoding: bytes = b"identity") -> None:
        self._limit = limit
        self._field = field
        self._gzip = encoding.lower() == b"gzip"
        self._prefix = b""
        self._left = 0
        self._scan: Scan | None = None
        self._inflate: zlib._Decompress | None = None  # the module names its class so
        self._inflated = 0
        self.collection: bytes | None = None

    def feed(self, piece: bytes) -> None:
        """The next bytes of the stream. Raises MessageFault."""
        if len(piece) < self._left and self._scan is None:
            self._left -= len(piece)  # the most frequent case by far
            return
        at = 0
        while at < len(piece) or (self._left == 0 and len(self._prefix) == _PREFIX):
            if len(self._prefix) < _PREFIX:
                missing = _PREFIX - len(self._prefix)
                self._prefix += piece[at : at + missing]
                at += missing
                if len(self._prefix) == _PREFIX:
                    self._begin()
                continue
            part = piece[at : at + self._left]
            at += len(part)
            self._left -= len(part)
            self._look(part)
            if not self._left:
                self._end()

    def end(self) -> None:
        """The stream is over. Raises MessageFault where it broke off in a message that is searched."""
        if self._prefix and self._field is not None:
            raise MessageFault("a message that breaks off")

    def _begin(self) -> None:
        self._left = int.from_bytes(self._prefix[1:], "big")
        if self._left > self._limit:
            raise MessageFault("a message that is too long", too_long=True)
        if self._field is None:
            return
        self._scan, self._inflated = Scan(self._field), 0
        self._inflate = None
        if self._prefix[0] == 1 and self._gzip:
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        elif self._prefix[0]:
            raise MessageFault("a message that is compressed in a way that can't be read here")

    def _look(self, part: bytes) -> None:
        if self._scan is None:
            return
        for plain in (part,) if self._inflate is None else self._plain(part, self._inflate):
            self._scan.feed(plain)
        if self._scan.found is not None:
            self._agree(self._scan.found)

    def _plain(self, part: bytes, inflate: "zlib._Decompress") -> Iterator[bytes]:
        more = True
        while more:
            try:
                plain = inflate.decompress(part, _INFLATED_AT_ONCE)
            except zlib.error:
                raise MessageFault("a message whose compression is broken") from None
            self._inflated += len(plain)
            if self._inflated > self._limit:
                raise MessageFault("a message that is too long", too_long=True)
            yield plain
            if inflate.unused_data:
                raise MessageFault("a message with something behind its end")
            part = inflate.unconsumed_tail
            more = bool(part) or len(plain) == _INFLATED_AT_ONCE  # some of it may be kept inside

    def _end(self) -> None:
        self._prefix = b""
        if self._scan is None:
            return
        if self._inflate is not None and not self._inflate.eof:
            raise MessageFault("a message whose compression is broken")
        self._scan.end()
        if self._scan.found is None and self.collection is not None:
            raise MessageFault("messages that name different collections")
        if self._scan.found is None:
            self._agree(b"")  # proto3: what is not there is empty
        self._scan = None

    def _agree(self, name: bytes) -> None:
        if self.collection is not None and self.collection != name:
            raise MessageFault("messages that name different collections")
        self.collection = name
