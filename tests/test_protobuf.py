"""Names in messages of protobuf, however they are written down, and in whatever pieces they come."""

from collections import deque

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.http2.protobuf import (
    DEEPEST,
    LONGEST_NAME,
    MOST_FIELDS,
    MOST_NAMES,
    MessageFault,
    Scan,
    Wanted,
)

BOOKS = b"\x0a\x05books"
OTHER = b"\x0a\x05maps!"


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def collection_in(message: bytes, field: int) -> bytes | None:
    """The text that `field` of a whole message names; None where it has none."""
    scan = Scan(Wanted(field))
    scan.feed(message)
    scan.end()
    return scan.found


others = st.one_of(
    st.builds(lambda n, v: varint(n << 3) + varint(v), st.integers(2, 2**29 - 1), st.integers(0, 2**64 - 1)),
    st.builds(lambda n, v: varint(n << 3 | 1) + v, st.integers(2, 99), st.binary(min_size=8, max_size=8)),
    st.builds(lambda n, v: varint(n << 3 | 5) + v, st.integers(2, 99), st.binary(min_size=4, max_size=4)),
    st.builds(
        lambda n, v: varint(n << 3 | 2) + varint(len(v)) + v, st.integers(2, 99), st.binary(max_size=300)
    ),
)


@given(st.lists(others), st.lists(others), st.binary(max_size=200), st.integers(1, 40))
def test_a_name_is_found_wherever_it_stands_and_in_whatever_pieces(
    before: list[bytes], after: list[bytes], name: bytes, step: int
) -> None:
    whole = b"".join(before) + b"\x0a" + varint(len(name)) + name + b"".join(after)
    assert collection_in(whole, 1) == name
    scan = Scan(Wanted(1))
    for at in range(0, len(whole), step):
        scan.feed(whole[at : at + step])
    scan.end()
    assert scan.found == name


@given(st.lists(others))
def test_a_message_without_the_field_names_nothing(fields: list[bytes]) -> None:
    assert collection_in(b"".join(fields), 1) is None


def test_the_same_name_twice_is_one_and_two_names_are_none() -> None:
    assert collection_in(BOOKS + BOOKS, 1) == b"books"
    with pytest.raises(MessageFault):
        collection_in(BOOKS + OTHER, 1)
    with pytest.raises(MessageFault):
        collection_in(BOOKS + b"\x0a\x00", 1)


@pytest.mark.parametrize(
    "whole",
    [
        b"\x0a\x05book",  # breaks off
        b"\x0a\x05",
        b"\x0a",
        b"\x80",
        b"\x08\x01",  # a number in its place
        b"\x0d1234",
        b"\x0b\x0c",  # a group
        b"\x13\x14",
        b"\x16",  # wire types that there are not
        b"\x17",
        b"\x02\x00",  # field 0
        b"\x00\x00",
        varint(2**29 << 3 | 2) + b"\x05books",
        varint((2**32) << 3 | 10) + b"\x05books",
        b"\x8a" + b"\x80" * 12 + b"\x00\x05books",
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x12\xff\xff\xff\xff\x0f",
        b"\x0a" + varint(LONGEST_NAME + 1) + bytes(LONGEST_NAME + 1),
    ],
)
def test_what_is_no_message_is_a_fault(whole: bytes) -> None:
    with pytest.raises(MessageFault):
        collection_in(whole, 1)


def test_a_key_that_is_written_longer_than_it_need_be_is_the_same_key() -> None:
    assert collection_in(b"\x8a\x00\x05books", 1) == b"books"
    with pytest.raises(MessageFault):
        collection_in(BOOKS + b"\x8a\x80\x00\x05maps!", 1)


@given(st.binary(max_size=100))
def test_whatever_comes_is_read_or_a_fault(whole: bytes) -> None:
    try:
        found = collection_in(whole, 1)
    except MessageFault:
        return
    assert found is None or found in whole


# Names in messages within the message.

LAYOUTS = {
    "/Query": {2: "Prefetch", 14: "Lookup"},
    "Prefetch": {1: "Prefetch", 8: "Lookup"},
    "Lookup": {1: "name"},
}


