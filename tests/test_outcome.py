"""Outcomes: the same words for a log, a program and a person."""

import datetime as dt
import json

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Right
from rekeyd.errors import Problem
from rekeyd.reload.outcome import Outcome, Result, findings_of, part_of
from rekeyd.trust.generation import Finding, Part, PartChange, Severity, changes, described
from support.generations import candidate_of, material_of
from support.pki import Authority

CA = Authority()
OLD, NEW = CA.issue("old.example.org"), CA.issue("new.example.org")
UNTIL = dt.datetime(2030, 1, 2, 3, 4, 5, tzinfo=dt.UTC)
FINDING = Finding("names_lost", Severity.WARN, Part.SERVER_CERTIFICATE, "a name is lost", "Mend it")
CHANGES = changes(
    candidate_of(OLD).generation(1),
    candidate_of(NEW, ring=KeyRing([Credential.of_secret("api_key", Right.MANAGE, "s3cret")])).generation(2),
)


def test_an_outcome_is_json_with_all_that_changed() -> None:
    outcome = Outcome(Result.APPLIED, "watch", 2, 0.0123456789, CHANGES, (FINDING,), restart_needed=("a.b",))

    told = json.loads(json.dumps(outcome.fields()))

    assert told["outcome"] == "applied"
    assert (told["trigger"], told["generation"], told["duration"]) == ("watch", 2, 0.012346)
    assert told["parts"]["server_certificate"]["new"]["sha256"] == NEW.fingerprint
    assert told["parts"]["keys"] == {"added": ["api_key"]}
    assert told["restart_needed"] == ["a.b"]
    assert told["findings"] == [
        {
            "rule": "names_lost",
            "severity": "warn",
            "part": "server_certificate",
            "message": "a name is lost",
            "fix": "Mend it",
        }
    ]


def test_what_there_is_nothing_of_is_left_out() -> None:
    assert Outcome(Result.UNCHANGED, "ttl", 3, 0.5).fields() == {
        "outcome": "unchanged",
        "trigger": "ttl",
        "generation": 3,
        "duration": 0.5,
    }


def test_the_log_event_is_named_after_the_result() -> None:
    assert [Outcome(result, "ttl", 1, 0).event for result in Result] == [
        "reload.applied",
        "reload.unchanged",
        "reload.refused",
        "reload.settling",
    ]


def test_a_person_reads_old_and_new_certificate_and_the_warnings() -> None:
    text = "\n".join(Outcome(Result.APPLIED, "sighup", 2, 0.012, CHANGES, (FINDING,)).lines())

    assert text.startswith("applied: generation 2 is served (sighup, 12 ms)")
    assert f"serial {OLD.serial:X}" in text.replace("serial 0", "serial ")
    assert "new.example.org" in text
    assert NEW.fingerprint in text
    assert "keys: added api_key" in text
    assert "warn (names_lost): a name is lost. Mend it." in text


def test_a_person_reads_what_goes_on_after_a_refusal() -> None:
    assert (
        Outcome(Result.REFUSED, "watch", 4, 0.001).lines()[0] == "refused: generation 4 goes on (watch, 1 ms)"
    )
    assert "nothing is served" in Outcome(Result.REFUSED, "start", None, 0).lines()[0]


def test_a_person_reads_until_when_a_certificate_is_held() -> None:
    outcome = Outcome(Result.REFUSED, "watch", 4, 0.001, held_until=UNTIL)

    assert outcome.lines()[0].startswith("refused until 2030-01-02 03:04:05 UTC: generation 4 goes on")
    assert outcome.fields()["held_until"] == "2030-01-02T03:04:05+00:00"


def test_problems_become_findings_of_their_part() -> None:
    problems = (
        Problem("/etc/rekeyd.yaml", "tls.key", "is missing", "Create it"),
        Problem("/etc/rekeyd.yaml", "", "is not YAML", ""),
    )

    key, whole = findings_of(problems)

    assert (key.part, key.severity, key.rule) == (Part.SERVER_CERTIFICATE, Severity.REFUSE, "settings")
    assert str(key) == "/etc/rekeyd.yaml: tls.key: is missing. Create it."
    assert (whole.part, str(whole)) == (Part.SETTINGS, "/etc/rekeyd.yaml: is not YAML.")


def test_no_secret_is_told() -> None:
    outcome = Outcome(Result.APPLIED, "watch", 2, 0.1, CHANGES)

    assert "s3cret" not in json.dumps(outcome.fields()) + "\n".join(outcome.lines()) + repr(outcome)


def test_of_many_certificates_each_that_changed_is_told_by_its_name() -> None:
    detail = {"more": [{"name": "a.example.org", "old": None, "new": described(material_of(NEW).leaf)}]}
    change = PartChange(Part.SERVER_CERTIFICATE, detail)

    lines = Outcome(Result.APPLIED, "watch", 2, 0.1, (change,)).lines()

    assert lines[1:4] == [
        "  server certificate:",
        "    a.example.org:",
        "      old: none",
    ]
    assert NEW.fingerprint in lines[-1]


def test_certificates_in_another_order_are_told_as_such() -> None:
    change = PartChange(Part.SERVER_CERTIFICATE, {"reordered": True})

    assert Outcome(Result.APPLIED, "watch", 2, 0.1, (change,)).lines()[1:] == [
        "  server certificate:",
        "    the same ones, in another order",
    ]


def test_the_part_of_a_file_follows_from_the_key_that_names_it() -> None:
    assert [
        part_of(key)
        for key in ("tls.cert", "tls.certificates[3].key", "tls.certificate_dir/a.crt", "tls.crl", "", "x")
    ] == [*[Part.SERVER_CERTIFICATE] * 3, Part.CLIENT_CRL, *[Part.SETTINGS] * 2]
    assert {part_of(key) for key in ("access.keys_file", "access.pepper_file")} == {Part.KEYS}


def test_keys_of_an_issuer_belong_to_the_part_of_tokens() -> None:
    assert part_of("access.jwks_file") is Part.TOKENS
