"""Messages of a stream: how long they are, what they are compressed with, and that they agree."""

import gzip
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.http2.messages import Messages
from rekeyd.http2.protobuf import MOST_NAMES, MessageFault, Wanted
from support.http2 import message

BOOKS = b"\x0a\x05books"
OTHER = b"\x0a\x05maps!"


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


@pytest.mark.parametrize("step", [1, 3, 7, 1000])
@pytest.mark.parametrize("compressed", [False, True])
def test_the_name_is_known_as_soon_as_it_has_come(step: int, compressed: bool) -> None:
    content = BOOKS + b"\x12\x88\x27" + bytes(5000)
    wire = message(gzip.compress(content) if compressed else content, compressed=compressed)
    messages = Messages(10_000, wanted=Wanted(1), encoding=b"gzip")
    for at in range(0, len(wire), step):
        messages.feed(wire[at : at + step])
    messages.end()
    assert messages.collection == b"books"


def test_the_name_is_known_long_before_the_message_has_come() -> None:
    messages = Messages(2**30, wanted=Wanted(1))
    messages.feed((2**29).to_bytes(5, "big") + BOOKS)
    assert messages.collection == b"books"


def test_every_message_of_a_stream_names_the_same() -> None:
    messages = Messages(1000, wanted=Wanted(1))
    messages.feed(message(BOOKS) * 3)
    for other in (OTHER, b"", b"\x10\x01"):
        with pytest.raises(MessageFault):
            Messages(1000, wanted=Wanted(1)).feed(message(BOOKS) + message(other))


def test_a_message_that_names_nothing_names_the_empty_collection() -> None:
    messages = Messages(1000, wanted=Wanted(1))
    messages.feed(message(b""))
    assert messages.collection == b""
    with pytest.raises(MessageFault):
        messages.feed(message(BOOKS))


@pytest.mark.parametrize(
    ("packed", "encoding"),
    [
        (zlib.compress(BOOKS), b"gzip"),
        (gzip.compress(BOOKS), b"deflate"),
        (gzip.compress(BOOKS), b""),
        (BOOKS, b"gzip"),
        (gzip.compress(BOOKS)[:-1], b"gzip"),
        (gzip.compress(BOOKS) + b"x", b"gzip"),
        (gzip.compress(BOOKS) + gzip.compress(OTHER), b"gzip"),
        (gzip.compress(BOOKS + OTHER), b"gzip"),
    ],
    ids=["zlib", "as deflate", "as nothing", "plain", "torn", "more behind it", "two", "two messages in one"],
)
def test_compression_that_is_not_understood_is_a_fault(packed: bytes, encoding: bytes) -> None:
    with pytest.raises(MessageFault):
        Messages(1000, wanted=Wanted(1), encoding=encoding).feed(message(packed, compressed=True))


def test_what_is_neither_compressed_nor_not_is_a_fault() -> None:
    with pytest.raises(MessageFault):
        Messages(1000, wanted=Wanted(1), encoding=b"gzip").feed(b"\x02" + message(BOOKS)[1:])


@pytest.mark.parametrize("size", [64 * 1024 - 7, 64 * 1024, 128 * 1024, 200_000])
def test_what_is_inflated_in_several_pieces_is_whole(size: int) -> None:
    content = BOOKS + b"\x12" + varint(size) + bytes(size)
    messages = Messages(10**6, wanted=Wanted(1), encoding=b"gzip")
    messages.feed(message(gzip.compress(content), compressed=True))
    messages.end()
    assert messages.collection == b"books"


def test_a_bomb_is_too_long_before_it_is_large() -> None:
    bomb = gzip.compress(BOOKS + b"\x12\xff\xff\xff\x7f" + bytes(50_000_000))
    with pytest.raises(MessageFault) as caught:
        Messages(10**6, wanted=Wanted(1), encoding=b"gzip").feed(message(bomb, compressed=True))
    assert caught.value.too_long


def test_many_fields_in_few_bytes_are_too_many_in_one_message_or_in_several() -> None:
    """To read 200,000 of them takes a second, and they are sent in some hundred bytes."""
    for fields, count in ((100_000, 1), (900, 50)):
        messages = Messages(10**6, wanted=Wanted(1), encoding=b"gzip")
        bomb = message(gzip.compress(BOOKS + b"\x18\x01" * fields), compressed=True)
        with pytest.raises(MessageFault, match="too many fields"):
            messages.feed(bomb * count)


@pytest.mark.parametrize("step", [1, 1000, 10**6])
def test_numbers_that_follow_each_other_are_none_too_many_compressed_or_not(step: int) -> None:
    ids = b"".join(b"\x12\x04\x08" + varint(n) for n in range(0x4000, 0x8000))
    for compressed in (False, True):
        messages = Messages(10**6, wanted=Wanted(1), encoding=b"gzip")
        content = BOOKS + ids
        wire = message(gzip.compress(content) if compressed else content, compressed=compressed) * 3
        for at in range(0, len(wire), step):
            messages.feed(wire[at : at + step])
        messages.end()
        assert messages.collection == b"books"


def test_a_message_that_is_too_long_is_known_by_its_length() -> None:
    messages = Messages(1000)
    messages.feed(message(bytes(1000)))
    messages.feed(message(bytes(1000))[:900])
    messages.feed(message(bytes(1000))[900:])
    with pytest.raises(MessageFault) as caught:
        messages.feed(b"\0\0\0\x03\xe9")
    assert caught.value.too_long


def test_a_stream_that_breaks_off_in_a_message_matters_only_where_it_is_read() -> None:
    for field in (None, Wanted(1)):
        messages = Messages(1000, wanted=field)
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


def test_further_names_are_given_out_once_each_and_are_not_without_end() -> None:
    wanted = Wanted(1, "/Query", {"/Query": {2: "name"}})
    messages = Messages(10_000, wanted=wanted)
    messages.feed(message(BOOKS + b"\x12\x04maps\x12\x04maps"))
    assert messages.further() == [b"maps"]
    messages.feed(message(BOOKS + b"\x12\x04maps\x12\x05films"))
    assert messages.further() == [b"films"]
    assert messages.further() == []
    for number in range(MOST_NAMES - 2):
        messages.feed(message(BOOKS + b"\x12\x04%04d" % number))
    with pytest.raises(MessageFault):
        messages.feed(message(BOOKS + b"\x12\x04more"))
