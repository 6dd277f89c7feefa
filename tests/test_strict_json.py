"""JSON that can be read in one way only."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.formats.strict_json import AmbiguousJsonError, NotJsonError, parse_strictly

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**18), 10**18) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(VALUES)
def test_what_a_program_writes_is_read_as_it_was(value: object) -> None:
    assert parse_strictly(json.dumps(value).encode()) == value


@given(st.binary())
def test_whatever_it_is_it_is_read_or_turned_down_in_one_of_two_ways(source: bytes) -> None:
    with contextlib.suppress(NotJsonError, AmbiguousJsonError):
        parse_strictly(source)


@pytest.mark.parametrize(
    "source", [b"", b"{", b"nul", b"\xff", b"\xef\xbb\xbf{}", b"{} {}", b"{'a': 1}", b"01"]
)
def test_what_is_no_json(source: bytes) -> None:
    with pytest.raises(NotJsonError):
        parse_strictly(source)


@pytest.mark.parametrize(
    ("source", "why"),
    [
        (b'{"a": 1, "a": 1}', "has a member twice"),
        (b'{"a": 1, "\\u0061": 2}', "has a member twice"),
        (b'[{"b": {"a": 1, "a": 2}}]', "has a member twice"),
        (b"NaN", "has a number that is not finite"),
        (b"[-Infinity]", "has a number that is not finite"),
        (b"1e999", "has a number that is not finite"),
        (b"1" * 33, "has a number that is too long"),
        (b"1" * 5000, "has a number that is too long"),
        (b"0." + b"1" * 33, "has a number that is too long"),
        (b"[" * 4000 + b"]" * 4000, "nests too deeply"),
        (b'{"a":' * 1600, "nests too deeply"),
    ],
)
def test_what_could_be_read_in_more_than_one_way(source: bytes, why: str) -> None:
    with pytest.raises(AmbiguousJsonError) as caught:
        parse_strictly(source)
    assert str(caught.value) == why
