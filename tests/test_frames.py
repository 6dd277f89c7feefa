"""Frames: byte by byte and at once the same, and what is too long is known before it has come."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.http2 import frames
from rekeyd.http2.frames import Code, ConnectionFault, Frame, FrameReader, StreamFault

some_frames = st.lists(
    st.builds(
        Frame,
        st.integers(0, 255),
        st.integers(0, 255),
        st.integers(0, frames.LAST_STREAM),
        st.binary(max_size=60),
    ),
    max_size=5,
)


@given(some_frames, st.integers(1, 80))
def test_frames_are_the_same_in_whatever_pieces_they_come(sent: list[Frame], step: int) -> None:
    wire = b"".join(frames.frame(*each) for each in sent)
    reader = FrameReader()
    found = [f for at in range(0, len(wire), step) for f in reader.feed(wire[at : at + step])]
    assert found == sent
    assert not reader.begun


def test_a_frame_that_is_too_long_is_a_fault_as_soon_as_its_head_is_there() -> None:
    reader = FrameReader(16384)
    before = frames.frame(frames.PING, 0, 0, b"12345678")
    long = frames.frame(frames.DATA, 0, 1, bytes(16385))[:9]
    coming = reader.feed(before + long)
    assert next(coming).payload == b"12345678"
    with pytest.raises(ConnectionFault) as caught:
        next(coming)
    assert caught.value.code is Code.FRAME_SIZE_ERROR


def test_the_reserved_bit_of_a_stream_is_ignored() -> None:
    (found,) = FrameReader().feed(b"\0\0\0\0\0\xff\xff\xff\xff")
    assert found.stream == frames.LAST_STREAM


def test_a_block_is_split_into_frames_that_everybody_takes() -> None:
    block = bytes(range(256)) * 160
    found = list(FrameReader().feed(frames.headers(5, block, ends=True)))
    assert [f.kind for f in found] == [frames.HEADERS, frames.CONTINUATION, frames.CONTINUATION]
    assert [f.flags for f in found] == [frames.END_STREAM, 0, frames.END_HEADERS]
    assert b"".join(f.payload for f in found) == block


@pytest.mark.parametrize(
    ("kind", "flags", "payload", "content"),
    [
        (frames.DATA, 0, b"abc", b"abc"),
        (frames.DATA, frames.PADDED, b"\x02abc\0\0", b"abc"),
        (frames.DATA, frames.PADDED, b"\x00abc", b"abc"),
        (frames.HEADERS, frames.HAS_PRIORITY, b"12345abc", b"abc"),
        (frames.HEADERS, frames.HAS_PRIORITY | frames.PADDED, b"\x0112345abc\0", b"abc"),
        (frames.DATA, frames.HAS_PRIORITY, b"abc", b"abc"),
    ],
)
def test_padding_and_priority_are_left_out(kind: int, flags: int, payload: bytes, content: bytes) -> None:
    assert frames.content(Frame(kind, flags, 1, payload)) == content


@pytest.mark.parametrize(
    ("kind", "flags", "payload"),
    [
        (frames.DATA, frames.PADDED, b""),
        (frames.DATA, frames.PADDED, b"\x03ab"),
        (frames.HEADERS, frames.HAS_PRIORITY, b"1234"),
        (frames.HEADERS, frames.HAS_PRIORITY | frames.PADDED, b"\x0112345"),
    ],
)
def test_more_padding_than_payload_is_a_fault(kind: int, flags: int, payload: bytes) -> None:
    with pytest.raises(ConnectionFault):
        frames.content(Frame(kind, flags, 1, payload))


def test_a_window_must_grow_by_something() -> None:
    assert frames.increment(Frame(frames.WINDOW_UPDATE, 0, 1, b"\x80\0\0\x05")) == 5
    with pytest.raises(StreamFault):
        frames.increment(Frame(frames.WINDOW_UPDATE, 0, 1, bytes(4)))
    with pytest.raises(ConnectionFault):
        frames.increment(Frame(frames.WINDOW_UPDATE, 0, 0, bytes(4)))
    with pytest.raises(ConnectionFault) as caught:
        frames.increment(Frame(frames.WINDOW_UPDATE, 0, 1, bytes(5)))
    assert caught.value.code is Code.FRAME_SIZE_ERROR
