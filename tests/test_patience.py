"""Patience: what is borne, when it is told, how often, and when to look again."""

from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.reload.patience import (
    LONGEST,
    PAUSES,
    SOON,
    Advice,
    Sight,
    Terms,
    Trouble,
    may_pass,
    refused,
)
from rekeyd.trust.generation import Finding, Part, Severity

TORN = Sight("torn", passing=True)
EXPIRED = Sight("expired")
TERMS = Terms(grace=10)


def finding(rule: str, severity: Severity = Severity.REFUSE) -> Finding:
    return Finding(rule, severity, Part.SERVER_CERTIFICATE, "")


def tellings(sight: Sight, terms: Terms, until: float) -> Iterator[float]:
    """When a refusal that lasts is told, by one who looks again whenever he is told to."""
    trouble: Trouble | None = None
    now = 0.0
    while now <= until:
        advice = refused(trouble, sight, terms, now)
        trouble = advice.trouble
        if advice.tell:
            yield now
        if advice.look_again is None:
            return
        now += advice.look_again


def after(*sights: tuple[float, Sight]) -> Advice:
    """The advice on the last of what was seen at these times."""
    trouble, advice = None, None
    for now, sight in sights:
        advice = refused(trouble, sight, TERMS, now)
        trouble = advice.trouble
    assert advice is not None
    return advice


@pytest.mark.parametrize(
    ("findings", "passes"),
    [
        ([finding("key_mismatch")], True),
        ([finding("truncated_pem"), finding("unreadable")], True),
        ([finding("key_mismatch"), finding("names_lost", Severity.WARN)], True),
        ([finding("key_mismatch"), finding("weak_key")], False),
        ([finding("expired")], False),
        ([finding("settings")], False),
        ([finding("not_yet_valid", Severity.HOLD)], False),
        ([finding("key_encrypted")], False),
        ([finding("passphrase_wrong")], True),
        ([finding("pair_incomplete")], True),
        ([finding("names_lost", Severity.WARN)], False),
        ([], False),
    ],
)
def test_what_may_be_the_middle_of_a_change(findings: list[Finding], passes: bool) -> None:
    assert may_pass(findings) is passes


def test_what_passes_is_not_told_and_is_soon_looked_at_again() -> None:
    advice = after((0, TORN))

    assert (advice.tell, advice.first, advice.look_again) == (False, True, SOON)
    assert not advice.trouble.loud


def test_only_the_first_sight_is_the_first() -> None:
    assert not after((0, TORN), (1, TORN)).first


def test_the_last_look_of_the_grace_is_at_its_end() -> None:
    assert after((0, TORN), (9.75, TORN)).look_again == 0.25


def test_what_lasts_is_told_after_the_grace_and_with_growing_pauses() -> None:
    assert list(tellings(TORN, TERMS, 8000)) == [10, 20, 50, 110, 410, 4010, 7610]


def test_no_pause_is_longer_than_the_timers() -> None:
    assert list(tellings(TORN, Terms(grace=10, longest=40), 200)) == [10, 20, 50, 90, 130, 170]


def test_what_no_moment_mends_is_told_at_once_and_with_the_same_pauses() -> None:
    assert list(tellings(EXPIRED, TERMS, 100)) == [0, 10, 40, 100]


def test_who_asks_is_answered_at_once_and_every_time() -> None:
    asked = Sight("torn", passing=True, asked=True)

    assert after((0, asked)).tell
    assert after((0, TORN), (1, asked)).tell
    assert after((0, TORN), (1, asked), (1.5, asked)).tell


def test_what_was_told_to_who_asked_is_not_told_again_at_the_end_of_the_grace() -> None:
    asked = Sight("torn", passing=True, asked=True)

    advice = after((0, TORN), (3, asked), (11, TORN))

    assert not advice.tell
    assert advice.look_again == 2
    assert advice.trouble.loud


def test_without_a_grace_everything_is_told_at_once() -> None:
    assert refused(None, TORN, Terms(grace=0), 5).tell


def test_files_that_never_rest_are_told_of_all_the_same() -> None:
    moments: list[tuple[float, Sight]] = [
        (second, Sight(f"torn {second}", passing=True)) for second in range(11)
    ]

    assert not after(*moments[:-1]).tell
    assert after(*moments).tell


def test_a_worse_reason_ends_the_grace() -> None:
    assert after((0, TORN), (1, EXPIRED)).tell


def test_another_reason_that_may_pass_gets_a_grace_of_its_own() -> None:
    mismatch = Sight("mismatch", passing=True)
    hour = 4010.0  # the next telling of what lasts is an hour away
    trouble = Trouble(since=0, reason="torn", due=hour + LONGEST, told=5, loud=True)

    first = refused(trouble, mismatch, TERMS, hour + 100)
    assert (first.tell, first.look_again) == (False, 10)
    second = refused(first.trouble, mismatch, TERMS, hour + 110)
    assert (second.tell, second.look_again) == (True, PAUSES[0])


def test_another_reason_is_told_no_later_than_the_old_one_would_have_been() -> None:
    trouble = Trouble(since=0, reason="torn", due=20, told=1, loud=True)

    assert refused(trouble, Sight("mismatch", passing=True), TERMS, 18).trouble.due == 20


def test_what_waits_for_its_time_is_told_once() -> None:
    held = Sight("not yet", held=True)

    assert list(tellings(held, TERMS, 10**6)) == [0]
    assert not after((0, held), (10**6, held)).tell


@given(
    st.lists(
        st.tuples(
            st.floats(0.01, 100),
            st.builds(Sight, st.sampled_from("abc"), passing=st.booleans(), asked=st.booleans()),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_whatever_is_seen_there_is_always_another_look_in_bounded_time(
    seen: list[tuple[float, Sight]],
) -> None:
    now, trouble = 0.0, None
    for pause, sight in seen:
        now += pause
        advice = refused(trouble, sight, TERMS, now)
        trouble = advice.trouble
        assert advice.look_again is not None
        assert advice.look_again <= LONGEST
        assert advice.tell or not sight.asked
        assert advice.tell or trouble.due > now
        assert trouble.due <= now + max(LONGEST, TERMS.grace)
