"""rekeyd's own answers: whole, in Qdrant's forms, and saying no more than they must."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Right
from rekeyd.access.verdict import Denied, Quota, Reason
from rekeyd.http1 import answers
from rekeyd.http1.request import Field
from rekeyd.http1.response import ResponseReader

MESSAGE = "Invalid API key or JWT"
DENIALS = {
    Reason.NO_CREDENTIAL: 401,
    Reason.UNKNOWN_KEY: 401,
    Reason.WEAK_SECRET: 401,
    Reason.REPEATED_CREDENTIAL: 400,
    Reason.PATH_NOT_NORMAL: 400,
    Reason.EXPIRED: 403,
    Reason.NOT_YET_VALID: 403,
    Reason.BAD_SIGNATURE: 403,
    Reason.WRONG_ALGORITHM: 403,
    Reason.CLAIMS_NOT_JUDGED: 403,
    Reason.TOKEN_REVOKED: 403,
    Reason.NETWORK_NOT_ALLOWED: 403,
    Reason.PATH_NOT_ALLOWED: 403,
    Reason.RIGHT_TOO_SMALL: 403,
    Reason.COLLECTION_NOT_ALLOWED: 403,
    Reason.BODY_NOT_JUDGED: 403,
    Reason.TOO_MANY_FAILURES: 429,
    Reason.TOO_MANY_WAITING: 429,
    Reason.RATE_LIMITED: 429,
}


def read_back(data: bytes, method: bytes = b"GET") -> ResponseReader:
    reader = ResponseReader(method)
    reader.feed(data)
    assert reader.complete
    assert not reader.excess
    return reader


def test_an_answer_is_rendered_whole() -> None:
    data = answers.answer(403, b"body", answers.JSON, method=b"POST", minor=1, keep_alive=True)
    assert data == (
        b"HTTP/1.1 403 Forbidden\r\nContent-Type: application/json\r\nContent-Length: 4\r\n\r\nbody"
    )


@pytest.mark.parametrize("status", answers.PHRASES)
@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"OPTIONS"])
@pytest.mark.parametrize("minor", [0, 1])
@pytest.mark.parametrize("keep_alive", [False, True])
def test_every_answer_is_read_back_as_one(status: int, method: bytes, minor: int, keep_alive: bool) -> None:
    body = b"" if status == 204 else b"hello"
    data = answers.answer(status, body, answers.PLAIN, method=method, minor=minor, keep_alive=keep_alive)
    reader = read_back(data, method)
    assert reader.head is not None
    assert (reader.head.status, reader.head.reason) == (status, answers.PHRASES[status])
    assert b"".join(reader.pieces) == (b"" if method == b"HEAD" else body)
    assert reader.keep_alive == keep_alive
    assert reader.head.framing.length == (None if status == 204 else 5)
    connection = [value for name, value in reader.head.fields if name == b"Connection"]
    assert connection == ([b"keep-alive"] if minor == 0 else []) if keep_alive else [b"close"]


def test_an_answer_names_neither_a_server_nor_a_version() -> None:
    data = answers.answer(400, b"", method=b"GET", minor=1, keep_alive=False)
    assert data == b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


@pytest.mark.parametrize(("reason", "status"), DENIALS.items())
def test_every_reason_of_a_denial_has_its_status(reason: Reason, status: int) -> None:
    assert answers.status_of(Denied(reason, MESSAGE)) == status


def test_every_reason_is_a_denial_with_a_status_or_lets_somebody_in() -> None:
    assert set(Reason) - set(DENIALS) == {Reason.OPEN, Reason.KEY, Reason.TOKEN, Reason.INSECURE}


@pytest.mark.parametrize("reason", [Reason.NO_CREDENTIAL, Reason.UNKNOWN_KEY])
def test_401_is_plain_text_and_names_its_scheme(reason: Reason) -> None:
    body, fields = answers.body_of(Denied(reason, MESSAGE), 0.5)
    assert body == MESSAGE.encode()
    assert dict(fields) == {b"Content-Type": b"text/plain; charset=utf-8", b"WWW-Authenticate": b"Bearer"}


@pytest.mark.parametrize(
    "reason", [Reason.REPEATED_CREDENTIAL, Reason.PATH_NOT_NORMAL, Reason.RIGHT_TOO_SMALL]
)
def test_other_denials_have_qdrants_json_form(reason: Reason) -> None:
    reader = Credential.of_secret("read_only_api_key", Right.READ, "a secret")
    denied = Denied(reason, "Forbidden: manage access is required", reader, Right.MANAGE)
    body, fields = answers.body_of(denied, 0.0001234567)
    assert json.loads(body) == {"status": {"error": "Forbidden: manage access is required"}, "time": 0.000123}
    assert fields == (answers.JSON,)
    assert b"read_only_api_key" not in body


def test_who_has_to_wait_is_told_how_long_and_what_of_a_rate_is_left() -> None:
    quota = Quota(limit=2.5, remaining=0, reset=0.2, retry_after=0.4)
    denied = Denied(Reason.RATE_LIMITED, MESSAGE, retry_after=0.4, quota=quota)
    _, fields = answers.body_of(denied, 0.0)
    assert dict(fields) == {
        b"Content-Type": b"application/json",
        b"Retry-After": b"1",
        b"X-RateLimit-Limit": b"2.5",
        b"X-RateLimit-Remaining": b"0",
        b"X-RateLimit-Reset": b"1",
    }
    assert answers.quota_fields(None) == ()


@given(st.text(), st.floats(0, 1e6))
def test_any_message_is_json(message: str, duration: float) -> None:
    body = answers.error_body(message, duration)
    assert json.loads(body)["status"]["error"] == message
    assert body.isascii()
    assert not set(body) & set(b"\r\n\x00")


def test_a_preflight_is_told_what_it_asked_for() -> None:
    fields = dict(answers.preflight_fields([(b"ACCESS-control-Request-Headers", b"api-key, content-type")]))
    assert fields[b"Access-Control-Allow-Origin"] == b"*"
    assert fields[b"Access-Control-Allow-Headers"] == b"api-key, content-type"
    assert {b"GET", b"POST", b"PUT", b"PATCH", b"DELETE"} <= set(
        fields[b"Access-Control-Allow-Methods"].split(b", ")
    )
    assert b"Access-Control-Allow-Credentials" not in fields


@pytest.mark.parametrize(
    "asked",
    [
        b"",
        b"x\r\nSet-Cookie: a=b",
        b"x\n",
        b"caf\xe9",
        b"a\x00",
        b"<script>",
        b"*; x",
        b"a: b",
        b"\r\n\r\n<html>",
    ],
)
def test_what_is_no_list_of_names_is_not_sent_back(asked: bytes) -> None:
    fields = dict(answers.preflight_fields([(b"Access-Control-Request-Headers", asked)]))
    assert fields[b"Access-Control-Allow-Headers"] == b"*"
    assert dict(answers.preflight_fields([])) == fields


@given(
    st.lists(st.tuples(st.sampled_from([b"Access-Control-Request-Headers", b"Origin", b"X"]), st.binary()))
)
def test_no_value_of_a_preflight_adds_a_line_to_its_answer(asked: list[Field]) -> None:
    fields = answers.preflight_fields(asked)
    data = answers.answer(204, b"", *fields, method=b"OPTIONS", minor=1, keep_alive=True)
    assert data.count(b"\r") == data.count(b"\n") == len(fields) + 2
    reader = read_back(data, b"OPTIONS")
    assert reader.head is not None
    assert [name for name, _ in reader.head.fields] == [name for name, _ in fields]
