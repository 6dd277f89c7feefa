"""SETTINGS on their way: one frame stays one, windows pass, and what we can't bear is lowered or left out."""

import pytest

from rekeyd.http2.frames import Code, ConnectionFault
from rekeyd.http2.parameters import LARGEST_FRAME, Bearable, of_client, of_upstream

BEARABLE = Bearable(streams=100, header_list=32768)


def encoded(**named: int) -> bytes:
    return b"".join(int(k[1:]).to_bytes(2, "big") + v.to_bytes(4, "big") for k, v in named.items())


def decoded(payload: bytes) -> dict[int, int]:
    pairs = [payload[at : at + 6] for at in range(0, len(payload), 6)]
    return {int.from_bytes(pair[:2], "big"): int.from_bytes(pair[2:], "big") for pair in pairs}


def test_a_client_can_not_allow_push_or_what_is_unknown() -> None:
    sent = encoded(_1=0, _2=1, _3=7, _4=9, _5=2**20, _6=8192, _8=1, _65027=1)
    assert decoded(of_client(sent, first=True)) == {2: 0, 4: 9, 5: LARGEST_FRAME, 6: 8192}
    assert decoded(of_client(b"", first=True)) == {2: 0}
    assert of_client(b"", first=False) == b""


def test_an_upstream_can_not_promise_more_than_is_borne() -> None:
    sent = encoded(_1=65536, _2=0, _3=1000, _4=2**31 - 1, _5=16384, _6=2**20, _8=1, _9=1, _65027=1)
    assert decoded(of_upstream(sent, BEARABLE, first=True)) == {3: 100, 4: 2**31 - 1, 5: 16384, 6: 32768}
    assert decoded(of_upstream(encoded(_3=8), BEARABLE, first=True)) == {3: 8, 6: 32768}
    assert decoded(of_upstream(b"", BEARABLE, first=True)) == {3: 100, 6: 32768}
    assert of_upstream(b"", BEARABLE, first=False) == b""


@pytest.mark.parametrize(
    ("payload", "code"),
    [
        (b"12345", Code.FRAME_SIZE_ERROR),
        (encoded(_4=2**31), Code.FLOW_CONTROL_ERROR),
        (encoded(_5=16383), Code.PROTOCOL_ERROR),
        (encoded(_5=2**24), Code.PROTOCOL_ERROR),
        (encoded(_2=2), Code.PROTOCOL_ERROR),
    ],
)
def test_what_rfc_9113_forbids_is_a_fault(payload: bytes, code: Code) -> None:
    with pytest.raises(ConnectionFault) as caught:
        of_client(payload, first=True)
    assert caught.value.code is code
    with pytest.raises(ConnectionFault) as caught:
        of_upstream(payload, BEARABLE, first=True)
    assert caught.value.code is code
