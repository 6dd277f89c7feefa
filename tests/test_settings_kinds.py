"""The words for a value that will not do."""

import pytest

from rekeyd.settings.kinds import Kind, alternatives, is_word, name_of_type

PORT = Kind("a port", "Write a port", (int,))


def test_a_wrong_type_is_named() -> None:
    assert PORT.objection("x") == ("must be a port, not a string", "Write a port")
    # To Python a boolean is an integer; to an operator it is not.
    assert PORT.objection(True) == ("must be a port, not a boolean", "Write a port")


def test_a_value_out_of_range_is_not_repeated() -> None:
    message, fix = PORT.objection(99999)
    assert (message, fix) == ("is out of range: it must be a port", "Choose one within the range")


@pytest.mark.parametrize(("value", "name"), [(None, "null"), ([], "a list"), (b"", "something else")])
def test_types_have_names(value: object, name: str) -> None:
    assert name_of_type(value) == name


def test_choices_are_listed() -> None:
    assert alternatives("a", "b", "c") == "`a`, `b` or `c`"


@pytest.mark.parametrize("text", ["api_key", "p2p", "_x", "x-y"])
def test_a_word_may_be_repeated(text: str) -> None:
    assert is_word(text)


@pytest.mark.parametrize("text", ["", "a:b", "a b", "1a", "\u00fc", "x" * 41, "a\n"])
def test_what_is_no_word_may_not(text: str) -> None:
    assert not is_word(text)
