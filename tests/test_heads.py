"""Heads of calls: what is none, and what of one goes on."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.http2.fields import Field, Fields
from rekeyd.http2.heads import (
    Answer,
    Call,
    Malformed,
    Onward,
    answer_of,
    denial,
    examine,
    onward,
    passed_on,
    trailers,
    why_no_trailers,
)
from support.http2 import ANSWER, HEAD, with_fields

ON = Onward(scheme=b"http", authority=b"upstream:6334")


def call(*more: Field) -> Call:
    examined = examine(with_fields(*more))
    assert isinstance(examined, Call)
    return examined


def test_a_call_is_what_it_says() -> None:
    found = call((b"grpc-encoding", b"gzip"), (b"x-request-id", b"a-1"))
    assert (found.path, found.method, found.authority) == (
        b"/test.Service/Echo",
        "test.Service/Echo",
        b"localhost:6334",
    )
    assert (found.encoding, found.request_id) == (b"gzip", b"a-1")
    assert call().encoding == b""
    assert call((b"grpc-encoding", b"gzip"), (b"grpc-encoding", b"identity")).encoding == b""
    assert call((b"x-request-id", b"a b")).request_id is None


@pytest.mark.parametrize(
    "fields",
    [
        (),
        HEAD[1:],
        with_fields(without=[b":scheme"]),
        with_fields(without=[b":path"]),
        (*HEAD[:4], HEAD[0], *HEAD[4:]),
        (*HEAD[:4], (b":path", b"/another"), *HEAD[4:]),
        (*HEAD, (b":path", b"/late")),
        (*HEAD[:4], (b":protocol", b"websocket"), *HEAD[4:]),
        (*HEAD[:4], (b":status", b"200"), *HEAD[4:]),
        with_fields((b":scheme", b"ftp")),
        with_fields((b":path", b"")),
        with_fields((b":path", b"*")),
        with_fields((b":path", b"no/slash")),
        with_fields((b":path", b"/a b")),
        with_fields((b":path", b"/\xc3\xa4")),
        with_fields((b":path", b"/a\r\nx: y")),
        with_fields((b":authority", b"")),
        with_fields((b":authority", b"user@host")),
        with_fields((b":authority", b"a,b")),
        with_fields((b"host", b"another")),
        with_fields((b"host", b"localhost:6334"), (b"host", b"b")),
        with_fields((b"Api-Key", b"x")),
        with_fields((b"", b"x")),
        with_fields((b"a b", b"x")),
        with_fields((b"a:b", b"x")),
        with_fields((b"a\n", b"x")),
        with_fields((b"a", b"x\r\ny")),
        with_fields((b"a", b"x\ny")),
        with_fields((b"a", b"x\0")),
        with_fields((b"a", b" x")),
        with_fields((b"a", b"x\t")),
        with_fields((b"connection", b"close")),
        with_fields((b"keep-alive", b"1")),
        with_fields((b"proxy-connection", b"close")),
        with_fields((b"transfer-encoding", b"chunked")),
        with_fields((b"upgrade", b"h2c")),
        with_fields((b"te", b"gzip"), without=[b"te"]),
    ],
)
def test_what_is_no_call_is_malformed(fields: Fields) -> None:
    examined = examine(fields)
    assert isinstance(examined, Malformed)
    assert examined.status is None


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (with_fields((b":method", b"GET")), 405),
        (with_fields((b":method", b"CONNECT")), 405),
        (with_fields(without=[b"content-type"]), 415),
        (with_fields((b"content-type", b"application/json"), without=[b"content-type"]), 415),
        (with_fields((b"content-type", b"application/grpc-web+proto"), without=[b"content-type"]), 415),
        (with_fields((b"content-type", b"application/grpcx"), without=[b"content-type"]), 415),
        (with_fields((b"content-type", b"application/grpc")), 415),
    ],
)
def test_what_is_http_and_no_grpc_is_told_so(fields: Fields, status: int) -> None:
    examined = examine(fields)
    assert isinstance(examined, Malformed)
    assert examined.status == status


@pytest.mark.parametrize("kind", [b"application/grpc+proto", b"application/grpc;x=y", b"Application/gRPC"])
def test_every_kind_of_grpc_is_one(kind: bytes) -> None:
    assert isinstance(examine(with_fields((b"content-type", kind), without=[b"content-type"])), Call)


def test_a_host_may_stand_for_the_authority_and_neither_need_be_there() -> None:
    only_host = examine(with_fields((b"host", b"a:1"), without=[b":authority"]))
    assert isinstance(only_host, Call)
    assert only_host.authority == b"a:1"
    neither = examine(with_fields(without=[b":authority"]))
    assert isinstance(neither, Call)
    assert (b":authority", b"upstream:6334") in onward(neither, ON)


def test_the_upstream_gets_one_head_that_is_sound_and_nothing_of_the_key() -> None:
    sent = call(
        (b"api-key", b"secret"),
        (b"authorization", b"Bearer secret"),
        (b"api_key", b"secret"),
        (b"x-rekeyd-key-id", b"me"),
        (b"x_rekeyd_key_id", b"me"),
        (b"x-forwarded-for", b"1.2.3.4"),
        (b"x-forwarded-port", b"1"),
        (b"forwarded", b"for=me"),
        (b"x-real-ip", b"1.2.3.4"),
        (b"host", b"localhost:6334"),
        (b"x-request-id", b"theirs"),
        (b"grpc-timeout", b"1S"),
        (b"x-bin-bin", b"AAEC"),
    )
    assert onward(sent, ON) == [
        (b":method", b"POST"),
        (b":scheme", b"http"),
        (b":path", b"/test.Service/Echo"),
        (b":authority", b"localhost:6334"),
        (b"te", b"trailers"),
        (b"content-type", b"application/grpc"),
        (b"grpc-timeout", b"1S"),
        (b"x-bin-bin", b"AAEC"),
    ]


def test_what_a_trusted_proxy_says_passes_and_credentials_where_they_may_be_the_upstreams() -> None:
    sent = ((b"forwarded", b"for=x"), (b"x_real_ip", b"x"), (b"x-forwarded-for", b"x"), (b"api-key", b"k"))
    assert passed_on(sent, vouched=True) == [(b"forwarded", b"for=x")]
    assert passed_on(sent, keep_credentials=True) == [(b"api-key", b"k")]


def test_trailers_have_no_pseudo_fields() -> None:
    assert why_no_trailers(((b"x-last", b"1"),)) is None
    assert why_no_trailers(((b":path", b"/x"),)) is not None
    assert why_no_trailers(((b"connection", b"x"),)) is not None
    assert passed_on(((b"api-key", b"x"), (b"x-last", b"1"))) == [(b"x-last", b"1")]


def test_a_denial_is_trailers_only_and_its_words_are_escaped() -> None:
    assert denial(16, "no: 100% ä\n") == [
        (b":status", b"200"),
        (b"content-type", b"application/grpc"),
        (b"grpc-status", b"16"),
        (b"grpc-message", b"no: 100%25 %C3%A4%0A"),
    ]
    assert trailers(4, "late") == [(b"grpc-status", b"4"), (b"grpc-message", b"late")]


@pytest.mark.parametrize(
    ("fields", "answer"),
    [
        (ANSWER, Answer(200, None)),
        (((b":status", b"200"), (b"grpc-status", b"7")), Answer(200, 7)),
        (((b"grpc-status", b"0"), (b"grpc-status", b"5")), Answer(None, 0)),
        (((b":status", b"2000"), (b"grpc-status", b"-1")), Answer(None, None)),
    ],
)
def test_an_answer_is_read_in_passing(fields: Fields, answer: Answer) -> None:
    assert answer_of(fields) == answer


def test_an_interim_answer_is_known() -> None:
    assert answer_of(((b":status", b"103"),)).is_interim
    assert not answer_of(ANSWER).is_interim


@given(st.lists(st.tuples(st.binary(max_size=20), st.binary(max_size=20)), max_size=8))
def test_whatever_is_sent_what_goes_on_has_no_control_and_no_credential(more: list[Field]) -> None:
    examined = examine((*HEAD, *more))
    if isinstance(examined, Malformed):
        return
    for name, value in onward(examined, ON):
        assert name == name.lower()
        assert not any(byte < 0x20 and byte != 0x09 for byte in name + value)
        assert name.replace(b"_", b"-") not in {b"api-key", b"authorization", b"connection"}
