"""Verdicts at once, later and after the message; credits; and the ways in which a connection ends."""

import gzip

from rekeyd.http2 import frames
from rekeyd.http2.exchange import BROKE_OFF, HELD
from rekeyd.http2.frames import END_STREAM, Code, frame
from rekeyd.http2.guard import Limits
from rekeyd.http2.handling import Deny, Read, Verdict
from rekeyd.http2.protobuf import Wanted
from rekeyd.http2.streams import Stream
from support.http2 import (
    ANSWER,
    PING,
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

BOOKS, MAPS = b"\x0a\x05books", b"\x0a\x04maps"


def reads_field_1(_stream: Stream) -> Read:
    return Read(Wanted(1))


def only_books(stream: Stream, collection: bytes | None) -> Verdict:
    return admitted(stream) if collection == b"books" else Deny(7, "not this one")


def searching() -> Stage:
    return Stage(reads_field_1, only_books).ready()


def grpc_statuses(stage: Stage) -> dict[int, bytes]:
    """What each stream was told in its last head."""
    found: dict[int, bytes] = {}
    for each in stage.out_client():
        if each.kind == frames.HEADERS:
            fields = stage.at_client.fields(each)
            if b"grpc-status" in fields:
                found[each.stream] = fields[b"grpc-status"]
    return found


# Denials.


def test_a_denial_is_one_head_and_a_reset_where_the_client_still_sends() -> None:
    stage = Stage(denied).ready()
    stage.client(head(1), head(3, ends=True))
    answer, reset, only = stage.out_client()
    assert (answer.kind, answer.stream, answer.flags & END_STREAM) == (frames.HEADERS, 1, END_STREAM)
    assert stage.at_client.fields(answer) == {
        b":status": b"200",
        b"content-type": b"application/grpc",
        b"grpc-status": b"16",
        b"grpc-message": b"no",
    }
    assert (reset.kind, reset.stream, reset.payload) == (frames.RST_STREAM, 1, bytes(4))
    assert (only.kind, only.stream) == (frames.HEADERS, 3)
    assert stage.out_upstream() == []


def test_what_is_on_its_way_to_a_denied_stream_is_swallowed_and_credited() -> None:
    stage = Stage(denied).ready()
    stage.client(head(1))
    stage.out_client()
    stage.client(
        data(1, b"x" * 5000),
        frame(frames.DATA, frames.PADDED, 1, b"\x03abc\0\0\0"),
        frames.window_update(1, 5),
        head(1, [(b"x-last", b"1")], ends=True),
        frames.rst_stream(1, 8),
    )
    credited = [int.from_bytes(f.payload, "big") for f in stage.out_client() if f.kind == 8 and f.stream == 0]
    assert credited == [5000, 7]
    assert stage.out_upstream() == []
    assert stage.exchange.over is None


def test_denied_streams_leave_no_trace_at_the_upstream() -> None:
    stage = Stage(lambda stream: denied(stream) if stream.id in {1, 5} else admitted(stream)).ready()
    stage.client(head(1), head(3, ends=True), head(5), head(7, ends=True))
    assert [f.stream for f in stage.out_upstream()] == [1, 3]
    stage.upstream(head(3, ANSWER), data(3), head(3, TRAILERS, ends=True))
    assert [f.stream for f in stage.out_client() if f.stream == 7] == [7, 7, 7]


def test_our_answers_may_stand_between_the_upstreams() -> None:
    stage = Stage(lambda stream: denied(stream) if stream.id == 3 else admitted(stream)).ready()
    stage.client(head(1))
    stage.upstream(head(1, ANSWER))
    stage.client(head(3))
    stage.upstream(head(1, TRAILERS, ends=True))
    out = stage.out_client()
    read = [(f.stream, stage.at_client.fields(f)) for f in out if f.kind == frames.HEADERS]
    assert [stream for stream, _ in read] == [1, 3, 1]
    assert read[2][1] == dict(TRAILERS)


# Verdicts that take their time.


def test_a_stream_waits_for_its_verdict_in_order_and_blocks_no_other() -> None:
    waiting: list[Stream] = []

    def judge(stream: Stream) -> Verdict | None:
        if stream.id != 1:
            return admitted(stream)
        waiting.append(stream)
        return None

    stage = Stage(judge).ready()
    stage.client(head(1), data(1, message(b"a")), head(3, ends=True), frames.window_update(1, 7))
    stage.client(data(1, message(b"b")), head(1, [(b"x-last", b"1")], ends=True))
    assert [f.stream for f in stage.out_upstream()] == [1]
    stage.exchange.decide(waiting[0], admitted(waiting[0]))
    out = stage.out_upstream()
    assert kinds(out) == [frames.HEADERS, frames.WINDOW_UPDATE, frames.DATA, frames.DATA, frames.HEADERS]
    assert {f.stream for f in out} == {3}
    assert [f.payload for f in out[2:4]] == [message(b"a"), message(b"b")]
    assert out[4].flags & END_STREAM


def test_a_verdict_for_a_stream_that_is_gone_changes_nothing() -> None:
    waiting: list[Stream] = []
    stage = Stage(waiting.append).ready()
    stage.client(head(1), data(1, message(b"x")), frames.rst_stream(1, 8))
    assert [f.kind for f in stage.out_client()] == [frames.WINDOW_UPDATE], "what was held is credited"
    stage.exchange.decide(waiting[0], admitted(waiting[0]))
    assert stage.out_upstream() == []
    assert stage.tells("ended") == ["the client cancelled"]


def test_a_late_denial_credits_what_was_held() -> None:
    waiting: list[Stream] = []
    stage = Stage(waiting.append).ready()
    stage.client(head(1), data(1, message(bytes(2995)), ends=True))
    stage.exchange.decide(waiting[0], Deny(7, "no"))
    out = stage.out_client()
    assert kinds(out) == [frames.HEADERS, frames.WINDOW_UPDATE]
    assert int.from_bytes(out[1].payload, "big") == 3000
    assert stage.exchange.held == 0


def test_when_too_much_waits_for_verdicts_no_more_is_read() -> None:
    waiting: list[Stream] = []
    stage = Stage(waiting.append).ready()
    stage.client(head(1), data(1, b"\0\x01\0\0\0" + bytes(60_000)) * 18)
    assert stage.client_side.waits
    stage.exchange.decide(waiting[0], admitted(waiting[0]))
    assert not stage.client_side.waits


# Verdicts that need the message.


def test_the_collection_in_the_message_decides() -> None:
    stage = searching()
    stage.client(head(1), head(3), data(1, message(BOOKS), ends=True), data(3, message(MAPS), ends=True))
    assert stage.tells("named") == [b"books", b"maps"]
    assert [(f.kind, f.stream) for f in stage.out_upstream()] == [(1, 1), (0, 1)]
    assert grpc_statuses(stage) == {3: b"7"}


def test_a_name_is_known_from_the_first_bytes_and_the_rest_flows_on() -> None:
    stage = searching()
    long = b"\0" + (20_000_000).to_bytes(4, "big") + BOOKS + b"\x12\x80\xda\xc4\x09"
    stage.client(head(1), data(1, long))
    assert kinds(stage.out_upstream()) == [frames.HEADERS, frames.DATA]
    stage.client(data(1, bytes(60_000)))
    assert kinds(stage.out_upstream()) == [frames.DATA]


def test_a_second_name_in_the_message_ends_it_before_it_is_whole() -> None:
    stage = searching()
    whole = message(BOOKS + b"\x12\x0a0123456789" + MAPS)
    stage.client(head(1), data(1, whole[:20]), data(1, whole[20:], ends=True))
    out = stage.out_upstream()
    assert kinds(out) == [frames.HEADERS, frames.DATA, frames.RST_STREAM]
    assert out[1].payload == whole[:20]
    assert grpc_statuses(stage) == {1: b"7"}
    assert stage.tells("denied") == [(7, "a message that names two collections")]


def test_a_second_name_in_the_same_frame_never_gets_out() -> None:
    for whole in (message(BOOKS + MAPS), message(BOOKS) + message(MAPS), message(BOOKS)[:-1]):
        stage = searching()
        stage.client(head(1), data(1, whole, ends=True))
        assert stage.out_upstream() == []
        assert grpc_statuses(stage) == {1: b"7"}


def test_a_compressed_message_is_read_too() -> None:
    stage = searching()
    fields = with_fields((b"grpc-encoding", b"gzip"))
    for number, content in ((1, BOOKS), (3, MAPS)):
        wire = message(gzip.compress(content), compressed=True)
        stage.client(head(number, fields), data(number, wire, ends=True))
    assert [(f.kind, f.stream) for f in stage.out_upstream()] == [(1, 1), (0, 1)]
    assert grpc_statuses(stage) == {3: b"7"}


def test_a_call_without_a_message_names_nothing() -> None:
    stage = searching()
    stage.client(
        head(1, ends=True), head(3), head(3, [(b"x-last", b"1")], ends=True), head(5), data(5, b"", ends=True)
    )
    assert stage.tells("named") == [None, None, None]
    assert stage.out_upstream() == []
    assert grpc_statuses(stage) == {1: b"7", 3: b"7", 5: b"7"}


def test_a_name_that_comes_too_late_is_none() -> None:
    stage = searching()
    stage.client(head(1), data(1, b"\0\x00\xff\xff\xff\x12\x80\x80\x40"))
    stage.client(*[data(1, bytes(16_000))] * (HELD // 16_000 + 1))
    assert stage.tells("denied") == [(7, "a message that names its collection too late")]
    assert stage.out_upstream() == []
    credited = sum(int.from_bytes(f.payload, "big") for f in stage.out_client() if f.kind == 8)
    assert credited == 9 + 16_000 * (HELD // 16_000 + 1)
    assert stage.exchange.held == 0


def test_a_verdict_that_needs_the_message_may_come_after_the_message() -> None:
    for content, passes in ((BOOKS, True), (MAPS, False), (BOOKS + MAPS, False), (b"", False)):
        waiting: list[Stream] = []
        stage = Stage(waiting.append, only_books).ready()
        stage.client(head(1), data(1, message(content), ends=True))
        stage.exchange.decide(waiting[0], Read(Wanted(1)))
        assert bool(stage.out_upstream()) is passes
        assert bool(grpc_statuses(stage)) is not passes


LOOKING = Wanted(1, "/Query", {"/Query": {2: "name"}})


def test_further_names_are_judged_before_the_message_is_whole() -> None:
    further = b"\x12\x04maps"
    for pieces in (
        (BOOKS + further,),
        (further + BOOKS,),
        (BOOKS, further),
        (BOOKS, further[:3], further[3:]),
    ):
        for forbidden in (frozenset[bytes](), frozenset({b"maps"})):
            stage = Stage(lambda _: Read(LOOKING), only_books, forbidden=forbidden).ready()
            whole = message(b"".join(pieces))
            stage.client(head(1), data(1, whole[:5]), *[data(1, piece) for piece in pieces])
            assert stage.tells("further") == [b"maps"]
            assert grpc_statuses(stage) == ({1: b"7"} if forbidden else {})
            passed = b"".join(f.payload for f in stage.out_upstream() if f.kind == frames.DATA)
            assert (passed == whole) is not bool(forbidden)
            assert stage.exchange.held == 0


def test_a_message_that_is_too_long_is_denied_whoever_sends_it() -> None:
    stage = Stage(limits=Limits(message=1000)).ready()
    stage.client(head(1), data(1, message(bytes(1000))), data(1, message(bytes(1001))))
    assert grpc_statuses(stage) == {1: b"8"}
    assert kinds(stage.out_upstream()) == [frames.HEADERS, frames.DATA, frames.RST_STREAM]


def test_data_that_is_not_passed_on_is_credited_once() -> None:
    stage = Stage(limits=Limits(message=10)).ready()
    stage.client(head(1), data(1, message(bytes(10))), data(1, message(bytes(11))))
    credited = [int.from_bytes(f.payload, "big") for f in stage.out_client() if f.kind == 8]
    assert credited == [16]


# The ends of a connection.


def test_a_drain_is_told_twice_and_what_came_in_between_is_served() -> None:
    stage = Stage().ready()
    stage.client(head(1, ends=True))
    stage.exchange.begin_drain()
    away, ping = stage.out_client()
    assert (away.kind, away.payload[:4]) == (frames.GOAWAY, frames.LAST_STREAM.to_bytes(4, "big"))
    assert (ping.kind, ping.payload) == (frames.PING, PING)
    stage.client(head(3, ends=True), frame(frames.PING, frames.ACK, 0, PING), head(5, ends=True))
    (last,) = stage.out_client()
    assert (last.kind, last.payload[:8]) == (frames.GOAWAY, b"\0\0\0\x03\0\0\0\0")
    assert [f.stream for f in stage.out_upstream()] == [1, 3]
    assert stage.exchange.over is None
    stage.upstream(head(1, ANSWER), head(1, TRAILERS, ends=True), head(3, ANSWER))
    assert stage.exchange.over is None
    stage.upstream(head(3, TRAILERS, ends=True))
    assert stage.exchange.over == "drained"


def test_a_drain_does_not_wait_for_ever_for_its_ping() -> None:
    stage = Stage().ready()
    stage.exchange.begin_drain()
    stage.exchange.begin_drain()
    assert stage.exchange.over is None
    stage.exchange.end_drain()
    assert stage.exchange.over == "drained"
    assert kinds(stage.out_client()) == [frames.GOAWAY, frames.PING, frames.GOAWAY]


def test_a_drain_before_the_upstream_is_there_begins_with_it() -> None:
    stage = Stage()
    stage.client(frames.PREFACE, settings())
    stage.exchange.begin_drain()
    assert stage.out_client() == []
    stage.upstream(settings())
    assert kinds(stage.out_client()) == [frames.SETTINGS, frames.GOAWAY, frames.PING]


def test_a_cut_answers_what_runs_and_says_why() -> None:
    stage = Stage().ready()
    stage.client(head(1), head(3))
    stage.upstream(head(1, ANSWER), data(1))
    stage.out_client()
    stage.exchange.cut("key api_key was removed")
    out = stage.out_client()
    assert [(f.kind, f.stream) for f in out] == [(1, 1), (3, 1), (1, 3), (3, 3), (7, 0)]
    assert stage.at_client.fields(out[0]) == {
        b"grpc-status": b"14",
        b"grpc-message": b"key api_key was removed",
    }
    assert b":status" in stage.at_client.fields(out[2])
    assert stage.tells("ended") == ["key api_key was removed"] * 2
    assert stage.exchange.over == "key api_key was removed"


def test_an_upstream_that_leaves_is_told_to_all_that_run_and_to_the_next_by_goaway() -> None:
    stage = Stage().ready()
    stage.client(head(1), head(3))
    stage.upstream(head(1, ANSWER))
    stage.out_client()
    stage.exchange.upstream_left("gone")
    out = stage.out_client()
    told = [stage.at_client.fields(f) for f in out if f.kind == frames.HEADERS]
    assert [fields[b"grpc-status"] for fields in told] == [b"14", b"14"]
    assert told[0][b"grpc-message"] == BROKE_OFF.encode()
    assert out[-1].kind == frames.GOAWAY
    assert stage.exchange.over == "gone"


def test_an_upstream_that_was_never_there_is_not_told_at_all() -> None:
    stage = Stage()
    stage.client(frames.PREFACE, settings(), head(1))
    stage.exchange.upstream_left("refused")
    assert stage.out_client() == []
    assert stage.exchange.over == "refused"


def test_a_client_that_leaves_cancels_what_runs() -> None:
    stage = Stage().ready()
    stage.client(head(1), head(3, ends=True))
    stage.out_upstream()
    stage.exchange.client_left("the client left")
    assert [(f.kind, f.payload) for f in stage.out_upstream()] == [(3, Code.CANCEL.to_bytes(4, "big"))] * 2
    assert stage.tells("ended") == ["the client left"] * 2


def test_nothing_is_taken_from_a_client_whose_connection_is_over() -> None:
    stage = Stage().ready()
    stage.client(frame(5, 4, 1, block(ANSWER)))
    stage.out_client()
    stage.client(head(1, ends=True))
    assert stage.out_upstream() == []
