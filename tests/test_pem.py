"""PEM armour, whole, torn and strange."""

import pytest

from rekeyd.formats.pem import MaterialError, armoured, blocks, unarmoured
from support.pki import Authority

PEM = Authority().issue().cert_pem


def reason(pem: bytes) -> str:
    with pytest.raises(MaterialError) as caught:
        list(blocks(pem, "certificate"))
    return caught.value.reason


def test_armour_comes_off_and_goes_on_again_byte_for_byte() -> None:
    [(label, body)] = blocks(PEM, "certificate")

    assert label == b"CERTIFICATE"
    assert armoured([unarmoured(body)]) == PEM


def test_text_around_the_blocks_is_passed_over() -> None:
    bag = b"Bag Attributes\n    localKeyID: 01 02\nsubject=CN = localhost\n"

    assert len(list(blocks(bag + PEM + b"\n# between\n" + PEM + b"the end", "certificate"))) == 2


def test_windows_line_ends_do_no_harm() -> None:
    [(_, body)] = blocks(PEM.replace(b"\n", b"\r\n"), "certificate")

    assert armoured([unarmoured(body)]) == PEM


@pytest.mark.parametrize("kept", range(5, len(PEM) - 2, 37))
def test_a_file_cut_off_anywhere_is_told_from_a_whole_one(kept: int) -> None:
    assert reason(PEM + PEM[:kept]) == "truncated_pem"


def test_a_block_that_begins_inside_another_is_truncated() -> None:
    assert reason(PEM[: len(PEM) // 2] + b"\n" + PEM) == "truncated_pem"


def test_a_block_that_ends_under_another_name_is_truncated() -> None:
    assert reason(PEM.replace(b"END CERTIFICATE", b"END PRIVATE KEY")) == "truncated_pem"


def test_an_end_without_a_beginning_is_truncated() -> None:
    assert reason(PEM + b"-----END CERTIFICATE-----\n") == "truncated_pem"


@pytest.mark.parametrize("garbage", [b"\x00", b"\xff\xfe", b"*", b"===="])
def test_what_is_not_base64_inside_a_block_is_garbage(garbage: bytes) -> None:
    with pytest.raises(MaterialError) as caught:
        unarmoured(b"AAAA" + garbage + b"AAAA")

    assert caught.value.reason == "garbage"
