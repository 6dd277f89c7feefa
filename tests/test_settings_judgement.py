"""The section `judge`: its keys, and what each may be set to."""

from typing import get_args

from rekeyd.settings import Judge, describe

DESCRIBED = {d.key.removeprefix("judge."): d for d in describe() if d.key.startswith("judge.")}


def test_every_rule_can_be_refused_warned_of_or_allowed() -> None:
    for name, described in DESCRIBED.items():
        for gravity in ("refuse", "warn", "allow"):
            assert getattr(Judge.model_validate({name: gravity}), name) == gravity
        assert described.reloadable


def test_only_waiting_for_a_date_can_be_held() -> None:
    held = {name for name in DESCRIBED if "hold" in str(get_args(Judge.model_fields[name].annotation))}

    assert held == {"not_yet_valid"}
    assert Judge().not_yet_valid == "hold"


def test_what_would_serve_nothing_or_nobody_can_not_be_set() -> None:
    never = {"key_mismatch", "certificate_missing", "unparsable", "client_ca_missing", "crl_expired"}

    assert never.isdisjoint(DESCRIBED)
