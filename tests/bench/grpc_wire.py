"""gRPC by hand, at the client's end: unary calls in rounds, as frames. Blocking, and cheap.

The first rounds are read to their last field, so that calls that fail do not count as calls. After that
answers are counted by their frames: one message, and one head that ends the stream, for each.
"""

import ssl
import time

from hpack import Decoder

from bench.wire import UnexpectedError
from rekeyd.http2 import frames
from rekeyd.http2.frames import ACK, END_STREAM, Frame, FrameReader, frame
from support.http2 import block, message

AT_ONCE = 10
READ_WHOLE = 3
"""Rounds."""
WIDE = 2**31 - 2**16
"""Added to the window of a connection, so that nobody ever waits for it."""
QUESTION = message(b"\x0a\x05books")
"""A search in the collection `books`, of which nothing else is said."""


def fields_of(key: str) -> bytes:
    """A field block that needs no table."""
    return block(
        [
            (b":method", b"POST"),
            (b":scheme", b"https"),
            (b":path", b"/qdrant.Points/Search"),
            (b":authority", b"localhost"),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", b"bench/1"),
            (b"api-key", key.encode()),
        ]
    )


class Calls:
    """Calls by one connection, `AT_ONCE` at a time."""

    def __init__(self, connection: ssl.SSLSocket, key: str) -> None:
        self._connection = connection
        self._fields = fields_of(key)
        self._frames = FrameReader(2**24 - 1)
        self._decoder = Decoder()
        self._stream = 1
        self._rounds = 0
        connection.sendall(frames.PREFACE + frame(frames.SETTINGS, 0, 0) + frames.window_update(0, WIDE))

    def round(self) -> list[float]:
        """Seconds that each call took. Raises UnexpectedError, or OSError where the connection ends."""
        began = time.perf_counter()
        first, self._stream = self._stream, self._stream + 2 * AT_ONCE
        self._connection.sendall(
            b"".join(
                frames.headers(stream, self._fields, ends=False)
                + frame(frames.DATA, END_STREAM, stream, QUESTION)
                for stream in range(first, self._stream, 2)
            )
        )
        self._rounds += 1
        messages, times = 0, list[float]()
        while len(times) < AT_ONCE:
            for each in self._read():
                messages += each.kind == frames.DATA and len(each.payload) > 0
                if each.kind == frames.HEADERS and each.flags & END_STREAM:
                    times.append(time.perf_counter() - began)
        if messages != AT_ONCE:
            raise UnexpectedError(f"{messages} messages for {AT_ONCE} calls")
        return times

    def _read(self) -> list[Frame]:
        data = self._connection.recv(65536)
        if not data:
            raise ConnectionResetError("closed in the middle of calls")
        found = list(self._frames.feed(data))
        for each in found:
            self._mind(each)
        return found

    def _mind(self, given: Frame) -> None:
        if given.kind in {frames.RST_STREAM, frames.GOAWAY, frames.CONTINUATION}:
            raise UnexpectedError(repr(given))
        if given.kind in {frames.SETTINGS, frames.PING} and not given.flags & ACK:
            answer = given.payload if given.kind == frames.PING else b""
            self._connection.sendall(frame(given.kind, ACK, 0, answer))
        if given.kind == frames.HEADERS and self._rounds <= READ_WHOLE:
            fields = dict(self._decoder.decode(frames.content(given), raw=True))
            if fields.get(b"grpc-status", b"0") != b"0":
                raise UnexpectedError(repr(fields))
