"""The messages inside DATA: how long they are, and which collections they name.

gRPC puts five bytes before each message: whether it is compressed, and its length (PROTOCOL-HTTP2.md,
"Length-Prefixed-Message"). Where names matter all messages of a stream must name the same collection: what
is found first is what is judged, and everything after it, up to the end of the last message, must say the
same. Nobody needs to keep a message for that, however long it is. Compression is read where it is gzip,
alone, with nothing behind it.

Must not know: rights, frames.
"""

import zlib
from collections.abc import Iterator

from rekeyd.http2.protobuf import MOST_FIELDS, MOST_NAMES, MessageFault, Scan, Wanted

_PREFIX = 5
_INFLATED_AT_ONCE = 64 * 1024
_SPARE_FIELDS = 1_000
"""Of all messages of a stream, beyond one for each byte that was sent: only what is compressed has more, and
some hundred bytes of it would keep everybody waiting for a second."""


class Messages:
    """Follows the messages of one stream, whose DATA comes in pieces.

    `limit` is the longest message in bytes, as it is sent and where it is read also as it is inflated. With
    `wanted` each message is searched: `collection` is what all have named so far.
    """

    __slots__ = (
        "_fresh",
        "_gzip",
        "_inflate",
        "_inflated",
        "_left",
        "_limit",
        "_prefix",
        "_scan",
        "_spare",
        "_told",
        "_wanted",
        "collection",
    )

    def __init__(self, limit: int, *, wanted: Wanted | None = None, encoding: bytes = b"identity") -> None:
        self._limit = limit
        self._wanted = wanted
        self._fresh: list[bytes] = []
        """The further names that were not given out yet."""
        self._told: set[bytes] = set()
        self._gzip = encoding.lower() == b"gzip"
        self._prefix = b""
        self._left = 0
        self._scan: Scan | None = None
        self._spare = _SPARE_FIELDS
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
        if self._prefix and self._wanted is not None:
            raise MessageFault("a message that breaks off")

    def further(self) -> list[bytes]:
        """The further collections that are named, and were not given out yet."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def _begin(self) -> None:
        self._left = int.from_bytes(self._prefix[1:], "big")
        if self._left > self._limit:
            raise MessageFault("a message that is too long", too_long=True)
        if self._wanted is None:
            return
        self._scan, self._inflated = Scan(self._wanted), 0
        self._scan.fields_left = self._spare
        self._inflate = None
        if self._prefix[0] == 1 and self._gzip:
            self._inflate = zlib.decompressobj(zlib.MAX_WBITS | 16)
        elif self._prefix[0]:
            raise MessageFault("a message that is compressed in a way that can't be read here")

    def _look(self, part: bytes) -> None:
        if self._scan is None:
            return
        self._scan.fields_left = min(MOST_FIELDS, self._scan.fields_left + len(part))
        for plain in (part,) if self._inflate is None else self._plain(part, self._inflate):
            self._scan.feed(plain)
        self._note(self._scan.others)
        if self._scan.found is not None:
            self._agree(self._scan.found)

    def _note(self, others: set[bytes]) -> None:
        if others <= self._told:
            return
        self._fresh += others - self._told
        self._told |= others
        if len(self._told) > MOST_NAMES:
            raise MessageFault("messages that name too many collections")

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
        self._spare = min(self._spare, self._scan.fields_left)
        if self._scan.found is None and self.collection is not None:
            raise MessageFault("messages that name different collections")
        if self._scan.found is None:
            self._agree(b"")  # proto3: what is not there is empty
        self._scan = None

    def _agree(self, name: bytes) -> None:
        if self.collection is not None and self.collection != name:
            raise MessageFault("messages that name different collections")
        self.collection = name