def field(number: int, content: bytes) -> bytes:
    return varint(number << 3 | 2) + varint(len(content)) + content


def names_in(whole: bytes, step: int = 1000) -> tuple[bytes | None, set[bytes]]:
    scan = Scan(Wanted(1, "/Query", LAYOUTS))
    for at in range(0, len(whole), step):
        scan.feed(whole[at : at + step])
    scan.end()
    return scan.found, scan.others


@pytest.mark.parametrize("step", [1, 2, 3, 1000])
def test_every_further_name_is_found_at_any_depth(step: int) -> None:
    lookup = field(14, field(1, b"maps") + field(2, b"vector"))
    deep = field(2, field(1, field(1, field(8, field(1, b"films")) + field(3, b"x" * 300))))
    whole = field(3, b"y" * 200) + lookup + deep + field(2, b"") + BOOKS + field(14, field(1, b""))
    assert names_in(whole, step) == (b"books", {b"maps", b"films", b""})


def test_parts_of_a_message_are_merged_so_all_of_their_names_count() -> None:
    whole = BOOKS + field(14, field(1, b"books")) + field(14, field(1, b"maps") + field(1, b"films"))
    assert names_in(whole) == (b"books", {b"books", b"maps", b"films"})


def test_the_same_number_deeper_is_not_the_collection() -> None:
    assert names_in(field(2, field(1, b"")) + BOOKS) == (b"books", set())
    assert names_in(field(7, BOOKS) + BOOKS) == (b"books", set())


@pytest.mark.parametrize(
    "whole",
    [
        field(14, b"\x0a\x05map"),
        varint(14 << 3 | 2) + b"\x05" + field(1, b"maps!"),
        field(14, b"\x0a"),
        field(14, b"\x10\x80"),
        field(14, b"\x11123"),
        field(14, b"\x08\x01"),
        field(14, b"\x0b\x0c"),
        varint(14 << 3) + b"\x01",
        varint(14 << 3 | 5) + b"1234",
        BOOKS + b"\x72\x05\x0a\x02ab",
    ],
)
def test_a_message_within_is_as_sound_as_the_message(whole: bytes) -> None:
    for step in (1, 1000):
        with pytest.raises(MessageFault):
            names_in(whole, step)


plain = st.one_of(others, st.just(BOOKS), st.binary(max_size=4))


def within(inner: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """Messages of such parts, and such fields themselves."""
    numbers = st.sampled_from([1, 2, 8, 14])
    messages = st.builds(
        lambda number, parts: field(number, b"".join(parts)), numbers, st.lists(inner, max_size=4)
    )
    return st.one_of(plain, messages)


nested = within(within(within(plain)))


@given(st.lists(nested, max_size=6).map(b"".join), st.integers(2, 30))
def test_in_whatever_pieces_it_comes_the_outcome_is_the_same(whole: bytes, step: int) -> None:
    def outcome(step: int) -> object:
        try:
            return names_in(whole, step)
        except MessageFault:
            return "fault"

    assert outcome(1) == outcome(step) == outcome(len(whole) + 1)


@pytest.mark.parametrize("pieces", [[b"\x18\x01" * 4], [b"\x18", b"\x01"] * 4])
def test_fields_are_counted_however_they_are_read(pieces: list[bytes]) -> None:
    scan = Scan(Wanted(1))
    scan.fields_left = 3
    with pytest.raises(MessageFault, match="too many fields"):
        deque(map(scan.feed, pieces), maxlen=0)
    assert scan.fields_left < 0


def test_depth_names_and_fields_have_bounds() -> None:
    whole = b""
    for _ in range(DEEPEST - 2):
        whole = field(1, whole)
    assert names_in(field(2, whole)) == (None, set())
    with pytest.raises(MessageFault):
        names_in(field(2, field(1, whole)))
    many = b"".join(field(14, field(1, b"%d" % n)) for n in range(MOST_NAMES + 1))
    with pytest.raises(MessageFault):
        names_in(many)
    with pytest.raises(MessageFault):
        names_in(b"\x18\x01" * (MOST_FIELDS + 1), 10_000)
