"""The form of the keys that are made here, and what is too weak to be one."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.key_form import ID, PATTERN, SECRET_BYTES, is_made_here, make_key, weakness_of


def test_a_key_is_known_by_its_look_and_its_checksum() -> None:
    made = make_key("ingest", bytes(range(SECRET_BYTES)))
    assert made.startswith("rk_ingest_")
    assert is_made_here(made.encode())
    assert weakness_of(made.encode()) is None
    assert not is_made_here((made[:-1] + ("0" if made[-1] != "0" else "1")).encode())
    assert PATTERN.startswith("rk_")


@pytest.mark.parametrize(
    ("secret", "why"),
    [
        ("hunter2", "is shorter than 32 characters"),
        ("abcdefgh" * 5, "repeats itself"),
        ("correct horse battery staple and then some", "looks like words that a person chose"),
    ],
)
def test_what_may_be_guessed_is_told_why(secret: str, why: str) -> None:
    assert weakness_of(secret.encode()) == why


@given(st.from_regex(ID, fullmatch=True), st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES))
def test_whatever_the_bytes_a_key_is_found_by_scanners_and_names_its_id(key_id: str, random: bytes) -> None:
    made = make_key(key_id, random)
    assert re.findall(PATTERN, f"x={made};") == [made]
    assert made.split("_")[1] == key_id
    assert is_made_here(made.encode())
    assert make_key(key_id, random) == made


@given(st.binary(min_size=SECRET_BYTES, max_size=SECRET_BYTES), st.integers(0, 50), st.sampled_from("0aZ-_"))
def test_a_slip_of_the_pen_is_noticed(random: bytes, place: int, letter: str) -> None:
    made = make_key("a", random)
    slipped = made[: 5 + place % 49] + letter + made[6 + place % 49 :]
    assert is_made_here(slipped.encode()) == (slipped == made)


def test_a_key_is_made_of_an_id_and_enough_random_bytes() -> None:
    for key_id, random in (("a_b", bytes(32)), ("", bytes(32)), ("a", bytes(31)), ("ü", bytes(32))):
        with pytest.raises(ValueError, match="an id and 32 bytes"):
            make_key(key_id, random)


@given(st.binary(min_size=16, max_size=64))
def test_random_hex_is_strong_enough(random: bytes) -> None:
    if len(set(random.hex())) >= 10:
        assert weakness_of(random.hex().encode()) is None
