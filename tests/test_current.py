"""The cell that says what is served."""

import pytest

from rekeyd.reload.current import Current, Serving
from support.generations import candidate_of
from support.pki import Authority


def serving(number: int) -> Serving:
    return Serving(candidate_of(Authority().issue()).generation(number), None)


def test_before_the_first_generation_nothing_is_served() -> None:
    current = Current()

    assert (current.serving, current.generation, current.number) == (None, None, None)


def test_what_is_published_is_served_whole() -> None:
    current = Current()
    serving = Serving(candidate_of(Authority().issue()).generation(1), None)

    current.publish(serving)

    assert current.serving is serving
    assert current.generation is serving.generation
    assert current.number == 1


def test_a_generation_never_goes_back() -> None:
    current = Current()
    candidate = candidate_of(Authority().issue())
    current.publish(Serving(candidate.generation(2), None))

    for number in (1, 2):
        with pytest.raises(ValueError, match=f"{number} does not follow 2"):
            current.publish(Serving(candidate.generation(number), None))
    assert current.number == 2


def test_what_was_served_before_can_come_back_and_no_number_is_used_twice() -> None:
    current = Current()
    first, failed = serving(1), serving(2)
    current.publish(first)
    current.publish(failed)

    current.restore(first)

    assert current.serving is first
    assert current.next_number == 3
    with pytest.raises(ValueError, match="does not follow 2"):
        current.publish(serving(2))


def test_what_was_never_served_can_not_come_back() -> None:
    with pytest.raises(ValueError, match="never served"):
        Current().restore(serving(1))
