import json
import timeit
from collections.abc import Iterable
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Right
from rekeyd.access.verdict import Reason
from rekeyd.telemetry.decisions import Decision
from rekeyd.telemetry.evidence import (
    KEYS,
    LARGEST,
    UNUSED,
    Evidence,
    KeyUse,
    NewerUsageError,
    NotUsageError,
    Usage,
    usage_in,
)
from rekeyd.trust.generation import Generation
from support.generations import candidate_of
from support.live import measured

BEGAN = 1_800_000_000.0


def generation_of(ids: Iterable[str], number: int = 1) -> Generation:
    ring = KeyRing(Credential(key_id, Right.READ, key_id.encode()) for key_id in ids)
    return candidate_of(ring=ring).generation(number)


class Instance:
    """Evidence, and everything that it asks."""

    def __init__(self, *ids: str, **limits: int) -> None:
        self.generation: Generation | None = generation_of(ids)
        self.now = BEGAN
        self.evidence = Evidence(lambda: self.generation, now=lambda: self.now, **limits)

    def allowed(self, key_id: str, at: float) -> None:
        self.now = at
        self.evidence.decided(Decision("allowed", "key", key_id))

    def denied(self, key_id: str | None, reason: str = "expired") -> None:
        self.evidence.decided(Decision("denied", reason, key_id))

    def kept(self) -> bytes:
        return b"".join(self.evidence.snapshot()())


def test_the_first_and_the_last_use_are_told_and_all_are_counted() -> None:
    instance = Instance("a", "b")
    for at in (BEGAN + 1, BEGAN + 5, BEGAN + 9):
        instance.allowed("a", at)
    assert instance.evidence.of("a") == KeyUse(BEGAN + 1, BEGAN + 9, 3, {})
    assert instance.evidence.last_used("a") == BEGAN + 9
    assert instance.evidence.of("b") == UNUSED
    assert instance.evidence.last_used("b") is None


def test_a_clock_that_is_set_back_makes_no_key_look_idle() -> None:
    instance = Instance("a")
    for at in (BEGAN, BEGAN + 9, BEGAN - 100):
        instance.allowed("a", at)
    assert instance.evidence.of("a") == KeyUse(BEGAN, BEGAN + 9, 3, {})


def test_a_denial_is_counted_by_its_reason_and_is_no_use() -> None:
    instance = Instance("a")
    instance.denied("a")
    instance.denied("a", Reason.RIGHT_TOO_SMALL)
    instance.denied("a", "right_too_small")
    instance.denied("a", "a reason that nobody knows")
    use = instance.evidence.of("a")
    assert (use.first_used, use.last_used, use.allowed) == (None, None, 0)
    assert use.denied == {"expired": 1, "right_too_small": 2, "other": 1}


def test_nothing_that_a_client_sends_makes_an_entry() -> None:
    instance = Instance("a")
    instance.denied(None, "unknown_key")
    for number in range(100):
        instance.allowed(f"unknown-{number}", BEGAN)
    instance.generation = None
    instance.allowed("a", BEGAN)
    assert instance.evidence.changes == 0
    assert not instance.evidence._records


def test_a_key_that_is_gone_is_counted_on() -> None:
    """Its last requests end after the reload that removed it."""
    instance = Instance("a")
    instance.allowed("a", BEGAN)
    instance.generation = generation_of(["b"], 2)
    instance.allowed("a", BEGAN + 1)
    assert instance.evidence.of("a").allowed == 2


def test_ids_that_come_and_go_are_bounded_and_never_used_is_not_said_too_early() -> None:
    instance = Instance(*"abcd", keys=3)
    for second, key_id in enumerate("abcad", start=1):
        instance.allowed(key_id, BEGAN + second)
    assert list(instance.evidence._records) == ["c", "a", "d"]
    assert instance.evidence.of("b") == UNUSED
    assert instance.evidence.since == BEGAN + 2, "b may have been used until then"
    instance.denied("b")  # forgets c
    assert instance.evidence.since == BEGAN + 3
    for key_id in "adc":  # forgets b, which was never used as far as is known
        instance.allowed(key_id, BEGAN + 9)
    assert instance.evidence.since == BEGAN + 3


def test_what_is_kept_is_read_back_as_it_was() -> None:
    instance = Instance("a", "b", "c")
    instance.allowed("b", BEGAN + 0.1234)
    instance.denied("c")
    instance.allowed("a", BEGAN + 2)
    usage = usage_in(instance.kept())
    assert usage == Usage(
        BEGAN,
        {
            "b": KeyUse(BEGAN + 0.123, BEGAN + 0.123, 1, {}),
            "c": KeyUse(None, None, 0, {"expired": 1}),
            "a": KeyUse(BEGAN + 2, BEGAN + 2, 1, {}),
        },
    )
    assert list(usage.keys) == ["b", "c", "a"], "who has asked least recently is first"
    again = Instance("a", "b", "c")
    again.now += 100
    again.evidence.restore(usage)
    assert again.evidence.since == BEGAN
    again.allowed("b", BEGAN + 200)
    again.denied("c")
    assert again.evidence.of("b") == KeyUse(BEGAN + 0.123, BEGAN + 200, 2, {})
    assert again.evidence.of("c").denied == {"expired": 2}


