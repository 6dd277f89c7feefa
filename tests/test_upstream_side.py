"""What an upstream sends reaches the client under the client's numbers, and what it must not send ends it."""

import pytest
from hpack import Encoder
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rekeyd.http2 import frames
from rekeyd.http2.frames import END_HEADERS, END_STREAM, LAST_STREAM, Code, frame
from rekeyd.http2.guard import Limits
from rekeyd.http2.heads import Answer
from support.http2 import (
    ANSWER,
    GREETING,
    TRAILERS,
    Stage,
    admitted,
    block,
    data,
    denied,
    head,
    kinds,
    settings,
)


def shifted() -> Stage:
    """The client's stream 3 is the upstream's 1."""
    stage = Stage(lambda stream: denied(stream) if stream.id == 1 else admitted(stream)).ready()
    stage.client(head(1), head(3))
    stage.out_client()
    stage.out_upstream()
    return stage


def test_an_answer_passes_under_the_clients_number_and_is_read_in_passing() -> None:
    stage = shifted()
    stage.upstream(head(1, ANSWER), data(1, b"\0\0\0\0\x01x"), head(1, TRAILERS, ends=True))
    out = stage.out_client()
    assert [(f.kind, f.stream) for f in out] == [(1, 3), (0, 3), (1, 3)]
    assert stage.at_client.fields(out[0]) == dict(ANSWER)
    assert out[1].payload == b"\0\0\0\0\x01x"
    assert stage.at_client.fields(out[2]) == dict(TRAILERS)
    assert stage.tells("answered")[1:] == [Answer(200, None), Answer(None, 0)]


def test_an_interim_answer_is_none_and_the_time_for_one_begins_anew() -> None:
    stage = Stage().ready().client(head(1, ends=True))
    (stream,) = stage.exchange.streams
    stage.now = 5.0
    stage.upstream(head(1, [(b":status", b"103")]))
    assert stream.asked_at == 5.0
    stage.upstream(head(1, ANSWER))
    assert stream.asked_at is None


def test_when_a_stream_last_moved_is_known() -> None:
    stage = Stage().ready().client(head(1))
    (stream,) = stage.exchange.streams
    for now, send, sent in (
        (2.0, stage.client, data(1, b"x")),
        (3.0, stage.upstream, head(1, ANSWER)),
        (4.0, stage.upstream, data(1, b"x")),
    ):
        stage.now = now
        send(sent)
        assert stream.moved_at == now
    stage.now = 5.0
    stage.client(frame(frames.WINDOW_UPDATE, 0, 1, b"\0\0\0\1"))
    assert stream.moved_at == 4.0, "to ask for more is no progress"


def test_an_answer_before_the_request_is_complete_leaves_the_stream_half_open() -> None:
    stage = shifted()
    stage.upstream(head(1, (*ANSWER, (b"grpc-status", b"3")), ends=True))
    assert stage.tells("ended") == [None], "only the denied one is over"
    stage.client(data(3))
    assert kinds(stage.out_upstream()) == [frames.DATA]
    stage.upstream(frames.rst_stream(1, 0))
    assert stage.out_client()[-1].kind == frames.RST_STREAM
    assert stage.tells("ended") == [None, None]
    stage.client(data(3, b"x" * 9))
    assert kinds(stage.out_client()) == [frames.WINDOW_UPDATE]
    assert stage.out_upstream() == []


def test_interim_answers_pass_before_the_final_one() -> None:
    stage = shifted()
    stage.upstream(head(1, [(b":status", b"103")]), head(1, ANSWER), head(1, TRAILERS, ends=True))
    assert kinds(stage.out_client()) == [1, 1, 1]
    assert stage.tells("answered")[1:] == [Answer(200, None), Answer(None, 0)]


def test_a_table_of_the_upstreams_encoder_is_ours_alone() -> None:
    stage = shifted()
    encoder = frames_of_one_encoder(stage)
    assert stage.at_client.fields(encoder[0]) == stage.at_client.fields(encoder[1]) == dict(ANSWER)


def frames_of_one_encoder(stage: Stage) -> list[frames.Frame]:
    encoder = Encoder()
    stage.client(head(5))
    stage.upstream(
        frame(1, END_HEADERS, 1, encoder.encode(ANSWER)), frame(1, END_HEADERS, 3, encoder.encode(ANSWER))
    )
    return stage.out_client()


def test_what_is_for_a_stream_that_the_client_ended_is_swallowed_and_credited() -> None:
    stage = shifted()
    stage.upstream(head(1, ANSWER))
    stage.client(frames.rst_stream(3, 8))
    (reset,) = stage.out_upstream()
    assert (reset.stream, reset.payload) == (1, Code.CANCEL.to_bytes(4, "big"))
    stage.out_client()
    stage.upstream(data(1, b"x" * 500), head(1, TRAILERS, ends=True), frames.window_update(1, 4))
    assert stage.out_client() == []
    (credit,) = stage.out_upstream()
    assert (credit.kind, credit.stream, credit.payload) == (8, 0, (500).to_bytes(4, "big"))


def test_windows_and_pings_of_the_upstream_pass() -> None:
    stage = shifted()
    stage.upstream(frames.window_update(0, 10), frames.window_update(1, 20), frame(6, 0, 0, b"abcdefgh"))
    assert [(f.kind, f.stream) for f in stage.out_client()] == [(8, 0), (8, 3), (6, 0)]
    stage.client(frame(6, 1, 0, b"abcdefgh"), frame(6, 1, 0, b"abcdefgh"))
    assert [(f.kind, f.flags) for f in stage.out_upstream()] == [(6, 1)]


