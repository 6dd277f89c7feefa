"""Two connections, a client's and ours to the upstream, and what happens between them.

The rules: nothing of a stream reaches the upstream before it was let through, and everything that waits with
it does in its order then, while other streams go on. What is swallowed is credited to the window of the
connection that it came by (RFC 9113, 6.9). A denial is an answer of one head, and RST_STREAM(NO_ERROR) where
the client still sends (8.1). The client hears nothing at all before the upstream has said its SETTINGS: a
client that has heard them believes that the service is there, and tries again until its deadline.

Sans I/O: bytes and times go in, `to_client` and `to_upstream` fill up, and `Handler` is asked and told. Must
not know: sockets, rights, who the client is.
"""

from collections.abc import Iterable

from rekeyd.http2 import frames, heads, parameters
from rekeyd.http2.fields import BlockWriter, Field
from rekeyd.http2.frames import Code, ConnectionFault
from rekeyd.http2.guard import Guard, Limits
from rekeyd.http2.handling import Admit, Deny, Handler, Read, Verdict
from rekeyd.http2.messages import Messages
from rekeyd.http2.protobuf import MessageFault, Wanted
from rekeyd.http2.streams import Stream, Streams

UNAVAILABLE, DEADLINE_EXCEEDED, PERMISSION_DENIED, RESOURCE_EXHAUSTED = 14, 4, 7, 8
"""Statuses of gRPC."""
BROKE_OFF = "The upstream can't be reached or broke off"
HELD, HELD_OF_ALL = 64 * 1024, 1024 * 1024
"""Bytes that may wait of one stream, until it is known which collection it names, and of all of a
connection."""


