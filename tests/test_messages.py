"""Messages: how long they are, and which collection they name, however it is written down."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.http2.messages import LONGEST_NAME, MessageFault, Messages, Scan, collection_in
from support.http2 import message

BOOKS = b"\x0a\x05books"
OTHER = b"\x0a\x05maps!"


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


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
    scan = Scan(1)
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


# Messages of a stream.


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_name_is_known_as_soon_as_it_has_come(step: int, compressed: bool) -> None:
    content = BOOKS + b"\x12\x88\x27" + bytes(5000)
    wire = message(gzip.compress(content) if compressed else content, compressed=compressed)
    messages = Messages(10_000, field=1, encoding=b"gzip")
    for at in range(0, len(wire), step):
        messages.feed(wire[at : at + step])
    messages.end()
    assert messages.collection == b"books"


def test_the_name_is_known_long_before_the_message_has_come() -> None:
    messages = Messages(2**30, field=1)
    messages.feed((2**29).to_bytes(5, "big") + BOOKS)
    assert messages.collection == b"books"


def test_every_message_of_a_stream_names_the_same() -> None:
    messages = Messages(1000, field=1)
    messages.feed(message(BOOKS) * 3)
    for other in (OTHER, b"", b"\x10\x01"):
        with pytest.raises(MessageFault):
            Messages(1000, field=1).feed(message(BOOKS) + message(other))


def test_a_message_that_names_nothing_names_the_empty_collection() -> None:
    messages = Messages(1000, field=1)
    messages.feed(message(b""))
    assert messages.collection == b""
    with pytest.raises(MessageFault):
        messages.feed(message(BOOKS))


@pytest.mark.parametrize(
    ("wire", "encoding"),
    [
        (message(zlib.compress(BOOKS), compressed=True), b"gzip"),
        (message(gzip.compress(BOOKS), compressed=True), b"deflate"),
        (message(gzip.compress(BOOKS), compressed=True), b""),
        (message(BOOKS, compressed=True), b"gzip"),
        (message(gzip.compress(BOOKS)[:-1], compressed=True), b"gzip"),
        (message(gzip.compress(BOOKS) + b"x", compressed=True), b"gzip"),
        (message(gzip.compress(BOOKS) + gzip.compress(OTHER), compressed=True), b"gzip"),
        (message(gzip.compress(BOOKS + OTHER), compressed=True), b"gzip"),
        (b"\x02" + message(BOOKS)[1:], b"gzip"),
    ],
)
def test_compression_that_is_not_understood_is_a_fault(wire: bytes, encoding: bytes) -> None:
    with pytest.raises(MessageFault):
        Messages(1000, field=1, encoding=encoding).feed(wire)


@pytest.mark.parametrize("size", [64 * 1024 - 7, 64 * 1024, 128 * 1024, 200_000])
def test_what_is_inflated_in_several_pieces_is_whole(size: int) -> None:
    content = BOOKS + b"\x12" + varint(size) + bytes(size)
    messages = Messages(10**6, field=1, encoding=b"gzip")
    messages.feed(message(gzip.compress(content), compressed=True))
    messages.end()
    assert messages.collection == b"books"


def test_a_bomb_is_too_long_before_it_is_large() -> None:
    bomb = gzip.compress(BOOKS + b"\x12\xff\xff\xff\x7f" + bytes(50_000_000))
    with pytest.raises(MessageFault) as caught:
        Messages(10**6, field=1, encoding=b"gzip").feed(message(bomb, compressed=True))
    assert caught.value.too_long


def test_a_message_that_is_too_long_is_known_by_its_length() -> None:
    messages = Messages(1000)
    messages.feed(message(bytes(1000)))
    messages.feed(message(bytes(1000))[:900])
    messages.feed(message(bytes(1000))[900:])
    with pytest.raises(MessageFault) as caught:
        messages.feed(b"\0\0\0\x03\xe9")
    assert caught.value.too_long


def test_a_stream_that_breaks_off_in_a_message_matters_only_where_it_is_read() -> None:
    for field in (None, 1):
        messages = Messages(1000, field=field)
        messages.feed(message(BOOKS)[:-2])
        if field is None:
            messages.end()
        else:
            with pytest.raises(MessageFault):
                messages.end()


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=6), st.integers(1, 20))
def test_lengths_are_followed_in_whatever_pieces(contents: list[bytes], step: int) -> None:
    wire = b"".join(map(message, contents))
    messages = Messages(max(map(len, contents)))
    for at in range(0, len(wire), step):
        messages.feed(wire[at : at + step])
    with pytest.raises(MessageFault):
        messages.feed(message(bytes(max(map(len, contents)) + 1)))
