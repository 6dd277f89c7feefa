from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Right
from rekeyd.access.token_keys import read_key_set
from rekeyd.access.tokens import TokenRules
from rekeyd.telemetry.tallies import BUCKETS, KEY_IDS, OTHER, Durations, KeyIds
from rekeyd.trust.generation import Generation
from support.generations import candidate_of
from support.tokens import Issuer, key_set


def generation_with(*keys: str, number: int = 1) -> Generation:
    ring = KeyRing(Credential(key, Right.READ, key.encode()) for key in keys)
    return candidate_of(None, ring=ring).generation(number)


def kept(gone: frozenset[str]) -> None:
    raise AssertionError(f"{gone} was to be forgotten")


def test_a_value_at_a_bound_is_within_it() -> None:
    durations = Durations()
    durations.observe(BUCKETS[0])
    durations.observe(BUCKETS[0] * 1.01)
    assert durations.buckets()[:2] == [(str(BUCKETS[0]), 1), (str(BUCKETS[1]), 2)]


@given(st.lists(st.floats(min_value=0, max_value=1e6)))
def test_every_duration_is_in_the_buckets_that_hold_it(seconds: list[float]) -> None:
    durations = Durations()
    for each in seconds:
        durations.observe(each)
    for bound, count in durations.buckets():
        assert count == sum(each <= float(bound) for each in seconds)
    assert durations.sum == pytest.approx(sum(seconds))


def test_only_ids_that_a_generation_knows_are_label_values() -> None:
    ids = KeyIds(lambda: generation_with("backup", "search"))
    assert [ids.label_for(key, kept) for key in ("backup", "guess", "search", "guess")] == [
        "backup",
        OTHER,
        "search",
        OTHER,
    ]


def test_before_the_first_generation_no_id_is_known() -> None:
    assert KeyIds(lambda: None).label_for("backup", kept) == OTHER


def test_there_are_never_more_ids_than_there_may_be_and_those_that_are_gone_make_room() -> None:
    first = generation_with(*(f"a{number}" for number in range(KEY_IDS + 5)))
    second = generation_with("a7", *(f"b{number}" for number in range(KEY_IDS + 5)), number=2)
    current, forgotten = first, frozenset[str]()
    ids = KeyIds(lambda: current)

    def forget(gone: frozenset[str]) -> None:
        nonlocal forgotten
        forgotten |= gone

    labels = {ids.label_for(f"a{number}", kept) for number in range(KEY_IDS + 5)}
    assert len(labels) == KEY_IDS + 1
    assert OTHER in labels
    current = second
    labels = {ids.label_for(f"b{number}", forget) for number in range(KEY_IDS + 5)}
    assert len(forgotten) == KEY_IDS - 1
    assert "a7" not in forgotten
    assert len(labels - {OTHER}) == KEY_IDS - 1
    assert ids.label_for("a7", kept) == "a7"


def test_ids_of_keys_that_vouch_for_tokens_are_label_values_too() -> None:
    tokens = TokenRules(read_key_set(key_set(Issuer("a"))).signers)
    generation = replace(generation_with("backup"), tokens=tokens)
    ids = KeyIds(lambda: generation)
    assert [ids.label_for(key, kept) for key in ("jwks:a", "jwks:b", "backup")] == ["jwks:a", OTHER, "backup"]


def test_ids_of_keys_that_vouch_for_no_token_any_more_make_room() -> None:
    names = [f"a{number}" for number in range(KEY_IDS - 1)]
    tokens = TokenRules(read_key_set(key_set(Issuer("a"))).signers)
    current = replace(generation_with(*names), tokens=tokens)
    ids = KeyIds(lambda: current)
    assert {ids.label_for(key, kept) for key in [*names, "jwks:a"]} == {*names, "jwks:a"}
    current = generation_with(*names, "b", number=2)
    gone: list[str] = []
    assert ids.label_for("b", gone.extend) == "b"
    assert gone == ["jwks:a"]
