"""What a client may send, in whatever pieces, and how its connection ends when it sends something else."""

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rekeyd.http2 import frames
from rekeyd.http2.frames import END_HEADERS, END_STREAM, Code, frame
from rekeyd.http2.guard import CONTROL, PIECES, WINDOWS, Limits
from support.http2 import (
    ANSWER,
    GREETING,
    HEAD,
    TRAILERS,
    Stage,
    admitted,
    block,
    data,
    denied,
    head,
    kinds,
    message,
    settings,
    with_fields,
)

ENDED_HEAD = head(1, ends=True)
BLOCK = block(HEAD)


def broken(stage: Stage) -> Code | None:
    """How the client's connection was ended, as it was told."""
    last = [each for each in stage.out_client() if each.kind == frames.GOAWAY]
    assert (stage.exchange.over is not None) == bool(last)
    if not last:
        return None
    assert stage.exchange.broke is not None
    assert stage.exchange.broke.code == int.from_bytes(last[-1].payload[4:8], "big")
    return stage.exchange.broke.code


@pytest.mark.parametrize("step", [1, 2, 5, 9, 24, 1000])
def test_a_call_passes_in_whatever_pieces_it_comes(step: int) -> None:
    stage = Stage()
    sent = GREETING + head(1) + data(1, message(b"hello"), ends=True)
    stage.client(sent[: len(GREETING)], at_once=step)
    stage.upstream(settings())
    stage.client(sent[len(GREETING) :], at_once=step)
    out = stage.out_upstream()
    assert kinds(out) == [frames.SETTINGS, frames.HEADERS, frames.DATA]
    assert stage.at_upstream.fields(out[1])[b":path"] == b"/test.Service/Echo"
    assert out[2].payload == message(b"hello")
    assert out[2].flags == END_STREAM


def test_nothing_is_judged_before_the_upstream_is_there_and_then_everything_in_order() -> None:
    stage = Stage()
    stage.client(GREETING, head(1, ends=True), head(3, ends=True))
    assert stage.connects == 1
    assert stage.client_side.waits
    assert kinds(stage.out_upstream()) == [frames.SETTINGS]
    assert stage.out_client() == []
    stage.upstream(settings())
    assert [(f.kind, f.stream) for f in stage.out_upstream()] == [(frames.HEADERS, 1), (frames.HEADERS, 3)]
    assert not stage.client_side.waits


@pytest.mark.parametrize(
    "sent",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n",
        b"\x16\x03\x01",
        frames.PREFACE + head(1),
        frames.PREFACE + settings(ack=True),
        frames.PREFACE + frame(frames.SETTINGS, 0, 1),
        frames.PREFACE + settings(b"12345"),
    ],
)
@pytest.mark.parametrize("step", [1, 1000])
def test_who_does_not_greet_in_http2_is_left_without_a_word(sent: bytes, step: int) -> None:
    stage = Stage().client(sent, at_once=step)
    assert stage.exchange.broke is not None
    assert stage.out_client() == []
    assert stage.connects == 0


