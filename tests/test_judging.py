"""Qdrant's table over gRPC: every method, for every kind of credential, with and without the collection."""

from collections.abc import Awaitable
from dataclasses import replace
from typing import Any

import pytest
from qdrant_client.grpc import points_pb2

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Limits, Reach, Right
from rekeyd.access.verdict import Allowed, Denied, Reason
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.listeners.grpc.judging import Asked, Judge, NeedsCollection, Ruling, status_of
from rekeyd.reload.interpretation import _shipped_policy
from rekeyd.trust.generation import Generation
from support.generations import candidate_of
from support.grpc_qdrant import services
from support.grpc_table import POINTS_WHERE_THE_TABLE_IS_SILENT, RING, limited, rows

QDRANT = _shipped_policy("qdrant")
GENERATION = replace(candidate_of(ring=RING).generation(1), policy=QDRANT)


def asked(method: str, key: str | None) -> Asked:
    fields = ((b"api-key", key.encode()),) if key is not None else ()
    return Asked(b"/" + method.encode(), fields, "192.0.2.1")


def verdict(
    method: str, key: str | None, collection: bytes = b"books", at: Generation = GENERATION
) -> Allowed | Denied:
    judge = Judge(Gatekeeper(), lambda: at)
    ruling = judge.judge(asked(method, key))
    assert not isinstance(ruling, Awaitable)
    if isinstance(ruling.verdict, NeedsCollection):
        ruling = judge.judge_collection(asked(method, key), ruling, collection)
        assert not isinstance(ruling, Awaitable)
    assert not isinstance(ruling.verdict, NeedsCollection)
    return ruling.verdict


@pytest.mark.parametrize("row", rows(), ids=lambda row: row["grpc"])
@pytest.mark.parametrize("kind", ["read", "collection_r", "collection_prw", "collection_rw", "manage"])
def test_every_method_of_the_table_is_for_whom_the_table_says(row: dict[str, str], kind: str) -> None:
    method = row["grpc"]
    said = {"yes": True, "no": False, "-": None}[row[kind]]
    if row["open"] == "yes":
        said = True
    if said is None:
        said = method.rpartition("/")[2] in POINTS_WHERE_THE_TABLE_IS_SILENT
    found = verdict(method, kind)
    assert isinstance(found, Allowed) is said
    assert isinstance(verdict(method, None), Allowed) is (row["open"] == "yes")
    assert isinstance(verdict(method, "wrong"), Allowed) is (row["open"] == "yes")


def test_the_policy_has_no_method_that_the_table_does_not_have() -> None:
    of_grpc = {r.template.removesuffix("/{collection}")[1:] for r in QDRANT.rules if r.method == "GRPC"}
    assert of_grpc | {path[1:].decode() for path in QDRANT.open_calls} == {row["grpc"] for row in rows()}


@pytest.mark.parametrize(
    "collection", [b"maps", b"", b"book", b"books2", b"books/../maps", b"%62ooks", b"\xff", b"..", b"bo/oks"]
)
@pytest.mark.parametrize("method", ["qdrant.Points/Scroll", "qdrant.Points/Upsert", "qdrant.Collections/Get"])
def test_who_is_limited_to_a_collection_reaches_no_other(collection: bytes, method: str) -> None:
    assert isinstance(verdict(method, "collection_rw", b"books"), Allowed)
    assert isinstance(verdict(method, "collection_rw", collection), Denied)


def test_the_name_is_asked_for_only_where_it_matters() -> None:
    judge = Judge(Gatekeeper(), lambda: GENERATION)
    for key, needs in (("manage", False), ("read", False), ("collection_r", True)):
        ruling = judge.judge(asked("qdrant.Points/Scroll", key))
        assert isinstance(ruling, Ruling)
        assert isinstance(ruling.verdict, NeedsCollection) is needs
    ruling = judge.judge(asked("qdrant.Collections/List", "collection_r"))
    assert isinstance(ruling, Ruling)
    assert isinstance(ruling.verdict, Allowed)