class Exchange:
    """What both sides share; the frames of either are read by `ClientSide` and `UpstreamSide`."""

    def __init__(self, handler: Handler, limits: Limits, *, ping: bytes) -> None:
        self.handler = handler
        self.limits = limits
        self.guard = Guard(limits)
        self.streams = Streams()
        self.to_client: list[bytes] = []
        self.to_upstream: list[bytes] = []
        self.client_writer = BlockWriter()
        self.upstream_writer = BlockWriter()
        self.bearable = parameters.Bearable(limits.streams, limits.block)
        self.ready = False
        """Whether the upstream has said its SETTINGS."""
        self.over: str | None = None
        """Why the client's connection is to be closed, once all that is said is on its way."""
        self.broke: ConnectionFault | None = None
        """What the client did wrong, if that is why."""
        self.last: int | None = None
        """The last stream that is served, once that is certain."""
        self.now = 0.0
        self.held = 0
        """Bytes of DATA that wait."""
        self.idle_since: float | None = 0.0
        self._ping = ping
        self._draining = False
        self._drain_wanted = False
        self.pings_of_client = self.pings_of_upstream = 0
        self.settings_of_client = self.settings_of_upstream = 0
        """How many of either side the other has yet to acknowledge."""

    # What becomes of a stream.

    def decide(self, stream: Stream, verdict: Verdict | None) -> None:
        """The verdict is in; None: it will be. Nothing is done where the stream is gone."""
        if stream.gone or verdict is None:
            return
        try:
            match verdict:
                case Admit(literals):
                    self._admit(stream, literals)
                case Deny(status, message, extra):
                    self.guard.reset(self.now)
                    self.finish(stream, status, message, extra=extra)
                case Read(wanted):
                    self._read(stream, wanted)
        except ConnectionFault as fault:
            self.fault(fault)

    def _read(self, stream: Stream, wanted: Wanted) -> None:
        """Search what waits already, and go on as more comes."""
        encoding = stream.call.encoding if stream.call is not None else b""
        messages = Messages(self.limits.message, wanted=wanted, encoding=encoding)
        stream.messages, stream.naming = messages, True
        try:
            for kind, flags, payload in stream.held:
                if kind == frames.DATA:
                    messages.feed(frames.content(frames.Frame(kind, flags, stream.id, payload)))
            if stream.client_done:
                messages.end()
        except MessageFault as fault:
            self.unfit(stream, fault)
        else:
            self._name(stream, ended=stream.client_done)

    def look(self, stream: Stream, content: bytes, *, ended: bool) -> None:
        """Follow what a stream sends; the verdict that waits for its name may come of it.

        Raises:
            MessageFault: it is not to be passed on.
        """
        messages = stream.messages
        if messages is None:
            return
        messages.feed(content)
        if ended:
            messages.end()
        if stream.naming:
            self._name(stream, ended=ended)
        elif stream.up is not None:
            self._judge_further(stream, messages)

    def _judge_further(self, stream: Stream, messages: Messages) -> None:
        """The collections that are named beside the one that was judged."""
        for name in messages.further():
            denied = self.handler.further(stream, name)
            if denied is not None:
                self.decide(stream, denied)
                return

    def _name(self, stream: Stream, *, ended: bool) -> None:
        collection = stream.messages.collection if stream.messages is not None else None
        if collection is not None or ended:
            stream.naming = False
            self.decide(stream, self.handler.named(stream, collection))
        elif stream.held_size > HELD or self.held > HELD_OF_ALL:
            self.unfit(stream, MessageFault("a message that names its collection too late"))

    def unfit(self, stream: Stream, fault: MessageFault) -> None:
        """What it sends is not to be passed on."""
        if stream.gone:
            return
        status = RESOURCE_EXHAUSTED if fault.too_long else PERMISSION_DENIED
        self.guard.reset(self.now)
        self.handler.denied(stream, status, fault.why)
        self.finish(stream, status, fault.why[0].upper() + fault.why[1:], failure=fault.why)

    @property
    def holds_too_much(self) -> bool:
        """Whether more waits for verdicts than should: they come without the client's doing."""
        return self.held > HELD_OF_ALL and any(s.up is None and not s.naming for s in self.streams)

    def hold(self, stream: Stream, size: int) -> None:
        """So many bytes of DATA wait with it."""
        stream.held_size += size
        self.held += size

    def _release(self, stream: Stream) -> int:
        """Nothing waits with it any more; how many bytes of DATA did."""
        size, stream.held_size = stream.held_size, 0
        self.held -= size
        stream.held.clear()
        return size

    def _admit(self, stream: Stream, literals: bytes) -> None:
        if self.last is not None and stream.id > self.last:
            self.refuse(stream, "the connection was ending")
            return
        if stream.messages is not None:
            self._judge_further(stream, stream.messages)
        if stream.gone:
            return
        up = self.streams.let_through(stream)
        stream.naming, stream.call = False, None
        block = self.upstream_writer.whole(literals)
        self.to_upstream.append(frames.headers(up, block, ends=stream.head_ends))
        if stream.window:
            self.to_upstream.append(frames.window_update(up, stream.window))
        for kind, flags, payload in stream.held:
            self.pass_on(stream, kind, flags, payload)
        self._release(stream)
        if stream.client_done:
            stream.asked_at = self.now

    def pass_on(self, stream: Stream, kind: int, flags: int, payload: bytes) -> None:
        """To the upstream, or into what waits. `payload` of HEADERS is what trailers hold, as literals."""
        if stream.up is None:
            stream.held.append((kind, flags, payload))
        elif kind == frames.HEADERS:
            block = self.upstream_writer.whole(payload)
            self.to_upstream.append(frames.headers(stream.up, block, ends=True))
        else:
            self.to_upstream.append(frames.frame(kind, flags, stream.up, payload))

    def finish(
        self,
        stream: Stream,
        status: int,
        message: str,
        *,
        failure: str | None = None,
        extra: Iterable[Field] = (),
    ) -> None:
        """End it for both sides with a status of gRPC of ours."""
        if stream.gone:
            return
        if not stream.upstream_done:
            fields = (
                heads.trailers(status, message) if stream.answered else heads.denial(status, message, extra)
            )
            self.handler.answered(stream, heads.Answer(None if stream.answered else 200, status))
            block = self.client_writer.write(fields)
            self.to_client.append(frames.headers(stream.id, block, ends=True))
        self._end_for_client(stream, Code.NO_ERROR, unless_done=True)
        self._drop(stream, failure)

    def answer_http(self, stream: Stream, status: int, failure: str) -> None:
        """End what is no gRPC with a status of HTTP."""
        self.handler.answered(stream, heads.Answer(status, None))
        block = self.client_writer.write([(b":status", b"%d" % status)])
        self.to_client.append(frames.headers(stream.id, block, ends=True))
        self._end_for_client(stream, Code.NO_ERROR, unless_done=True)
        self._drop(stream, failure)

    def reset(self, stream: Stream, code: int, failure: str) -> None:
        """End it for both sides without an answer."""
        self._end_for_client(stream, code, unless_done=False)
        self._drop(stream, failure)

    def refuse(self, stream: Stream, failure: str) -> None:
        """It was not processed, and may be tried again elsewhere (RFC 9113, 8.7)."""
        self.reset(stream, Code.REFUSED_STREAM, failure)

    def _end_for_client(self, stream: Stream, code: int, *, unless_done: bool) -> None:
        if not (unless_done and stream.client_done):
            self.to_client.append(frames.rst_stream(stream.id, code))
        self.streams.remember(stream.id)

    def _drop(self, stream: Stream, failure: str | None) -> None:
        """The upstream need not go on with it."""
        if stream.up is not None and not (stream.client_done and stream.upstream_done):
            self.to_upstream.append(frames.rst_stream(stream.up, Code.CANCEL))
        self.close(stream, failure)

    def close(self, stream: Stream, failure: str | None = None) -> None:
        """It is over."""
        if stream.gone:
            return
        self.credit_client(self._release(stream))
        self.streams.close(stream)
        if not self.streams:
            self.idle_since = self.now
        self.handler.ended(stream, failure)
        self.end_if_done()

    def credit_client(self, size: int) -> None:
        """DATA of the client was swallowed."""
        if size:
            self.to_client.append(frames.window_update(0, size))

    # How the connection ends.

    def begin_drain(self) -> None:
        """No more streams, please: all that are under way when the client has heard it are served."""
        if not self.ready:
            self._drain_wanted = True
        elif not self._draining and self.last is None:
            self._draining = True
            self.to_client.append(frames.goaway(frames.LAST_STREAM, Code.NO_ERROR))
            self.to_client.append(frames.frame(frames.PING, 0, 0, self._ping))

    def acknowledged(self, payload: bytes) -> bool:
        """A PING was acknowledged; whether it was the one of our drain."""
        if not self._draining or payload != self._ping:
            return False
        self.end_drain()
        return True

    def end_drain(self) -> None:
        """Say which streams are served, and close when they are over."""
        if not self.ready:
            self.over = self.over or "drained"
        elif self.last is None:
            self.last = self.streams.highest
            self.to_client.append(frames.goaway(self.last, Code.NO_ERROR))
            self.end_if_done()

    def end_if_done(self) -> None:
        if self.last is not None and not self.streams and self.over is None:
            self.over = "drained"

    def became_ready(self) -> None:
        self.ready = True
        if self._drain_wanted:
            self.begin_drain()

    def provoked(self) -> None:
        """The client had the upstream reset a stream, which costs as much as if it had done so itself."""
        try:
            self.guard.reset(self.now)
        except ConnectionFault as fault:
            self.fault(fault)

    def fault(self, fault: ConnectionFault) -> None:
        """The client does what ends its connection (RFC 9113, 5.4.1)."""
        self.over, self.broke = fault.why, fault
        for stream in self.streams:
            self._drop(stream, f"the client broke its connection: {fault.why}")
        if self.ready:
            last = self.streams.highest if self.last is None else self.last
            self.to_client.append(frames.goaway(last, fault.code, fault.why.encode()))

    def cut(self, why: str) -> None:
        """Answer all that runs with `why`, and close."""
        if self.ready:
            for stream in self.streams:
                self.finish(stream, UNAVAILABLE, why, failure=why)
            if self.last is None:
                self.last = self.streams.highest
                self.to_client.append(frames.goaway(self.last, Code.NO_ERROR, why.encode()))
        self.client_left(why)
        self.over = why

    def client_left(self, failure: str) -> None:
        """What runs has nobody to answer to."""
        for stream in self.streams:
            self._drop(stream, failure)

    def upstream_left(self, failure: str) -> None:
        """What runs can't be answered by it; where nothing does the client comes again when it needs to."""
        for stream in self.streams:
            self.finish(stream, UNAVAILABLE, BROKE_OFF, failure=failure)
        if self.ready and self.last is None:
            self.last = self.streams.highest
            self.to_client.append(frames.goaway(self.last, Code.NO_ERROR))
        self.over = self.over or failure
