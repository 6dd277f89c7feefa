"""What a client sends: each frame examined, and passed on, held or answered.

The rules are RFC 9113's for a server. Everything that concerns a stream reaches the upstream under the
stream's own number there, and only once the stream was let through; PRIORITY and what is unknown never does.
Every field block is decoded, also of a stream that is refused, since the next one is read by it. After its
SETTINGS a client waits until the upstream has said its own.

Sans I/O. Must not know: rights.
"""

from collections import deque
from collections.abc import Callable

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
from rekeyd.http2.guard import PIECES
from rekeyd.http2.messages import Messages
from rekeyd.http2.parameters import LARGEST_FRAME
from rekeyd.http2.protobuf import MessageFault
from rekeyd.http2.streams import Stream

_SMALL = 1024
"""Bytes of DATA that are not worth a frame of their own."""


class ClientSide:
    """Reads the client's bytes."""

    def __init__(self, exchange: Exchange, now: float) -> None:
        self._exchange = exchange
        self._frames = frames.FrameReader(LARGEST_FRAME)
        self._blocks = BlockReader(exchange.limits.block)
        self._calls = Known[heads.Call | heads.Malformed]()
        self._preface = bytearray()
        self._greeted = False
        self._waiting: deque[Frame] = deque()
        self._block: tuple[Frame, bytearray, int] | None = None
        """The head of a block whose rest is to come, what has come of it, and in how many pieces."""
        self._readers: dict[int, Callable[[Frame], None]] = {
            frames.DATA: self._data,
            frames.HEADERS: self._headers,
            frames.CONTINUATION: self._continuation,
            frames.WINDOW_UPDATE: self._window_update,
            frames.RST_STREAM: self._rst_stream,
            frames.PING: self._ping,
            frames.SETTINGS: self._settings,
            frames.GOAWAY: self._goaway,
            frames.PUSH_PROMISE: self._pushes,
            frames.PRIORITY: self._priority,
        }
        self.head_since: float | None = now
        """Since when a head is incomplete: the connection's own, or a call's."""
        self.frame_since: float | None = None
        """Since when a frame is."""

    @property
    def waits(self) -> bool:
        """Whether it makes no sense to read more: the upstream has yet to say its SETTINGS."""
        exchange = self._exchange
        return self._greeted and (not exchange.ready or exchange.holds_too_much)

    def feed(self, data: bytes, now: float) -> None:
        """The client's next bytes. What is wrong with them is in the exchange's `over`."""
        exchange = self._exchange
        exchange.now = now
        if exchange.over is not None:
            return
        try:
            if len(self._preface) < len(frames.PREFACE):
                data = self._after_preface(data)
            for frame in self._frames.feed(data):
                self._take(frame)
                if exchange.over is not None:
                    return
        except ConnectionFault as fault:
            exchange.fault(fault)
        self.frame_since = (self.frame_since or now) if self._frames.begun else None

    def resume(self, now: float) -> None:
        """The upstream is ready: on with what waited."""
        exchange = self._exchange
        exchange.now = now
        try:
            while self._waiting and exchange.over is None:
                self._frame(self._waiting.popleft())
        except ConnectionFault as fault:
            exchange.fault(fault)

    def _after_preface(self, data: bytes) -> bytes:
        missing = len(frames.PREFACE) - len(self._preface)
        self._preface += data[:missing]
        if not frames.PREFACE.startswith(self._preface):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "it does not speak HTTP/2")
        return data[missing:]

    def _take(self, frame: Frame) -> None:
        self.frame_since = None
        if not self._greeted:
            if frame.kind != frames.SETTINGS or frame.flags & ACK:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "no SETTINGS at first")
            self._exchange.to_upstream.append(frames.PREFACE)
            self._settings(frame)
            self._greeted, self.head_since = True, None
            self._exchange.handler.connect()
        elif self._waiting or not self._exchange.ready:
            self._waiting.append(frame)
        else:
            self._frame(frame)

    def _frame(self, frame: Frame) -> None:
        if self._block is not None and (
            frame.kind != frames.CONTINUATION or frame.stream != self._block[0].stream
        ):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a field block that is interrupted")
        try:
            self._readers.get(frame.kind, self._unknown)(frame)
        except StreamFault as fault:
            self._broke(frame.stream, fault)

    def _pushes(self, _: Frame) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a client that pushes")

    def _unknown(self, _: Frame) -> None:
        self._exchange.guard.control(self._exchange.now)  # RFC 9113, 5.5: ignored

    def _broke(self, number: int, fault: StreamFault) -> None:
        exchange = self._exchange
        exchange.guard.reset(exchange.now)
        stream = exchange.streams.get(number)
        if stream is not None:
            exchange.handler.malformed(stream, fault.why)
            exchange.reset(stream, fault.code, fault.why)
        else:
            exchange.to_client.append(frames.rst_stream(number, fault.code))
            exchange.streams.remember(number)

    def _stream(self, frame: Frame) -> Stream | None:
        """The open stream that a frame is for; None where it is over."""
        number, streams = frame.stream, self._exchange.streams
        if number == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame of a stream without one")
        if number > streams.highest or number % 2 == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame for a stream that is not open yet")
        return streams.get(number)

    # DATA.

    def _data(self, frame: Frame) -> None:
        exchange = self._exchange
        stream = self._stream(frame)
        content = frames.content(frame)
        if stream is None or stream.client_done:
            exchange.credit_client(len(frame.payload))
            self._late(frame, stream)
            return
        stream.moved_at = exchange.now
        ends = bool(frame.flags & END_STREAM)
        if not (content or ends):
            exchange.guard.control(exchange.now)
        if stream.up is not None:
            self._pass_data(stream, frame, content, ends=ends)
        else:
            self._hold_data(stream, frame, content, ends=ends)
        if ends and not stream.gone:
            self._done(stream)

    def _pass_data(self, stream: Stream, frame: Frame, content: bytes, *, ends: bool) -> None:
        exchange = self._exchange
        try:
            exchange.look(stream, content, ended=ends)
        except MessageFault as fault:
            exchange.unfit(stream, fault)
        if stream.gone:
            exchange.credit_client(len(frame.payload))
        else:
            exchange.pass_on(stream, frames.DATA, frame.flags & frames.OF_DATA, frame.payload)

    def _hold_data(self, stream: Stream, frame: Frame, content: bytes, *, ends: bool) -> None:
        """Held before it is looked at: what is seen may let it through with all that waits."""
        exchange = self._exchange
        if stream.held and len(frame.payload) < _SMALL:
            exchange.guard.window(exchange.now)  # it takes more room than its bytes
        exchange.hold(stream, len(frame.payload))
        exchange.pass_on(stream, frames.DATA, frame.flags & frames.OF_DATA, frame.payload)
        try:
            exchange.look(stream, content, ended=ends)
        except MessageFault as fault:
            exchange.unfit(stream, fault)

    def _late(self, frame: Frame, stream: Stream | None) -> None:
        """DATA for what the client has ended itself, or for what was ended while it was under way."""
        exchange = self._exchange
        if len(frame.payload) < _SMALL:
            exchange.guard.window(exchange.now)
        if stream is not None or not exchange.streams.is_remembered(frame.stream):
            raise StreamFault(Code.STREAM_CLOSED, "DATA after the end of its stream")

    def _done(self, stream: Stream) -> None:
        stream.client_done = True
        if stream.upstream_done:
            self._exchange.close(stream)
        elif stream.up is not None and not stream.answered:
            stream.asked_at = self._exchange.now

    # Field blocks.

    def _headers(self, frame: Frame) -> None:
        if frame.stream == 0 or frame.stream % 2 == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a stream that is not a client's")
        self._piece(frame, bytearray(frames.content(frame)), 0, frame.flags)

    def _continuation(self, frame: Frame) -> None:
        if self._block is None:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a continuation of nothing")
        head, block, pieces = self._block
        block += frame.payload
        self._piece(head, block, pieces + 1, frame.flags)

    def _piece(self, head: Frame, block: bytearray, pieces: int, flags: int) -> None:
        if len(block) > self._exchange.limits.block or pieces > PIECES:
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "a field block that is too long")
        if not flags & END_HEADERS:
            self._block = head, block, pieces
            self.head_since = self.head_since or self._exchange.now
            return
        self._block = self.head_since = None
        self._whole(head, self._blocks.read(bytes(block)))

    def _whole(self, head: Frame, fields: Fields) -> None:
        streams = self._exchange.streams
        ends = bool(head.flags & END_STREAM)
        stream = streams.get(head.stream)
        if stream is not None:
            self._trailers(stream, fields, ends=ends)
        elif head.stream > streams.highest:
            streams.highest = head.stream
            self._opened(head.stream, fields, ends=ends)
        elif streams.is_remembered(head.stream):
            self._exchange.guard.control(self._exchange.now)
        else:
            raise ConnectionFault(Code.STREAM_CLOSED, "a head for a stream that is over")

    def _opened(self, number: int, fields: Fields, *, ends: bool) -> None:
        exchange = self._exchange
        if exchange.last is not None and number > exchange.last:
            exchange.guard.control(exchange.now)
            exchange.streams.remember(number)  # the client knows from GOAWAY that it is not served
            return
        stream = Stream(number, exchange.now)
        stream.client_done = stream.head_ends = ends
        exchange.streams.open(stream)
        exchange.idle_since = None
        if len(exchange.streams) > exchange.limits.streams:
            raise StreamFault(Code.REFUSED_STREAM, "more streams than are allowed")
        call = self._calls.of(fields, heads.examine)
        if isinstance(call, heads.Malformed):
            self._no_call(stream, call)
            return
        stream.call = call
        stream.messages = Messages(exchange.limits.message)
        exchange.decide(stream, exchange.handler.came(stream))

    def _no_call(self, stream: Stream, malformed: heads.Malformed) -> None:
        exchange = self._exchange
        exchange.guard.reset(exchange.now)
        exchange.handler.malformed(stream, malformed.why)
        if malformed.status is None:
            exchange.reset(stream, Code.PROTOCOL_ERROR, malformed.why)
        else:
            exchange.answer_http(stream, malformed.status, malformed.why)

    def _trailers(self, stream: Stream, fields: Fields, *, ends: bool) -> None:
        if stream.client_done:
            raise StreamFault(Code.STREAM_CLOSED, "a head after the end of its stream")
        why = heads.why_no_trailers(fields) if ends else "trailers that do not end their stream"
        if why is not None:
            raise StreamFault(Code.PROTOCOL_ERROR, why)
        exchange = self._exchange
        literals = encoded(heads.passed_on(fields))
        kind = (frames.HEADERS, 0, literals) if literals else (frames.DATA, END_STREAM, b"")
        waits = stream.up is None
        if waits:
            exchange.pass_on(stream, *kind)
        try:
            exchange.look(stream, b"", ended=True)
        except MessageFault as fault:
            exchange.unfit(stream, fault)
        if stream.gone:
            return
        if not waits:
            exchange.pass_on(stream, *kind)
        self._done(stream)

    # The rest.

    def _rst_stream(self, frame: Frame) -> None:
        exchange = self._exchange
        code = frames.fixed(frame, 4)
        stream = self._stream(frame)
        if stream is None or stream.upstream_done:
            exchange.guard.window(exchange.now)
        else:
            exchange.guard.reset(exchange.now)
        if stream is None:
            return
        if stream.up is not None:
            exchange.to_upstream.append(frames.frame(frames.RST_STREAM, 0, stream.up, code))
        exchange.close(stream, None if stream.upstream_done else "the client cancelled")

    def _window_update(self, frame: Frame) -> None:
        exchange = self._exchange
        exchange.guard.window(exchange.now)
        if frame.stream == 0:
            exchange.to_upstream.append(frames.window_update(0, frames.increment(frame)))
            return
        stream = self._stream(frame)
        added = frames.increment(frame)
        if stream is None:
            return
        if stream.up is not None:
            exchange.to_upstream.append(frames.window_update(stream.up, added))
        else:
            stream.window += added
            if stream.window > LAST_STREAM:
                raise StreamFault(Code.FLOW_CONTROL_ERROR, "a window that is too large")

    def _ping(self, frame: Frame) -> None:
        exchange = self._exchange
        payload = frames.fixed(frame, 8)
        if frame.stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a PING of a stream")
        if frame.flags & ACK:
            self._ping_acknowledged(payload)
            return
        exchange.guard.control(exchange.now)
        exchange.pings_of_client += 1
        exchange.to_upstream.append(frames.frame(frames.PING, 0, 0, payload))

    def _ping_acknowledged(self, payload: bytes) -> None:
        exchange = self._exchange
        if exchange.acknowledged(payload):
            return
        if not exchange.pings_of_upstream:
            exchange.guard.control(exchange.now)  # nobody asked
            return
        exchange.pings_of_upstream -= 1
        exchange.to_upstream.append(frames.frame(frames.PING, ACK, 0, payload))

    def _settings(self, frame: Frame) -> None:
        exchange = self._exchange
        if frame.stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS of a stream")
        if frame.flags & ACK:
            frames.fixed(frame, 0)
            if not exchange.settings_of_upstream:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "an acknowledgement of nothing")
            exchange.settings_of_upstream -= 1
            exchange.to_upstream.append(frames.frame(frames.SETTINGS, ACK, 0))
            return
        exchange.guard.control(exchange.now)
        exchange.settings_of_client += 1
        told = parameters.of_client(frame.payload, first=not self._greeted)
        exchange.to_upstream.append(frames.frame(frames.SETTINGS, 0, 0, told))

    def _goaway(self, frame: Frame) -> None:
        """The client takes no pushes any more, of which there are none; why it leaves is the upstream's
        business."""
        if frame.stream or len(frame.payload) < 8:  # noqa: PLR2004 - RFC 9113, 6.8
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a GOAWAY that is none")
        self._exchange.guard.control(self._exchange.now)

    def _priority(self, frame: Frame) -> None:
        """Deprecated (RFC 9113, 5.3.2)."""
        if frame.stream == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a priority of no stream")
        self._exchange.guard.control(self._exchange.now)
        if len(frame.payload) != 5:  # noqa: PLR2004 - RFC 9113, 6.3
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a PRIORITY of the wrong size")
