"""JSON piece by piece: the same as the whole, and torn at every byte it is torn."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.formats.json_keys import TornJsonError, UnsoundJsonError, members_of

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def read(source: bytes) -> dict[str, Any]:
    return {
        name: list(value) if isinstance(value, Iterator) else value
        for name, value in members_of(source, streamed="keys")
    }


@given(
    st.dictionaries(st.sampled_from(["keys", "pepper", "x", ""]), VALUES), st.sampled_from([None, 1, "\t"])
)
def test_piece_by_piece_it_is_what_it_is_as_a_whole(tree: dict[str, Any], indent: Any) -> None:
    assert read(json.dumps(tree, indent=indent).encode()) == tree


def test_a_mark_of_the_byte_order_is_skipped() -> None:
    assert read(b'\xef\xbb\xbf{"keys": []}') == {"keys": []}


def test_torn_at_every_byte_it_is_torn() -> None:
    whole = '{"pepper": "ü", "keys": [{"id": "a", "n": [1, -2.5, true]}, {"id": "b"}], "x": null}'.encode()
    for end in range(len(whole)):
        with pytest.raises(TornJsonError):
            read(whole[:end])


@pytest.mark.parametrize(
    ("source", "place"),
    [
        (b"[]", "line 1, column 1"),
        (b'"keys"', "line 1, column 1"),
        (b'{"keys": []} x', "line 1, column 14"),
        (b'{"keys": [],}', "line 1, column 13"),
        (b'{"keys": [1,]}', "line 1, column 13"),
        (b'{"keys": [1 2]}', "line 1, column 13"),
        (b'{"keys"\n= []}', "line 2, column 1"),
        (b"{1: 2}", "line 1, column 3"),
        (b'{"a": 1, "a": 2}', "line 1, column 13"),
        (b'{"keys": [\n{"a": 1, "a": 2}]}', "line 2, column 1"),
        (b'{"a": NaN}', "line 1, column 7"),
        (b'{"a": ' + b"9" * 10_000 + b"}", "line 1, column 7"),
        (b'{"a": ' + b"[" * 200_000 + b"}", "line 1, column 7"),
        (b'{"a": \xff}', "no UTF-8 text in line 1"),
    ],
)
def test_what_is_no_json_is_told_by_its_place_alone(source: bytes, place: str) -> None:
    with pytest.raises(UnsoundJsonError) as caught:
        read(source)
    assert str(caught.value) == place
