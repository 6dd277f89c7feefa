"""HTTP/2 frames: bytes in, frames out, and frames to bytes.

The rules are RFC 9113's: nine bytes of head, then the payload (4.1). A frame is given out when it is whole,
whatever the pieces were that it came in; one that is longer than was allowed is a fault as soon as its
length is known (4.2), so that nobody makes us keep it.

Must not know: what a frame means for its stream.
"""

import enum
from collections.abc import Iterator
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client begins with (RFC 9113, 3.4)."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = (
    range(10)
)
END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
HAS_PRIORITY = 0x20
OF_DATA = END_STREAM | PADDED
"""The flags that DATA has; others mean nothing yet, and do not pass."""

SMALLEST_LIMIT = 2**14
"""Bytes of payload that everybody must take (RFC 9113, 4.2)."""
LAST_STREAM = 2**31 - 1
_HEAD = 9


class Code(enum.IntEnum):
    """Error codes (RFC 9113, 7)."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class ConnectionFault(Exception):  # noqa: N818 - RFC 9113, 5.4.1 calls it a connection error; it is theirs
    """The connection can't go on: `code` is for GOAWAY, `why` for the log. Says nothing of what was sent."""

    def __init__(self, code: Code, why: str) -> None:
        self.code = code
        self.why = why
        super().__init__(f"{code.name}: {why}")


class StreamFault(Exception):  # noqa: N818 - as above (RFC 9113, 5.4.2)
    """One stream can't go on: `code` is for RST_STREAM."""

    def __init__(self, code: Code, why: str) -> None:
        self.code = code
        self.why = why
        super().__init__(f"{code.name}: {why}")


class Frame(NamedTuple):
    """One frame, its payload as it came: padding and all."""

    kind: int
    flags: int
    stream: int
    payload: bytes


class FrameReader:
    """Makes frames of bytes. `limit` is the longest payload that the other side may send."""

    def __init__(self, limit: int = SMALLEST_LIMIT) -> None:
        self.limit = limit
        self._rest = bytearray()

    @property
    def begun(self) -> bool:
        """Whether part of a frame has come."""
        return bool(self._rest)

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that are whole now; to be used up before the next call.

        Raises:
            ConnectionFault: a frame is longer than `limit`; those before it are given first.
        """
        source: bytes | bytearray = data
        if self._rest:
            self._rest += data
            source = self._rest
        at, end = 0, len(source)
        try:
            while end - at >= _HEAD:
                length = int.from_bytes(source[at : at + 3], "big")
                if length > self.limit:
                    raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame that is too long")
                begin = at + _HEAD
                if end - begin < length:
                    break
                kind, flags = source[at + 3], source[at + 4]
                stream = int.from_bytes(source[at + 5 : begin], "big") & LAST_STREAM
                at = begin + length
                yield Frame(kind, flags, stream, bytes(source[begin:at]))
        finally:
            if source is data:
                self._rest += data[at:]
            else:
                del self._rest[:at]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame as bytes."""
    return b"%b%c%c%b%b" % (
        len(payload).to_bytes(3, "big"),
        kind,
        flags,
        stream.to_bytes(4, "big"),
        payload,
    )


def headers(stream: int, block: bytes, *, ends: bool) -> bytes:
    """A field block in as many frames as it needs."""
    first, rest = block[:SMALLEST_LIMIT], block[SMALLEST_LIMIT:]
    flags = (END_STREAM if ends else 0) | (0 if rest else END_HEADERS)
    pieces = [frame(HEADERS, flags, stream, first)]
    while rest:
        first, rest = rest[:SMALLEST_LIMIT], rest[SMALLEST_LIMIT:]
        pieces.append(frame(CONTINUATION, 0 if rest else END_HEADERS, stream, first))
    return b"".join(pieces)


def rst_stream(stream: int, code: int) -> bytes:
    return frame(RST_STREAM, 0, stream, code.to_bytes(4, "big"))


def window_update(stream: int, increment: int) -> bytes:
    return frame(WINDOW_UPDATE, 0, stream, increment.to_bytes(4, "big"))


def goaway(last: int, code: int, debug: bytes = b"") -> bytes:
    return frame(GOAWAY, 0, 0, last.to_bytes(4, "big") + code.to_bytes(4, "big") + debug)


def content(given: Frame) -> bytes:
    """The payload of DATA or HEADERS without padding and priority (RFC 9113, 6.1 and 6.2).

    Raises:
        ConnectionFault: there is more padding than payload, or no room for a priority.
    """
    payload = given.payload
    begin, end = 0, len(payload)
    if given.flags & PADDED:
        if not payload:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "padding without its length")
        begin, end = 1, end - payload[0]
    if given.kind == HEADERS and given.flags & HAS_PRIORITY:
        begin += 5
    if begin > end:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than payload")
    return payload[begin:end] if begin or end != len(payload) else payload


def fixed(given: Frame, size: int) -> bytes:
    """The payload of a frame that has one size only."""
    if len(given.payload) != size:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a frame of the wrong size")
    return given.payload


def increment(given: Frame) -> int:
    """What WINDOW_UPDATE adds (RFC 9113, 6.9).

    Raises:
        ConnectionFault, StreamFault: nothing is added, by which the stream is named.
    """
    added = int.from_bytes(fixed(given, 4), "big") & LAST_STREAM
    if not added:
        fault = StreamFault if given.stream else ConnectionFault
        raise fault(Code.PROTOCOL_ERROR, "a window that grows by nothing")
    return added
