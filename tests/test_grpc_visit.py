"""What a call's line tells, and what the upstream is told of its client."""

from dataclasses import dataclass, replace

import pytest

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Right
from rekeyd.access.verdict import Allowed, Denied, Reason
from rekeyd.http2.fields import BlockReader
from rekeyd.http2.heads import Call, examine
from rekeyd.listeners.grpc.visit import Visit
from rekeyd.trust.generation import Generation
from support.generations import candidate_of, settings_of
from support.http2 import with_fields

CREDENTIAL = replace(Credential.of_secret("reader", Right.READ, "secret"), subject="ä", token_id="t-1")


@dataclass
class At:
    generation: Generation
    peer: str = "192.0.2.1"
    tls: str | None = "TLSv1.3"
    cipher: str | None = "TLS_AES_128_GCM_SHA256"
    identity: str | None = "dns:a.example"


def visit(**upstream: object) -> tuple[Visit, Call]:
    generation = candidate_of(settings=settings_of(upstream={"grpc": "db:6334", **upstream})).generation(2)
    made = Visit(10.0, generation, At(candidate_of().generation(1)), "192.0.2.1")
    call = examine(with_fields((b":path", b"/a.B/C?secret"), (b"api-key", b"k")))
    assert isinstance(call, Call)
    made.asks_for(call, "id-1")
    return made, call


def read(literals: bytes) -> dict[bytes, bytes]:
    return dict(BlockReader(4096).read(literals))


def test_who_needs_no_key_where_others_do_is_keyless() -> None:
    made, _ = visit()
    assert not made.is_keyless
    made.verdict = Allowed(Reason.KEY, CREDENTIAL)
    assert not made.is_keyless
    made.verdict = Allowed(Reason.OPEN)
    assert made.is_keyless
    nobody = settings_of(service={"insecure": True, "api_key": None})
    made.generation = candidate_of(settings=nobody).generation(3)
    assert made.generation.open_to_all
    assert not made.is_keyless, "nobody needs one"


def test_a_line_tells_of_what_was_decided_and_what_came_of_it() -> None:
    made, _ = visit()
    made.verdict, made.status, made.grpc_status = Allowed(Reason.TOKEN, CREDENTIAL, Right.READ), 200, 0
    told = made.decision(10.5, None).fields()
    assert told == {
        "decision": "allowed",
        "reason": "token",
        "key_id": "reader",
        "right_needed": "read",
        "method": "POST",
        "path": "/a.B/C",
        "status": 200,
        "client": "192.0.2.1",
        "request_id": "id-1",
        "duration": 0.5,
        "tls": "TLSv1.3",
        "generation": 2,
        "client_certificate": "dns:a.example",
        "connection_generation": 1,
        "subject": "ä",
        "token_id": "t-1",
        "grpc_status": 0,
    }


@pytest.mark.parametrize(
    ("verdict", "overruled", "reason", "decision"),
    [
        (Denied(Reason.UNKNOWN_KEY, ""), False, "", ("denied", "unknown_key")),
        (None, False, "malformed", ("denied", "malformed")),
        (Allowed(Reason.KEY, CREDENTIAL), True, "malformed", ("denied", "malformed")),
        (Allowed(Reason.OPEN), False, "", ("allowed", "open")),
    ],
)
def test_only_what_was_let_in_to_the_end_is_allowed(
    verdict: Allowed | Denied | None, overruled: bool, reason: str, decision: tuple[str, str]
) -> None:
    made, _ = visit()
    made.verdict, made.overruled, made.reason = verdict, overruled, reason
    told = made.decision(11.0, "why")
    assert (told.decision, told.reason) == decision
    assert told.failure == "why"


def test_who_asks_is_told_where_that_is_wanted_and_the_key_never() -> None:
    made, call = visit(identity_headers=True, api_key="the-upstreams-own")
    fields = read(made.onward(call, Allowed(Reason.TOKEN, CREDENTIAL, Right.READ)))
    assert fields[b"api-key"] == b"the-upstreams-own"
    assert fields[b"x-rekeyd-subject"] == b"%C3%A4"
    assert (fields[b"x-rekeyd-key-id"], fields[b"x-rekeyd-right"]) == (b"reader", b"read")
    assert (fields[b"x-rekeyd-tls"], fields[b"x-rekeyd-client-cert"]) == (b"TLSv1.3", b"dns:a.example")
    assert (fields[b":scheme"], fields[b"x-request-id"]) == (b"http", b"id-1")
    made, call = visit()
    fields = read(made.onward(call, Allowed(Reason.KEY, CREDENTIAL)))
    assert b"api-key" not in fields
    assert not any(name.startswith(b"x-rekeyd") for name in fields)


def test_a_line_is_no_longer_for_a_path_without_end() -> None:
    made, _ = visit()
    call = examine(with_fields((b":path", b"/a.B/" + b"C" * 4000)))
    assert isinstance(call, Call)
    made.asks_for(call, "id-1")
    path = made.decision(10.5, None).path
    assert path == "/a.B/" + "C" * 1019