def test_a_key_that_expires_while_its_message_comes_is_too_late() -> None:
    clock = [100.0]
    credential = replace(limited("collection_r", Reach.READ), expires=150.0)
    generation = replace(GENERATION, ring=KeyRing([credential]))
    judge = Judge(Gatekeeper(now=lambda: clock[0]), lambda: generation, now=lambda: clock[0])
    ruling = judge.judge(asked("qdrant.Points/Scroll", "collection_r"))
    assert isinstance(ruling, Ruling)
    clock[0] = 151.0
    late = judge.judge_collection(asked("qdrant.Points/Scroll", "collection_r"), ruling, b"books")
    assert isinstance(late, Ruling)
    assert isinstance(late.verdict, Denied)
    assert late.verdict.reason is Reason.EXPIRED


def test_a_key_that_is_removed_while_its_message_comes_is_unknown() -> None:
    current = [GENERATION]
    judge = Judge(Gatekeeper(), lambda: current[0])
    ruling = judge.judge(asked("qdrant.Points/Scroll", "collection_r"))
    assert isinstance(ruling, Ruling)
    current[0] = replace(GENERATION, ring=KeyRing([]))
    late = judge.judge_collection(asked("qdrant.Points/Scroll", "collection_r"), ruling, b"books")
    assert isinstance(late, Ruling)
    assert isinstance(late.verdict, Denied)
    assert late.verdict.reason is Reason.UNKNOWN_KEY


@pytest.mark.parametrize("pattern", ["books", "*"])
def test_the_rate_of_a_key_that_is_limited_is_asked_once(pattern: str) -> None:
    credential = Credential.of_secret("slow", Right.READ, "slow")
    limits = Limits(collections=((pattern, Reach.READ),), rate=2)
    generation = replace(GENERATION, ring=KeyRing([replace(credential, limits=limits)]))
    judge = Judge(Gatekeeper(clock=lambda: 1.0), lambda: generation)
    reasons = []
    for _ in range(4):
        ruling = judge.judge(asked("qdrant.Points/Scroll", "slow"))
        assert isinstance(ruling, Ruling)
        if isinstance(ruling.verdict, NeedsCollection):
            ruling = judge.judge_collection(asked("qdrant.Points/Scroll", "slow"), ruling, b"books")
            assert isinstance(ruling, Ruling)
        assert not isinstance(ruling.verdict, NeedsCollection)
        reasons.append(ruling.verdict.reason)
    assert reasons.count(Reason.KEY) == 2
    assert reasons[2:] == [Reason.RATE_LIMITED] * 2


@pytest.mark.parametrize(
    "path",
    [
        b"/qdrant.Points/Scroll/books",
        b"/qdrant.Points/Scroll/",
        b"//qdrant.Points/Scroll",
        b"/qdrant.Points/Scroll?x",
        b"/qdrant.Points/%53croll",
        b"/qdrant.Points",
        b"/",
    ],
)
@pytest.mark.parametrize("key", ["read", "collection_rw"])
def test_what_is_no_method_is_for_nobody_with_less_than_everything(path: bytes, key: str) -> None:
    judge = Judge(Gatekeeper(), lambda: GENERATION)
    ruling = judge.judge(Asked(path, ((b"api-key", key.encode()),), "192.0.2.1"))
    assert isinstance(ruling, Ruling)
    assert isinstance(ruling.verdict, Denied)
    assert ruling.verdict.reason is Reason.PATH_NOT_NORMAL


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.NO_CREDENTIAL, 16),
        (Reason.UNKNOWN_KEY, 16),
        (Reason.WEAK_SECRET, 16),
        (Reason.EXPIRED, 7),
        (Reason.BAD_SIGNATURE, 7),
        (Reason.RIGHT_TOO_SMALL, 7),
        (Reason.COLLECTION_NOT_ALLOWED, 7),
        (Reason.REPEATED_CREDENTIAL, 3),
        (Reason.PATH_NOT_NORMAL, 3),
        (Reason.TOO_MANY_FAILURES, 8),
        (Reason.RATE_LIMITED, 8),
    ],
)
def test_statuses_are_the_contracts(reason: Reason, status: int) -> None:
    assert status_of(Denied(reason, "")) == status


