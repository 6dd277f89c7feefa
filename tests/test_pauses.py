"""Where none lives long the next comes ever later."""

from rekeyd.workers.pauses import LIVED, PAUSES, Pauses


def test_after_one_that_lived_the_next_begins_at_once() -> None:
    assert Pauses().after(1, LIVED) == 0


def test_where_none_lives_long_the_next_comes_ever_later() -> None:
    pauses = Pauses()
    assert [pauses.after(1, 0.0) for _ in range(7)] == [*PAUSES[1:], PAUSES[-1], PAUSES[-1]]
    assert pauses.after(1, LIVED) == 0
    assert pauses.after(1, LIVED - 1) == PAUSES[1]


def test_each_place_has_pauses_of_its_own() -> None:
    pauses = Pauses()
    pauses.after(1, 0.0)
    assert pauses.after(2, 0.0) == PAUSES[1]
