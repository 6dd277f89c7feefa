"""The pepper and its id."""

import hashlib
import hmac

import pytest

from rekeyd.access.pepper import id_of, pepper_in
from rekeyd.errors import SettingsError

PEPPER = b"made-up-pepper-of-32-bytes-long!"


@pytest.mark.parametrize("after", [b"", b"\n", b"\r\n"])
def test_one_line_end_is_not_part_of_it(after: bytes) -> None:
    assert pepper_in(PEPPER + after, file="pepper") == PEPPER


def test_only_one_is_dropped_and_no_other_byte() -> None:
    assert pepper_in(b" " + PEPPER + b" \n\n", file="pepper") == b" " + PEPPER + b" \n"


@pytest.mark.parametrize(
    ("data", "rule"),
    [(b"", "empty"), (b"\n", "empty"), (PEPPER[:-1], "pepper_short"), (b"x\n", "pepper_short")],
)
def test_a_pepper_that_could_be_guessed_is_refused_and_not_repeated(data: bytes, rule: str) -> None:
    with pytest.raises(SettingsError) as caught:
        pepper_in(data, file="/etc/pepper")
    [problem] = caught.value.problems
    assert problem.rule == rule
    assert problem.file == "/etc/pepper"
    assert "openssl rand" in problem.fix
    assert "made-up" not in str(caught.value)


def test_its_id_is_the_one_that_is_documented_and_tells_two_apart() -> None:
    assert id_of(PEPPER) == hmac.new(PEPPER, b"rekeyd pepper id", hashlib.sha256).hexdigest()[:8]
    assert id_of(PEPPER) != id_of(PEPPER + b"\n")
