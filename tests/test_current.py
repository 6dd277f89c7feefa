"""The cell that says what is served."""

import pytest

from rekeyd.reload.current import Current, Serving
from support.generations import candidate_of
from support.pki import Authority


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
