"""What is told of each key, and which may go."""

import datetime as dt
from dataclasses import replace

import pytest

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Limits, Reach, Right
from rekeyd.commands.key_list import HEAD, NOTHING_KNOWN, Evidence, Key, keys_among, length, records, rows
from rekeyd.telemetry.evidence import KeyUse, Usage

NOW = dt.datetime(2027, 1, 1, tzinfo=dt.UTC)
DAY = dt.timedelta(days=1)


def secret(
    key_id: str = "a", begins: dt.datetime | None = None, ends: dt.datetime | None = None
) -> Credential:
    return Credential(
        key_id,
        Right.READ,
        b"",
        not_before=begins.timestamp() if begins else None,
        expires=ends.timestamp() if ends else None,
    )


def key(*secrets: Credential) -> Key:
    return Key("a", secrets or (secret(),), NOW)


def used(ago: dt.timedelta | None, since: dt.timedelta | None = None) -> Evidence:
    """Key `a` was used so long ago (None: never), in evidence that goes back so far."""
    return Evidence({"a": NOW - ago if ago is not None else None}, NOW - since if since else None)


@pytest.mark.parametrize(
    ("secrets", "state"),
    [
        ([secret()], "valid"),
        ([secret(ends=NOW)], "expired"),
        ([secret(ends=NOW + DAY)], "valid"),
        ([secret(begins=NOW + DAY)], "not valid yet"),
        ([secret(begins=NOW)], "valid"),
        ([secret(ends=NOW + DAY), secret()], "2 secrets"),
        ([secret(ends=NOW - DAY), secret()], "valid"),
        ([secret(ends=NOW - DAY), secret(ends=NOW)], "expired"),
    ],
)
def test_the_state_of_a_key_is_that_of_its_secrets(secrets: list[Credential], state: str) -> None:
    assert key(*secrets).state == state


@pytest.mark.parametrize(
    ("held", "evidence", "safe"),
    [
        (key(), NOTHING_KNOWN, None),
        (key(), used(30 * DAY), True),
        (key(), used(29 * DAY), False),
        (key(), used(dt.timedelta()), False),
        (key(), used(None), None),
        (key(), used(None, since=90 * DAY), None),
        (key(secret(begins=NOW - 40 * DAY)), used(None), None),
        (key(secret(begins=NOW - 40 * DAY)), used(None, since=90 * DAY), True),
        (key(secret(begins=NOW - DAY)), used(None, since=90 * DAY), False),
        (key(secret(begins=NOW - 90 * DAY)), used(None, since=DAY), False),
        (key(secret(begins=NOW - 90 * DAY), secret(begins=NOW)), used(None, since=90 * DAY), False),
        (key(secret(begins=NOW + 90 * DAY)), used(None, since=90 * DAY), False),
        (key(secret(ends=NOW - DAY)), NOTHING_KNOWN, True),
        (key(secret(ends=NOW - DAY)), used(2 * DAY), True),
        (key(secret(ends=NOW - DAY), secret()), NOTHING_KNOWN, None),
    ],
)
def test_what_is_not_known_is_never_called_safe(held: Key, evidence: Evidence, safe: bool | None) -> None:
    assert held.safe_to_remove(evidence) is safe


def test_evidence_is_what_a_daemon_says_of_its_keys() -> None:
    status = {
        "keys": [
            {"id": "a", "right": "read", "last_used": "2026-12-31T00:00:00+00:00"},
            {"id": "b", "last_used": None},
            {"id": "c"},
            {"id": "d", "last_used": None, "in_use": 1},
        ],
        "evidence": {"since": "2026-12-01T00:00:00+00:00", "directory": None},
    }
    assert Evidence.in_status(status) == Evidence(
        {"a": NOW - DAY, "b": None, "d": None}, NOW - 31 * DAY, busy=frozenset({"d"})
    )
    assert Evidence.in_status({}) == NOTHING_KNOWN


def test_evidence_is_what_a_daemon_left_behind_and_who_is_not_in_it_was_never_used() -> None:
    since, last = (NOW - 60 * DAY).timestamp(), (NOW - DAY).timestamp()
    evidence = Evidence.in_usage(
        Usage(since, {"a": KeyUse(last, last, 1), "b": KeyUse(denied={"expired": 1})})
    )
    assert evidence.uses == {"a": NOW - DAY, "b": None}
    old = secret(begins=NOW - 90 * DAY)
    assert [Key(name, (old,), NOW).safe_to_remove(evidence) for name in ("a", "b", "c")] == [
        False,
        True,
        True,
    ]


def test_a_key_on_which_something_runs_is_in_use_whenever_it_was_last_told_of() -> None:
    evidence = replace(used(90 * DAY), busy=frozenset({"a"}))
    assert key().safe_to_remove(evidence) is False
    assert next(rows([key()], evidence))[2:4] == ("now", "0s")


def test_a_person_reads_a_row_for_each_key_and_a_program_all_of_it() -> None:
    limits = Limits((("books", Reach.READ),), (b"/a",), rate=5.0)
    credentials = [
        secret("a", NOW - 9 * DAY, NOW + DAY),
        Credential("b", Right.READ, b"", limits),
        secret("a", NOW - DAY),
    ]
    found = keys_among(credentials, NOW)
    assert [len(row) for row in rows(found, NOTHING_KNOWN)] == [len(HEAD)] * 2
    assert list(rows(found, used(2 * DAY))) == [
        ("a", "read", "2026-12-30T00:00:00Z", "2d", "never", "2 secrets", "no"),
        ("b", "books=read below /a 5/s", "unknown", "unknown", "never", "valid", "unknown"),
    ]
    assert next(rows(found, used(None)))[2] == "never"
    first, second = records(found, used(2 * DAY), {"b": "a note"})
    assert (first["id"], first["right"], first["unused_for"], first["safe_to_remove"]) == (
        "a",
        "read",
        172800,
        False,
    )
    assert first["secrets"] == [
        {"not_before": "2026-12-23T00:00:00Z", "expires": "2027-01-02T00:00:00Z"},
        {"not_before": "2026-12-31T00:00:00Z", "expires": None},
    ]
    assert second["right"] is None
    assert second["collections"] == {"books": "read"}
    assert (second["paths"], second["networks"], second["rate"], second["note"]) == (
        ["/a"],
        [],
        5.0,
        "a note",
    )


def test_lengths_of_time_are_told_in_one_unit() -> None:
    assert [length(dt.timedelta(seconds=s)) for s in (-5, 59, 60, 7200, 200_000)] == [
        "0s",
        "59s",
        "1m",
        "2h",
        "2d",
    ]
