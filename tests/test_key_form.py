"""The form of the keys that are made here, and what is too weak to be one."""

import pytest

from rekeyd.trust.key_form import PATTERN, SECRET_BYTES, is_made_here, make_key, weakness_of


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