def test_what_was_kept_with_more_room_is_cut_to_the_most_recent() -> None:
    instance = Instance(keys=2)
    instance.evidence.restore(Usage(BEGAN, {key: KeyUse(BEGAN, BEGAN + 7, 1) for key in "abc"}))
    assert list(instance.evidence._records) == ["b", "c"]
    assert instance.evidence.since == BEGAN + 7


@pytest.mark.parametrize("count", [0, 1, 999, 1000, 1001, 2500])
def test_what_is_kept_is_one_document_however_many_pieces_it_has(count: int) -> None:
    ids = [f"key-{number}" for number in range(count)]
    instance = Instance(*ids)
    for key_id in ids:
        instance.allowed(key_id, BEGAN)
    document = json.loads(instance.kept())
    assert list(document["keys"]) == ids
    assert document["version"] == 1


GOOD: dict[str, Any] = {
    "version": 1,
    "since": BEGAN,
    "keys": {"a": {"first_used": BEGAN, "last_used": BEGAN, "allowed": 1, "denied": {"expired": 2}}},
}


def changed(**members: Any) -> bytes:
    return json.dumps(GOOD | members).encode()


@pytest.mark.parametrize(
    "source",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        json.dumps(GOOD).encode()[:-5],
        b"\0" * 100,
        changed(version="1"),
        changed(version=True),
        changed(version=0),
        changed(since=None),
        changed(since=-1),
        changed(since=1e300),
        changed(keys=[]),
        changed(keys={"a": None}),
        changed(keys={"a": {"allowed": 1, "denied": []}}),
        changed(keys={"a": {"allowed": -1}}),
        changed(keys={"a": {"allowed": 2**64 - 1}}),
        changed(keys={"a": {"allowed": 1.5}}),
        changed(keys={"a": {"allowed": 1, "denied": {"expired": "2"}}}),
        changed(keys={"a": {"allowed": 1, "last_used": "yesterday"}}),
        changed(keys={"a": {"allowed": 1, "last_used": True}}),
        b"[" * 100_000,
        b" " * (LARGEST + 1),
    ],
    ids=range(23),
)
def test_what_is_torn_or_something_else_is_no_evidence(source: bytes) -> None:
    with pytest.raises(NotUsageError):
        usage_in(source)


def test_a_later_version_is_told_apart_whatever_else_it_holds() -> None:
    with pytest.raises(NewerUsageError, match="version 2"):
        usage_in(b'{"version":2,"keys":"in another form"}')


def test_a_reason_that_is_not_known_any_more_is_counted_with_others() -> None:
    denied = {"expired": 1, "gone": 2, "gone too": 3}
    usage = usage_in(changed(keys={"a": {"allowed": 0, "denied": denied}}))
    assert usage.keys["a"].denied == {"expired": 1, "other": 5}


@given(st.binary(max_size=200) | st.from_type(type(None)).map(lambda _: b"{}"))
def test_any_bytes_are_evidence_or_are_refused(source: bytes) -> None:
    with pytest.raises(NotUsageError):
        usage_in(source)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
        lambda deeper: st.lists(deeper, max_size=3) | st.dictionaries(st.text(), deeper, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(["since", "keys", "entry", "denied"]),
)
def test_any_value_in_any_place_is_taken_or_refused_and_can_be_kept_again(value: Any, place: str) -> None:
    entry = {"allowed": 1, "denied": value} if place == "denied" else value
    members = {place: value} if place in GOOD else {"keys": {"a": entry}}
    try:
        usage = usage_in(json.dumps(GOOD | members).encode("utf-8", "backslashreplace"))
    except (NotUsageError, NewerUsageError):
        return
    instance = Instance("a")
    instance.evidence.restore(usage)
    instance.allowed("a", BEGAN)
    assert orjson.loads(instance.kept())["keys"]["a"]["allowed"] > 0


def test_counting_a_decision_costs_next_to_nothing() -> None:
    ids = [f"key-{number}" for number in range(1000)]
    instance = Instance(*ids)
    decisions = [Decision("allowed", "key", key_id) for key_id in ids]

    def count() -> None:
        for decision in decisions:
            instance.evidence.decided(decision)

    best = min(timeit.repeat(count, number=1, repeat=20)) / len(ids)
    measured("ns for each decision counted as evidence", round(best * 1e9))
    assert best < 10e-6  # the bound is for a busy machine


def test_a_hundred_thousand_keys_are_kept_in_a_file_of_a_size_to_read_again() -> None:
    ids = [f"key-{number}" for number in range(100_000)]
    instance = Instance(*ids)
    for key_id in ids:
        instance.allowed(key_id, BEGAN)
    kept = instance.kept()
    measured("bytes for 100,000 keys", len(kept))
    measured(
        "ms to take a snapshot", round(min(timeit.repeat(instance.evidence.snapshot, number=1)) * 1e3, 1)
    )
    assert len(kept) < LARGEST / 4
    assert len(usage_in(kept).keys) == len(ids) < KEYS
