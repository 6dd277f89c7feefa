"""Field blocks: read within bounds whatever was done to the table, written without one."""

import pytest
from hpack import Decoder, Encoder
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.http2.fields import BlockReader, BlockWriter, Field, literal, size_of
from rekeyd.http2.frames import Code, ConnectionFault

SECRET = b"a-made-up-key-that-nobody-may-see"
some_fields = st.lists(st.tuples(st.binary(min_size=1, max_size=200), st.binary(max_size=400)), max_size=12)


@given(st.lists(some_fields, max_size=4), st.booleans())
def test_what_an_encoder_writes_with_its_table_is_read(blocks: list[list[Field]], huffman: bool) -> None:
    encoder, reader = Encoder(), BlockReader(64 * 1024)
    for fields in blocks + blocks:
        assert list(reader.read(encoder.encode(fields, huffman=huffman))) == fields


@given(st.lists(some_fields, max_size=4))
def test_what_we_write_is_read_by_any_decoder(blocks: list[list[Field]]) -> None:
    writer, decoder = BlockWriter(), Decoder(2**20)
    for fields in blocks:
        read = [(bytes(n), bytes(v)) for n, v in decoder.decode(writer.write(fields), raw=True)]
        assert read == fields
        assert not decoder.header_table.dynamic_entries


def test_the_first_block_empties_the_table_and_no_other_does() -> None:
    writer = BlockWriter()
    assert writer.write([(b":status", b"200")]) == b"\x20\x88"
    assert writer.write([(b":status", b"200")]) == b"\x88"


def test_blocks_of_indexes_mean_something_else_once_the_table_changed() -> None:
    encoder, reader = Encoder(), BlockReader(4096)
    assert reader.read(encoder.encode([(b"a", b"1")])) == ((b"a", b"1"),)
    again = encoder.encode([(b"a", b"1")])
    assert len(again) == 1
    assert reader.read(again) == reader.read(again) == ((b"a", b"1"),)
    reader.read(encoder.encode([(b"b", b"2")]))
    assert reader.read(again) == ((b"b", b"2"),)


@pytest.mark.parametrize(
    ("block", "code"),
    [
        (b"\x80", Code.COMPRESSION_ERROR),  # index 0
        (b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff", Code.COMPRESSION_ERROR),
        (b"\xbf", Code.COMPRESSION_ERROR),  # nothing there
        (b"\x40\x0aabc", Code.COMPRESSION_ERROR),  # breaks off
        (b"\x00\x83\xff\xff\xff\x00", Code.COMPRESSION_ERROR),  # Huffman's end of string
        (b"\x3f\xff\x1f", Code.COMPRESSION_ERROR),  # a table larger than allowed
        (b"\x20\x20\x20\x82", Code.COMPRESSION_ERROR),
        (b"\x82\x20", Code.COMPRESSION_ERROR),  # a resizing behind a field
        (literal(b"a", bytes(3000)), Code.ENHANCE_YOUR_CALM),
        (literal(b"a", b"") * 100, Code.ENHANCE_YOUR_CALM),
    ],
)
def test_what_can_not_be_decoded_or_is_too_much_is_a_fault(block: bytes, code: Code) -> None:
    with pytest.raises(ConnectionFault) as caught:
        BlockReader(2048).read(block)
    assert caught.value.code is code


def test_a_small_block_can_not_become_a_large_list() -> None:
    encoder, reader = Encoder(), BlockReader(16 * 1024)
    reader.read(encoder.encode([(b"a", bytes(4000))], huffman=False))
    with pytest.raises(ConnectionFault) as caught:
        reader.read(b"\xbe" * 1000)
    assert caught.value.code is Code.ENHANCE_YOUR_CALM


def test_a_fault_does_not_repeat_what_was_sent() -> None:
    with pytest.raises(ConnectionFault) as caught:
        BlockReader(2048).read(literal(b"api-key", SECRET) + b"\x40\x7f\xff" + SECRET)
    assert SECRET.decode() not in f"{caught.value!r} {caught.value} {caught.value.__cause__}"
    assert caught.value.__suppress_context__


@given(st.binary(max_size=300))
def test_whatever_comes_is_read_or_a_fault(block: bytes) -> None:
    reader = BlockReader(4096)
    try:
        fields = reader.read(block)
    except ConnectionFault:
        return
    assert size_of(fields) <= 4096
