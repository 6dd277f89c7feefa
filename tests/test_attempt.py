"""An attempt: what was found, and what may be published; it never raises."""

import datetime as dt
from collections.abc import Callable
from pathlib import Path

import pytest

from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.attempt import Attempt, Failed, Means, attempt, failed_probe
from rekeyd.reload.contexts import ContextError, ProbeError, serving_of
from rekeyd.reload.current import Serving
from rekeyd.reload.outcome import Result
from rekeyd.trust.generation import Candidate, Generation, Part, Severity
from support.generations import Site
from support.pki import write_torn

SECRET = "what an unexpected error says"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def made_of(
    site: Site,
    *,
    current: Generation | None = None,
    build: Callable[[Generation], Serving] = serving_of,
    failed: Failed | None = None,
    load: Callable[[], Candidate] | None = None,
) -> Attempt:
    means = Means(load or site.disk.load, build, lambda: dt.datetime.now(dt.UTC))
    return attempt(means, current, 7, failed)


def rules(made: Attempt) -> list[str]:
    return [finding.rule for finding in made.verdict.findings]


def test_good_files_can_be_published_under_the_number_that_was_given(site: Site) -> None:
    made = made_of(site)

    assert made.result is Result.APPLIED
    assert made.serving is not None
    assert made.serving.generation.number == 7
    assert made.digest


def test_files_that_say_what_is_served_are_not_built_again(site: Site) -> None:
    first = made_of(site)
    assert first.serving is not None

    again = made_of(site, current=first.serving.generation, build=never)

    assert (again.result, again.same, again.changes) == (Result.UNCHANGED, True, ())


def test_what_is_refused_is_not_called_unchanged_where_nothing_else_differs(site: Site) -> None:
    first = made_of(site)
    assert first.serving is not None
    against = failed_probe("made up")

    again = made_of(site, current=first.serving.generation).against(against)

    assert (again.same, again.result) == (True, Result.REFUSED)


def never(_generation: Generation) -> Serving:
    raise AssertionError("there was nothing to build")


def test_refused_files_are_not_built(site: Site) -> None:
    write_torn(site.cert, site.cert.read_bytes())

    made = made_of(site, build=never)

    assert (made.result, rules(made)) == (Result.REFUSED, ["truncated_pem"])


def test_problems_are_told_as_findings_and_as_problems(site: Site) -> None:
    def load() -> Candidate:
        raise SettingsError([Problem("rekeyd.yaml", "tls.key", "is missing", "Create it", "unreadable")])

    made = made_of(site, load=load)

    [finding] = made.verdict.findings
    assert (finding.rule, finding.part) == ("unreadable", Part.SERVER_CERTIFICATE)
    assert len(made.problems) == 1
    assert made.digest == ""


@pytest.mark.parametrize(("error", "rule"), [(ProbeError, "probe"), (ContextError, "context")])
def test_what_can_not_be_built_is_refused(error: type[ContextError], rule: str, site: Site) -> None:
    def build(_generation: Generation) -> Serving:
        raise error("it does not work", "Mend it")

    made = made_of(site, build=build)

    assert (made.result, rules(made)) == (Result.REFUSED, [rule])


def test_what_failed_when_it_was_served_is_not_built_again_from_the_same_bytes(site: Site) -> None:
    failed = Failed(made_of(site).digest, failed_probe("it showed another certificate"))

    assert rules(made_of(site, build=never, failed=failed)) == ["probe_listener"]
    site.rotate()
    assert made_of(site, failed=failed).result is Result.APPLIED


def test_a_failed_probe_refuses_and_says_why() -> None:
    finding = failed_probe("it showed another certificate")

    assert (finding.rule, finding.severity) == ("probe_listener", Severity.REFUSE)
    assert "it showed another certificate" in finding.message


class Panic(BaseException):
    """As a library in Rust raises it: no `Exception`."""


@pytest.mark.parametrize("error", [KeyError, Panic, MemoryError, RecursionError])
def test_an_unexpected_error_is_told_by_its_place_and_not_in_its_words(
    error: type[BaseException], site: Site
) -> None:
    def load() -> Candidate:
        raise error(SECRET)

    made = made_of(site, load=load)

    [finding] = made.verdict.findings
    assert finding.rule == "internal_error"
    assert f"{error.__name__} at test_attempt.py" in finding.message
    assert SECRET not in str(finding)


def test_one_who_wants_to_end_the_process_may(site: Site) -> None:
    def load() -> Candidate:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        made_of(site, load=load)