async def test_a_flood_of_guesses_is_held_back() -> None:
    judge = Judge(Gatekeeper(), lambda: GENERATION)
    for _ in range(GENERATION.settings.access.failures_per_minute):
        assert isinstance(judge.judge(asked("qdrant.Points/Scroll", "wrong")), Ruling)
    late = judge.judge(asked("qdrant.Points/Scroll", "wrong"))
    assert isinstance(late, Awaitable)
    ruling = await late
    assert isinstance(ruling.verdict, Denied)
    assert ruling.verdict.reason is Reason.TOO_MANY_FAILURES
    assert isinstance(verdict("qdrant.Points/Scroll", "read"), Allowed)


def test_field_1_is_the_name_of_the_collection_wherever_the_policy_says_so() -> None:
    known = {service.full_name: service for service in services()}
    for rule in QDRANT.rules:
        if rule.method != "GRPC" or rule.collection is None:
            continue
        service, method = rule.template.split("/")[1:3]
        if service not in known or method not in known[service].methods_by_name:
            continue
        field = known[service].methods_by_name[method].input_type.fields_by_number[1]
        assert (field.name, field.type) == ("collection_name", field.TYPE_STRING), rule


def lookups_in(message: Any) -> dict[int, Any]:
    """The fields of a message in which, at any depth, a `LookupLocation` or a `WithLookup` may stand."""
    return {
        f.number: f.message_type for f in message.fields if f.message_type and reaches(f.message_type, ())
    }


def reaches(message: Any, above: tuple[str, ...]) -> bool:
    if message.name in {"LookupLocation", "WithLookup"}:
        return True
    within = [f.message_type for f in message.fields if f.message_type]
    return message.name not in above and any(reaches(m, (*above, message.name)) for m in within)


def test_the_policy_knows_every_place_in_which_qdrants_messages_name_further_collections() -> None:
    """Read from the descriptors of Qdrant's own client."""
    found: dict[str, dict[int, str]] = {"LookupLocation": {1: "name"}, "WithLookup": {1: "name"}}
    waiting = [(f"/{s.full_name}/{m.name}", m.input_type) for s in services() for m in s.methods]
    while waiting:
        kind, message = waiting.pop()
        fields = lookups_in(message)
        if kind in found or not fields:
            continue
        found[kind] = {number: within.name for number, within in fields.items()}
        waiting += [(within.name, within) for within in fields.values()]
    assert found == QDRANT.messages
    marked = {
        rule.template.removesuffix("/{collection}")
        for rule in QDRANT.rules
        if rule.method == "GRPC" and rule.lookup
    }
    assert marked == {kind for kind in found if "/" in kind}
    for message in (services_message("LookupLocation"), services_message("WithLookup")):
        assert "collection" in message.fields_by_number[1].name


def services_message(name: str) -> Any:
    return points_pb2.DESCRIPTOR.message_types_by_name[name]


def test_further_collections_must_be_readable_too() -> None:
    judge = Judge(Gatekeeper(), lambda: GENERATION)
    ruling = judge.judge(asked("qdrant.Points/Query", "collection_r"))
    assert isinstance(ruling, Ruling)
    assert isinstance(ruling.verdict, NeedsCollection)
    assert ruling.verdict.wanted.layouts == QDRANT.messages
    let_in = judge.judge_collection(asked("qdrant.Points/Query", "collection_r"), ruling, b"books")
    assert isinstance(let_in, Ruling)
    assert judge.judge_further(let_in, b"books") is None
    denied = judge.judge_further(let_in, b"maps")
    assert denied is not None
    assert denied.reason is Reason.COLLECTION_NOT_ALLOWED


def test_where_the_policy_does_not_say_how_further_names_are_found_who_is_limited_is_not_let_in() -> None:
    blind = replace(GENERATION, policy=replace(QDRANT, messages={}))
    current = [blind]
    judge = Judge(Gatekeeper(), lambda: current[0])
    ruling = judge.judge(asked("qdrant.Points/Query", "collection_r"))
    assert isinstance(ruling, Ruling)
    for generation in (blind, GENERATION):  # also where the policy learnt it while the message came
        current[0] = generation
        late = judge.judge_collection(asked("qdrant.Points/Query", "collection_r"), ruling, b"books")
        assert isinstance(late, Ruling)
        assert isinstance(late.verdict, Denied)
        assert late.verdict.reason is Reason.BODY_NOT_JUDGED
    assert isinstance(verdict("qdrant.Points/Query", "read", at=blind), Allowed)
