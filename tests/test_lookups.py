"""Which further collections a body names, in whatever spelling; what can't be read is not believed."""

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.lookups import LARGEST, UnjudgeableError, collections_named_in

MEMBERS = ("lookup_from", "with_lookup")


def named(body: bytes | dict[str, Any]) -> set[bytes]:
    source = body if isinstance(body, bytes) else json.dumps(body).encode()
    return set(collections_named_in(source, MEMBERS))


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ({"lookup_from": {"collection": "other", "vector": "v"}}, {b"other"}),
        ({"with_lookup": "other"}, {b"other"}),
        ({"with_lookup": {"collection": "other", "with_payload": True}}, {b"other"}),
        ({"prefetch": [{"prefetch": {"lookup_from": {"collection": "deep"}}}]}, {b"deep"}),
        ({"searches": [{"lookup_from": {"collection": "a"}}, {"with_lookup": "b"}]}, {b"a", b"b"}),
        ({"lookup_from": None, "with_lookup": None}, set()),
        ({"query": [0.1, 0.2], "filter": {"must": []}}, set()),
        (b'{"lookup\\u005ffrom": {"collection": "hidden"}}', {b"hidden"}),
        (b'{"\\u006c\\u006fokup_from": {"\\u0063ollection": "hidden"}}', {b"hidden"}),
        (b'{"with_lookup": "b\\u00fccher"}', {"bücher".encode()}),
    ],
)
def test_every_collection_that_a_body_names_is_found(body: Any, names: set[bytes]) -> None:
    assert named(body) == names


@pytest.mark.parametrize(
    "body",
    [
        b'{"lookup_from": {"collection": "mine"}, "lookup_from": null}',
        b'{"lookup_from": {"collection": "other", "collection": "mine"}}',
        b'{"a": 1, "a": 2, "lookup_from": null}',
        b'{"lookup_from": {"collection": 7}}',
        b'{"lookup_from": {}}',
        b'{"with_lookup": ["other"]}',
        b'{"with_lookup": true}',
        b'{"lookup_from": ',
        b"lookup_from: {collection: other}",
        b'{"lookup_from": {"collection": "x"}} trailing',
        b'\xef\xbb\xbf{"lookup_from": {"collection": "x"}}',
        b'{"lookup_from": {"collection": "\xff"}}',
        '{"lookup_from": {"collection": "x"}}'.encode("utf-16"),
        '{"lookup_from": {"collection": "x"}}'.encode("utf-32-le"),
        b"[" * 100_000 + b"lookup_from",
        b'{"lookup_from": {"collection": "x"}, "y": "' + b"y" * LARGEST + b'"}',
    ],
)
def test_a_body_that_two_readers_could_read_differently_is_not_judged(body: bytes) -> None:
    with pytest.raises(UnjudgeableError):
        collections_named_in(body, MEMBERS)


def test_a_large_body_in_which_no_name_can_stand_costs_no_parse() -> None:
    assert named(b'{"points": [' + b"0.25," * LARGEST + b"0.5]}") == set()


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=12,
)


@given(JSON, st.text(min_size=1, max_size=12), st.sampled_from(MEMBERS), st.booleans(), st.integers(0, 3))
def test_a_name_is_found_at_any_depth_and_in_any_escape(
    beside: Any, name: str, member: str, plain: bool, depth: int
) -> None:
    tree: Any = {member: name if plain else {"collection": name}}
    for _ in range(depth):
        tree = {"x": [beside, tree]}
    text = json.dumps(tree, ensure_ascii=True)
    assert name.encode("utf-8", "surrogatepass") in named(text.encode())


@given(
    st.binary(max_size=200) | st.text(alphabet='{}[]":,\\\\ulokp_fromcetin0x', max_size=80).map(str.encode)
)
def test_any_bytes_are_names_or_not_judged(body: bytes) -> None:
    with contextlib.suppress(UnjudgeableError):
        assert all(isinstance(name, bytes) for name in collections_named_in(body, MEMBERS))
