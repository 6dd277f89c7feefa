"""SETTINGS as they pass from one side to the other.

The rule: a SETTINGS frame becomes one SETTINGS frame, so that its ACK finds its way back. Parameters that
concern the bytes between the two ends (windows) pass; those that bind the side that we speak for are lowered
to what we bear; what would let something through that we don't know (push, extended CONNECT, binary
metadata, priorities, whatever comes after) is left out (RFC 9113, 6.5.2; RFC 8441). The table size is left
out in both directions: each of our decoders has the default.

Must not know: frames, or who acknowledges what.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from rekeyd.http2.frames import LAST_STREAM, SMALLEST_LIMIT, Code, ConnectionFault

ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(2, 7)

LARGEST_FRAME = 64 * 1024
"""Bytes of a frame that we take, and so the most that either side is told it may send."""
_LARGEST_OF_ALL = 2**24 - 1
_ENTRY = 6


@dataclass(frozen=True, slots=True)
class Bearable:
    """What the upstream may promise to clients: streams at once, and bytes of a field list."""

    streams: int
    header_list: int


def of_client(payload: bytes, *, first: bool) -> bytes:
    """What the upstream is told. Raises ConnectionFault."""
    told = {ENABLE_PUSH: 0} if first else {}
    for key, value in _entries(payload):
        if key in {INITIAL_WINDOW_SIZE, MAX_HEADER_LIST_SIZE}:
            told[key] = value
        elif key == MAX_FRAME_SIZE:
            told[key] = min(value, LARGEST_FRAME)
    return _encoded(told)


def of_upstream(payload: bytes, bearable: Bearable, *, first: bool) -> bytes:
    """What the client is told. Raises ConnectionFault."""
    most = {MAX_CONCURRENT_STREAMS: bearable.streams, MAX_HEADER_LIST_SIZE: bearable.header_list}
    told = dict(most) if first else {}
    for key, value in _entries(payload):
        if key == INITIAL_WINDOW_SIZE:
            told[key] = value
        elif key == MAX_FRAME_SIZE:
            told[key] = min(value, LARGEST_FRAME)
        elif key in most:
            told[key] = min(value, most[key])
    return _encoded(told)


def _entries(payload: bytes) -> Iterator[tuple[int, int]]:
    if len(payload) % _ENTRY:
        raise ConnectionFault(Code.FRAME_SIZE_ERROR, "a SETTINGS frame of the wrong size")
    for at in range(0, len(payload), _ENTRY):
        key = int.from_bytes(payload[at : at + 2], "big")
        value = int.from_bytes(payload[at + 2 : at + _ENTRY], "big")
        if key == INITIAL_WINDOW_SIZE and value > LAST_STREAM:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "a window that is too large")
        if key == MAX_FRAME_SIZE and not SMALLEST_LIMIT <= value <= _LARGEST_OF_ALL:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame size out of range")
        if key == ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a push setting that is neither 0 nor 1")
        yield key, value


def _encoded(parameters: dict[int, int]) -> bytes:
    return b"".join([key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in parameters.items()])