def test_priorities_and_unknown_frames_do_not_pass() -> None:
    stage = shifted()
    stage.upstream(frame(2, 0, 1, bytes(5)), frame(0xA, 0, 0, b"alt"), frame(77, 0, 1, b"?"))
    assert stage.out_client() == []


def test_the_first_settings_tell_the_client_what_we_bear() -> None:
    stage = Stage()
    stage.client(GREETING)
    stage.upstream(settings(b"\0\x03\0\0\xff\xff\0\x08\0\0\0\x01"))
    (told,) = stage.out_client()
    assert told.payload == b"\0\x03\0\0\x01\0" + b"\0\x06\0\0\x80\0"


def test_goaway_speaks_of_the_clients_streams_and_what_was_not_processed_is_refused() -> None:
    stage = shifted()
    stage.client(head(5), head(7))
    stage.upstream(frames.goaway(frames.LAST_STREAM, 0), frames.goaway(3, 0, b"max_age"))
    out = stage.out_client()
    assert [f.payload[:4] for f in out if f.kind == 7] == [b"\x7f\xff\xff\xff", b"\0\0\0\x07"]
    assert out[1].payload[8:] == b"max_age"
    assert [(f.stream, f.payload) for f in out if f.kind == 3] == [
        (7, Code.REFUSED_STREAM.to_bytes(4, "big"))
    ]
    stage.out_upstream()
    stage.client(head(9, ends=True))
    assert stage.out_upstream() == []
    for number in (1, 3):
        stage.client(data(2 * number + 1, ends=True) if number == 1 else data(5, ends=True))
        stage.upstream(head(number, ANSWER), head(number, TRAILERS, ends=True))
    assert stage.exchange.over == "drained"


def test_goaway_after_our_own_does_not_take_streams_back() -> None:
    stage = shifted()
    stage.exchange.begin_drain()
    stage.exchange.end_drain()
    stage.upstream(frames.goaway(1, 0))
    last = [int.from_bytes(f.payload[:4], "big") for f in stage.out_client() if f.kind == 7]
    assert last == [frames.LAST_STREAM, 3, 3]


@pytest.mark.parametrize(("code", "broken"), [(Code.FLOW_CONTROL_ERROR, True), (Code.INTERNAL_ERROR, False)])
def test_a_client_that_has_its_streams_reset_by_the_upstream_does_so_no_more_often_than_itself(
    code: Code, broken: bool
) -> None:
    stage = Stage(limits=Limits(resets=50)).ready()
    for number in range(1, 203, 2):
        stage.client(head(number), frames.window_update(number, LAST_STREAM))
        stage.upstream(frames.rst_stream(number, code))
    assert (stage.exchange.broke is not None) is broken
    assert len(stage.exchange.streams) == 0
    goaways = [int.from_bytes(f.payload[4:8], "big") for f in stage.out_client() if f.kind == frames.GOAWAY]
    assert goaways == [Code.ENHANCE_YOUR_CALM] * broken


@pytest.mark.parametrize(
    "sent",
    [
        frame(5, END_HEADERS, 1, b"\0\0\0\x02" + block(ANSWER)),
        data(1),
        data(3),
        head(3, ANSWER),
        head(2, ANSWER),
        head(1, TRAILERS),
        head(1, [(b":status", b"x")]),
        head(1, ANSWER) + head(1, ANSWER, ends=True),
        head(1, ANSWER) + head(1, TRAILERS),
        head(1, ANSWER, whole=False) + data(1),
        head(1, ANSWER, whole=False) + frame(9, END_HEADERS, 3),
        frame(9, END_HEADERS, 1),
        frame(1, END_HEADERS, 1, b"\xff\xff\xff\xff\xff"),
        frame(7, 0, 0, b"1234"),
        frame(8, 0, 0, bytes(4)),
        frame(3, 0, 1, b"1"),
        settings(b"12345"),
        data(1, bytes(65537)),
    ],
)
def test_what_an_upstream_must_not_send_is_told_and_nothing_of_it_gets_out(sent: bytes) -> None:
    stage = shifted()
    wrong = stage.upstream(sent)
    assert wrong is not None
    assert wrong.startswith("the upstream does not speak HTTP/2")
    assert all(f.kind in {1, 8} for f in stage.out_client())


@pytest.mark.parametrize("sent", [head(1, ANSWER), settings(ack=True), b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_an_upstream_that_does_not_greet_is_none(sent: bytes) -> None:
    stage = Stage()
    stage.client(GREETING)
    assert stage.upstream(sent) is not None
    assert stage.out_client() == []


def test_an_answer_in_pieces_is_one() -> None:
    stage = shifted()
    whole = block(ANSWER)
    for at in range(len(whole)):
        kind = frames.HEADERS if at == 0 else frames.CONTINUATION
        flags = END_HEADERS if at == len(whole) - 1 else 0
        stage.upstream(frame(kind, flags | (END_STREAM if at == 0 else 0), 1, whole[at : at + 1]))
    (answer,) = stage.out_client()
    assert answer.flags == END_HEADERS | END_STREAM


@hypothesis_settings(deadline=None)
@given(
    st.lists(
        st.one_of(
            st.builds(
                frame, st.integers(0, 10), st.integers(0, 255), st.integers(0, 4), st.binary(max_size=20)
            ),
            st.sampled_from([head(1, ANSWER), data(1), head(1, TRAILERS, ends=True), frames.goaway(1, 0)]),
        ),
        max_size=10,
    )
)
def test_whatever_an_upstream_sends_the_client_gets_sound_frames(sent: list[bytes]) -> None:
    stage = shifted()
    stage.upstream(*sent)
    for each in stage.out_client():
        assert each.stream in {0, 3}
        if each.kind == frames.HEADERS and each.flags & END_HEADERS:
            stage.at_client.fields(each)
