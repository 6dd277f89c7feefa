"""The gRPC service behind every server, in a process of its own: `python -m bench.grpc_upstream`.

It prints its port, ends when its standard input does, and answers each call with one message as soon as
it has all of it. What a call says is not looked at.
"""

import socket

from bench.upstream import PIECE, main
from rekeyd.http2 import frames
from rekeyd.http2.frames import ACK, END_STREAM, Frame, FrameReader, frame
from support.http2 import ANSWER, TRAILERS, block, message

HEAD, LAST = block(ANSWER), block(TRAILERS)
MESSAGE = message(b"hello")


class Caller:
    """One connection of a server, without TLS."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._preface = len(frames.PREFACE)
        self._frames = FrameReader(2**24 - 1)
        connection.sendall(frame(frames.SETTINGS, 0, 0))

    def came(self) -> bool:
        """Read what is there, and answer; False at the end."""
        try:
            data = self.connection.recv(PIECE)
            skipped = data[: self._preface]
            self._preface -= len(skipped)
            answers = [self._answer(each) for each in self._frames.feed(data[len(skipped) :])]
            self.connection.sendall(b"".join(answers))
        except (BrokenPipeError, ConnectionResetError):
            return False
        return bool(data)

    def _answer(self, given: Frame) -> bytes:
        if given.kind == frames.SETTINGS and not given.flags & ACK:
            return frame(frames.SETTINGS, ACK, 0)
        if given.kind == frames.PING and not given.flags & ACK:
            return frame(frames.PING, ACK, 0, given.payload)
        answer = b""
        if given.kind == frames.DATA and given.payload:
            answer += frames.window_update(0, len(given.payload))
        if given.kind in {frames.HEADERS, frames.DATA} and given.flags & END_STREAM:
            answer += frames.headers(given.stream, HEAD, ends=False)
            answer += frame(frames.DATA, 0, given.stream, MESSAGE)
            answer += frames.headers(given.stream, LAST, ends=True)
        return answer


if __name__ == "__main__":
    main(Caller)