MALFORMED_FRAMES = {
    "DATA without a stream": (data(0), Code.PROTOCOL_ERROR),
    "DATA of a stream that is idle": (data(1), Code.PROTOCOL_ERROR),
    "DATA of a server's stream": (data(2), Code.PROTOCOL_ERROR),
    "HEADERS without a stream": (head(0), Code.PROTOCOL_ERROR),
    "HEADERS of a server's stream": (head(2), Code.PROTOCOL_ERROR),
    "RST_STREAM of a stream that is idle": (frames.rst_stream(1, 8), Code.PROTOCOL_ERROR),
    "RST_STREAM without a stream": (frames.rst_stream(0, 8), Code.PROTOCOL_ERROR),
    "RST_STREAM of three bytes": (ENDED_HEAD + frame(3, 0, 1, b"123"), Code.FRAME_SIZE_ERROR),
    "WINDOW_UPDATE of a stream that is idle": (frames.window_update(1, 1), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE by nothing": (frames.window_update(0, 0), Code.PROTOCOL_ERROR),
    "WINDOW_UPDATE of three bytes": (frame(8, 0, 0, b"123"), Code.FRAME_SIZE_ERROR),
    "PRIORITY without a stream": (frame(2, 0, 0, b"12345"), Code.PROTOCOL_ERROR),
    "PRIORITY of four bytes": (frame(2, 0, 1, b"1234"), Code.FRAME_SIZE_ERROR),
    "PING of a stream": (frame(6, 0, 1, b"12345678"), Code.PROTOCOL_ERROR),
    "PING of seven bytes": (frame(6, 0, 0, b"1234567"), Code.FRAME_SIZE_ERROR),
    "SETTINGS of a stream": (frame(4, 0, 1), Code.PROTOCOL_ERROR),
    "SETTINGS of five bytes": (settings(b"12345"), Code.FRAME_SIZE_ERROR),
    "an ACK with a payload": (settings(b"123456", ack=True), Code.FRAME_SIZE_ERROR),
    "an ACK of nothing": (settings(ack=True) * 2, Code.PROTOCOL_ERROR),
    "a window that is too large": (settings(b"\0\x04\xff\xff\xff\xff"), Code.FLOW_CONTROL_ERROR),
    "PUSH_PROMISE": (frame(5, END_HEADERS, 1, b"\0\0\0\x02" + BLOCK), Code.PROTOCOL_ERROR),
    "GOAWAY of a stream": (frame(7, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
    "CONTINUATION of nothing": (frame(9, END_HEADERS, 1, BLOCK), Code.PROTOCOL_ERROR),
    "a frame that is too long": (data(1, bytes(65537)), Code.FRAME_SIZE_ERROR),
    "padding without its length": (frame(1, frames.PADDED, 1), Code.FRAME_SIZE_ERROR),
    "more padding than payload": (frame(1, frames.PADDED, 1, b"\x05abc"), Code.PROTOCOL_ERROR),
    "a block that can't be decoded": (
        frame(1, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
        Code.COMPRESSION_ERROR,
    ),
    "a block that is interrupted": (head(1, whole=False) + data(1), Code.PROTOCOL_ERROR),
    "a block interrupted by PING": (head(1, whole=False) + frame(6, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
    "a block interrupted by another": (head(1, whole=False) + head(3), Code.PROTOCOL_ERROR),
    "a block continued for another stream": (
        head(1, whole=False) + frame(9, END_HEADERS, 3, b""),
        Code.PROTOCOL_ERROR,
    ),
    "a block in too many pieces": (
        head(1, whole=False) + frame(9, 0, 1) * (PIECES + 1),
        Code.ENHANCE_YOUR_CALM,
    ),
    "a block that is too long": (
        head(1, whole=False) + frame(9, 0, 1, bytes(16384)) * 3,
        Code.ENHANCE_YOUR_CALM,
    ),
    "a field list that is too long": (
        head(1, with_fields((b"a", bytes(16000)), (b"b", bytes(16000)), (b"c", b"x" * 700))),
        Code.ENHANCE_YOUR_CALM,
    ),
    "a stream with a lower number": (head(5, ends=True) + head(3), Code.STREAM_CLOSED),
    "too many PINGs": (frame(6, 0, 0, bytes(8)) * (CONTROL + 1), Code.ENHANCE_YOUR_CALM),
    "too many ACKs of no PING": (frame(6, frames.ACK, 0, bytes(8)) * (CONTROL + 1), Code.ENHANCE_YOUR_CALM),
    "too many SETTINGS": (settings() * (CONTROL + 1), Code.ENHANCE_YOUR_CALM),
    "too many PRIORITYs": (frame(2, 0, 1, bytes(5)) * (CONTROL + 1), Code.ENHANCE_YOUR_CALM),
    "too many frames that are unknown": (frame(99, 0, 0) * (CONTROL + 1), Code.ENHANCE_YOUR_CALM),
    "too much DATA without any": (head(1) + data(1, b"") * (CONTROL + 1), Code.ENHANCE_YOUR_CALM),
    "too many WINDOW_UPDATEs": (frames.window_update(0, 1) * (WINDOWS + 1), Code.ENHANCE_YOUR_CALM),
}


@pytest.mark.parametrize("case", MALFORMED_FRAMES)
@pytest.mark.parametrize("step", [None, 7])
def test_a_malformed_frame_ends_the_connection_as_rfc_9113_says(case: str, step: int | None) -> None:
    sent, code = MALFORMED_FRAMES[case]
    if step and len(sent) > 100_000:
        step = 4099
    stage = Stage().ready().client(sent, at_once=step)
    assert broken(stage) is code
    assert len(stage.exchange.streams) == 0


def test_streams_that_are_reset_as_soon_as_they_are_made_end_the_connection() -> None:
    stage = Stage(limits=Limits(resets=50)).ready()
    stage.client(*[head(n) + frames.rst_stream(n, 8) for n in range(1, 203, 2)])
    assert broken(stage) is Code.ENHANCE_YOUR_CALM
    assert len([each for each in stage.out_upstream() if each.kind == frames.HEADERS]) <= 51


def test_what_comes_after_the_end_of_an_answer_is_no_reset() -> None:
    stage = Stage(limits=Limits(resets=10)).ready()
    for number in range(1, 401, 2):
        stage.client(head(number))
        stage.upstream(head(number, (*ANSWER, (b"grpc-status", b"0")), ends=True))
        stage.client(frames.window_update(number, 1), frames.rst_stream(number, 0))
        stage.client(frames.rst_stream(number, 0), frames.window_update(number, 1))
    assert stage.exchange.over is None


def test_small_pieces_that_wait_for_a_verdict_do_not_fill_the_memory() -> None:
    """Each takes many times the room of its bytes, which alone are bounded."""
    stage = Stage(lambda _: None).ready()
    stage.client(head(1), data(1, b"\0") * (WINDOWS + 1))
    assert broken(stage) is None
    stage.client(data(1, b"\0"))
    assert broken(stage) is Code.ENHANCE_YOUR_CALM
    assert stage.exchange.held == 0


def test_what_is_called_on_and_on_after_the_last_stream_ends_the_connection() -> None:
    stage = Stage().ready().client(head(1))
    stage.exchange.begin_drain()
    stage.exchange.end_drain()
    heads = [head(n) for n in range(3, 3 + 2 * CONTROL, 2)]
    stage.client(*heads[:-1])  # SETTINGS were the first frame that carries nothing
    assert stage.exchange.over is None
    stage.client(heads[-1])
    assert broken(stage) is Code.ENHANCE_YOUR_CALM


def test_streams_that_are_denied_one_after_the_other_end_the_connection() -> None:
    stage = Stage(denied, limits=Limits(resets=50)).ready()
    stage.client(*[head(n, ends=True) for n in range(1, 203, 2)])
    assert broken(stage) is Code.ENHANCE_YOUR_CALM
    assert stage.out_upstream() == []


def test_more_streams_than_are_allowed_are_refused_and_told() -> None:
    stage = Stage(limits=Limits(streams=2)).ready()
    stage.client(head(1), head(3), head(5))
    (reset,) = stage.out_client()
    assert (reset.stream, reset.payload) == (5, Code.REFUSED_STREAM.to_bytes(4, "big"))
    assert [each.stream for each in stage.out_upstream()] == [1, 3]
    assert stage.tells("ended") == ["more streams than are allowed"]
    stage.client(data(5, b"x" * 10))
    assert kinds(stage.out_client()) == [frames.WINDOW_UPDATE], "it was under way: credited, and no fault"


def test_what_is_no_call_ends_its_stream_and_no_other() -> None:
    stage = Stage().ready()
    stage.client(head(1), head(3, with_fields((b"connection", b"close"))), data(1, message(b"x")))
    (reset,) = stage.out_client()
    assert (reset.kind, reset.stream) == (frames.RST_STREAM, 3)
    assert reset.payload == Code.PROTOCOL_ERROR.to_bytes(4, "big")
    assert kinds(stage.out_upstream()) == [frames.HEADERS, frames.DATA]
    assert stage.tells("malformed") == ["a field of the connection"]


def test_what_is_no_grpc_is_told_its_status() -> None:
    stage = Stage().ready()
    stage.client(head(1, with_fields((b":method", b"GET")), ends=True))
    (answer,) = stage.out_client()
    assert stage.at_client.fields(answer) == {b":status": b"405"}
    assert stage.out_upstream() == []


def test_priority_and_padding_of_a_head_do_not_reach_the_upstream() -> None:
    stage = Stage().ready()
    flags = END_HEADERS | frames.HAS_PRIORITY | frames.PADDED
    stage.client(frame(1, flags, 1, b"\x03" + b"\x80\0\0\x05\xff" + BLOCK + bytes(3)))
    (sent,) = stage.out_upstream()
    assert sent.flags == END_HEADERS
    assert stage.at_upstream.fields(sent)[b":method"] == b"POST"


def test_a_head_in_pieces_is_one() -> None:
    stage = Stage().ready()
    cut = [BLOCK[:10], BLOCK[10:11], BLOCK[11:]]
    stage.client(frame(1, END_STREAM, 1, cut[0]), frame(9, 0, 1, cut[1]), frame(9, END_HEADERS, 1, cut[2]))
    (sent,) = stage.out_upstream()
    assert sent.flags == END_HEADERS | END_STREAM


def test_trailers_end_a_stream_and_bring_no_credential_and_no_path() -> None:
    stage = Stage().ready()
    stage.client(head(1), head(1, [(b"x-last", b"1"), (b"api-key", b"k")], ends=True))
    stage.client(head(3), head(3, [(b"api-key", b"k")], ends=True))
    out = stage.out_upstream()
    assert [(f.kind, f.stream) for f in out] == [(1, 1), (1, 1), (1, 3), (0, 3)]
    for each in out[:1]:
        stage.at_upstream.fields(each)
    assert stage.at_upstream.fields(out[1]) == {b"x-last": b"1"}
    assert out[1].flags == END_STREAM | END_HEADERS
    assert (out[3].payload, out[3].flags) == (b"", END_STREAM)


@pytest.mark.parametrize(
    "late",
    [
        head(1, [(b":path", b"/other"), (b"x", b"y")], ends=True),
        head(1, HEAD, ends=True),
        head(1, [(b"x-last", b"1")]),
        head(1, [(b"connection", b"x")], ends=True),
    ],
)
def test_trailers_that_are_none_end_the_stream_on_both_sides(late: bytes) -> None:
    stage = Stage().ready()
    stage.client(head(1), late)
    assert [f.kind for f in stage.out_client()] == [frames.RST_STREAM]
    assert [f.kind for f in stage.out_upstream()] == [frames.HEADERS, frames.RST_STREAM]


def test_what_comes_after_the_end_of_a_stream_ends_it_and_is_credited() -> None:
    stage = Stage().ready()
    stage.client(head(1, ends=True), data(1, b"x" * 100))
    credit, reset = stage.out_client()
    assert (credit.kind, credit.stream, credit.payload) == (8, 0, (100).to_bytes(4, "big"))
    assert (reset.kind, reset.payload) == (3, Code.STREAM_CLOSED.to_bytes(4, "big"))
    assert kinds(stage.out_upstream()) == [frames.HEADERS, frames.RST_STREAM]


def test_a_stream_that_is_over_long_since_is_closed_for_data_and_for_heads() -> None:
    stage = Stage().ready()
    stage.client(head(1, ends=True))
    stage.upstream(head(1, ANSWER), head(1, TRAILERS, ends=True))
    stage.out_client()
    stage.client(data(1, b"xy"))
    assert kinds(stage.out_client()) == [frames.WINDOW_UPDATE, frames.RST_STREAM]
    stage = Stage().ready()
    stage.client(head(1, ends=True))
    stage.upstream(head(1, ANSWER), head(1, TRAILERS, ends=True))
    stage.out_client()
    stage.client(head(1, ends=True))
    assert broken(stage) is Code.STREAM_CLOSED


def test_what_is_unknown_and_priorities_never_get_to_the_upstream() -> None:
    stage = Stage().ready()
    stage.client(head(1), frame(99, 0xFF, 1, b"?"), frame(2, 0, 1, bytes(5)), frame(2, 0, 77, bytes(5)))
    stage.client(frame(7, 0, 0, bytes(8)), data(1, ends=True))
    assert kinds(stage.out_upstream()) == [frames.HEADERS, frames.DATA]


def test_pings_and_settings_pass_and_come_back() -> None:
    stage = Stage().ready()
    stage.client(frame(6, 0, 0, b"12345678"), settings(b"\0\x04\0\0\xff\xff"), settings(ack=True))
    ping, told, ack = stage.out_upstream()
    assert (ping.kind, ping.payload) == (6, b"12345678")
    assert (told.kind, told.payload) == (4, b"\0\x04\0\0\xff\xff")
    assert (ack.kind, ack.flags) == (4, 1)
    stage.upstream(frame(6, 1, 0, b"12345678"), settings(ack=True), settings(ack=True))
    assert [(f.kind, f.flags) for f in stage.out_client()] == [(6, 1), (4, 1), (4, 1)]
    stage.upstream(settings(ack=True), frame(6, 1, 0, b"12345678"))
    assert stage.out_client() == [], "nobody asked for these"


def test_a_ping_that_was_never_sent_is_not_acknowledged_to_the_upstream() -> None:
    stage = Stage().ready()
    stage.client(frame(6, 1, 0, b"12345678"))
    assert stage.out_upstream() == []


@hypothesis_settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(
                frame,
                st.integers(0, 10),
                st.integers(0, 255),
                st.integers(0, 6),
                st.binary(max_size=30),
            ),
            st.builds(lambda n, ends: head(n, ends=ends), st.sampled_from([1, 3, 5]), st.booleans()),
            st.builds(lambda n, ends: data(n, ends=ends), st.sampled_from([1, 3, 5]), st.booleans()),
            st.binary(max_size=30),
        ),
        max_size=12,
    ),
    st.sampled_from([1, 3, 10_000]),
)
def test_whatever_a_client_sends_the_upstream_gets_sound_frames_of_streams_it_knows(
    sent: list[bytes], step: int
) -> None:
    stage = Stage(lambda stream: denied(stream) if stream.id == 3 else admitted(stream)).ready()
    stage.client(*sent, at_once=step)
    opened: set[int] = set()
    for each in stage.out_upstream():
        assert each.kind in {0, 1, 3, 4, 6, 8, 9}
        if each.kind == frames.HEADERS and each.stream not in opened:
            assert stage.at_upstream.fields(each)[b":path"] == b"/test.Service/Echo"
            assert each.stream == 2 * len(opened) + 1
            opened.add(each.stream)
        assert each.stream == 0 or each.stream in opened
    stage.out_client()
