"""What the upstream sends: passed to the client, its answers read in passing.

The rules: DATA, windows and PING pass as they are; heads and trailers pass with the same fields, written
anew, so that answers of ours may stand between them; what is for a stream that is over is swallowed, and
credited. What an upstream must not do (push, open streams, interrupt a field block) ends the connection to
it.

Sans I/O. Must not know: rights.
"""

from rekeyd.http2 import frames, heads, parameters
from rekeyd.http2.exchange import Exchange
from rekeyd.http2.fields import BlockReader, Fields, Known, encoded
from rekeyd.http2.frames import (
    ACK,
    END_HEADERS,
    END_STREAM,
    LAST_STREAM,
    Code,
    ConnectionFault,
    Frame,
    StreamFault,
)
from rekeyd.http2.parameters import LARGEST_FRAME
from rekeyd.http2.streams import Stream

LARGEST_BLOCK = 256 * 1024
"""Bytes of a field block of an answer, and of its fields."""
_BROKEN_BY_CLIENT = frozenset(
    {Code.PROTOCOL_ERROR, Code.FLOW_CONTROL_ERROR, Code.STREAM_CLOSED, Code.FRAME_SIZE_ERROR}
)
"""Why a stream is reset that its client broke."""


class UpstreamSide:
    """Reads the upstream's bytes."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._frames = frames.FrameReader(LARGEST_FRAME)
        self._blocks = BlockReader(LARGEST_BLOCK)
        self._answers = Known[tuple[heads.Answer, bytes]]()
        self._block: tuple[Frame, bytearray] | None = None

    def feed(self, data: bytes, now: float) -> str | None:
        """The upstream's next bytes; what is wrong with them, after which it is to be left."""
        exchange = self._exchange
        exchange.now = now
        try:
            for frame in self._frames.feed(data):
                self._frame(frame)
        except ConnectionFault as fault:
            return f"the upstream does not speak HTTP/2: {fault.why}"
        return None

    def _frame(self, frame: Frame) -> None:
        if self._block is not None and (
            frame.kind != frames.CONTINUATION or frame.stream != self._block[0].stream
        ):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a field block that is interrupted")
        if not self._exchange.ready and (frame.kind != frames.SETTINGS or frame.flags & ACK):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "no SETTINGS at first")
        try:
            self._by_kind(frame)
        except StreamFault as fault:
            raise ConnectionFault(fault.code, fault.why) from None

    def _by_kind(self, frame: Frame) -> None:
        match frame.kind:
            case frames.DATA:
                self._data(frame)
            case frames.HEADERS:
                self._piece(frame, bytearray(frames.content(frame)), frame.flags)
            case frames.CONTINUATION:
                self._continuation(frame)
            case frames.WINDOW_UPDATE:
                self._window_update(frame)
            case frames.RST_STREAM:
                self._rst_stream(frame)
            case frames.PING:
                self._ping(frame)
            case frames.SETTINGS:
                self._settings(frame)
            case frames.GOAWAY:
                self._goaway(frame)
            case frames.PUSH_PROMISE:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "a push")
            case _:
                pass  # PRIORITY and what is unknown

    def _stream(self, frame: Frame) -> Stream | None:
        streams = self._exchange.streams
        if streams.is_idle_upstream(frame.stream):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame for a stream that was never opened")
        return streams.of_upstream(frame.stream)

    def _data(self, frame: Frame) -> None:
        exchange = self._exchange
        stream = self._stream(frame)
        if stream is None or stream.upstream_done:
            if frame.payload:
                exchange.to_upstream.append(frames.window_update(0, len(frame.payload)))
            return
        if not stream.answered:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "DATA before a head")
        stream.moved_at = exchange.now
        exchange.guard.answered()
        exchange.to_client.append(
            frames.frame(frames.DATA, frame.flags & frames.OF_DATA, stream.id, frame.payload)
        )
        if frame.flags & END_STREAM:
            self._done(stream)

    def _continuation(self, frame: Frame) -> None:
        if self._block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a continuation of nothing")
        head, block = self._block
        block += frame.payload
        self._piece(head, block, frame.flags)

    def _piece(self, head: Frame, block: bytearray, flags: int) -> None:
        if len(block) > LARGEST_BLOCK:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a field block that is too long")
        if not flags & END_HEADERS:
            self._block = head, block
            return
        self._block = None
        fields = self._blocks.read(bytes(block))
        stream = self._stream(head)
        if stream is not None and not stream.upstream_done:
            self._answer(stream, fields, ends=bool(head.flags & END_STREAM))

    def _answer(self, stream: Stream, fields: Fields, *, ends: bool) -> None:
        exchange = self._exchange
        answer, literals = self._answers.of(fields, _read)
        if (answer.status is None) is not stream.answered:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "an answer without a status, or with two")
        if stream.answered and not ends:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "trailers that do not end their stream")
        block = exchange.client_writer.whole(literals)
        exchange.to_client.append(frames.headers(stream.id, block, ends=ends))
        exchange.guard.answered()
        stream.moved_at = exchange.now
        if answer.is_interim:
            stream.asked_at = None if stream.asked_at is None else exchange.now
        else:
            stream.answered, stream.asked_at = True, None
            exchange.handler.answered(stream, answer)
        if ends:
            self._done(stream)

    def _done(self, stream: Stream) -> None:
        stream.upstream_done = True
        if stream.client_done:
            self._exchange.close(stream)

    def _rst_stream(self, frame: Frame) -> None:
        exchange = self._exchange
        code = frames.fixed(frame, 4)
        stream = self._stream(frame)
        if stream is None:
            return
        exchange.to_client.append(frames.frame(frames.RST_STREAM, 0, stream.id, code))
        exchange.streams.remember(stream.id)
        exchange.close(stream, None if stream.upstream_done else "the upstream reset the stream")
        if int.from_bytes(code, "big") in _BROKEN_BY_CLIENT:
            exchange.provoked()

    def _window_update(self, frame: Frame) -> None:
        exchange = self._exchange
        if frame.stream == 0:
            exchange.to_client.append(frames.window_update(0, frames.increment(frame)))
            return
        stream = self._stream(frame)
        if stream is not None and not stream.client_done:
            exchange.to_client.append(frames.window_update(stream.id, frames.increment(frame)))

    def _ping(self, frame: Frame) -> None:
        exchange = self._exchange
        payload = frames.fixed(frame, 8)
        if frame.flags & ACK:
            if exchange.pings_of_client:
                exchange.pings_of_client -= 1
                exchange.to_client.append(frames.frame(frames.PING, ACK, 0, payload))
            return
        exchange.pings_of_upstream += 1
        exchange.to_client.append(frames.frame(frames.PING, 0, 0, payload))

    def _settings(self, frame: Frame) -> None:
        exchange = self._exchange
        if frame.flags & ACK:
            if exchange.settings_of_client:
                exchange.settings_of_client -= 1
                exchange.to_client.append(frames.frame(frames.SETTINGS, ACK, 0))
            return
        told = parameters.of_upstream(frame.payload, exchange.bearable, first=not exchange.ready)
        exchange.settings_of_upstream += 1
        exchange.to_client.append(frames.frame(frames.SETTINGS, 0, 0, told))
        if not exchange.ready:
            exchange.became_ready()

    def _goaway(self, frame: Frame) -> None:
        """Passed on, with the client's numbers. What the upstream has not processed may be tried again
        elsewhere."""
        exchange = self._exchange
        if len(frame.payload) < 8:  # noqa: PLR2004 - RFC 9113, 6.8
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a GOAWAY that is none")
        last = int.from_bytes(frame.payload[:4], "big") & LAST_STREAM
        code = int.from_bytes(frame.payload[4:8], "big")
        debug = frame.payload[8:]
        if last == LAST_STREAM:
            if exchange.last is None:
                exchange.to_client.append(frames.goaway(LAST_STREAM, code, debug))
            return
        if exchange.last is None:
            exchange.last = exchange.streams.highest
        exchange.to_client.append(frames.goaway(exchange.last, code, debug))
        for stream in exchange.streams:
            if stream.up is None or stream.up > last:
                exchange.refuse(stream, "the upstream was ending")
        exchange.end_if_done()


def _read(fields: Fields) -> tuple[heads.Answer, bytes]:
    """What they say, and they as literals."""
    return heads.answer_of(fields), encoded(fields)
