"""The judge: one case for each rule, and one that breaks none."""

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Right
from rekeyd.settings import describe
from rekeyd.trust.certificates import read_material
from rekeyd.trust.generation import Candidate, Finding, Generation, Part, Severity
from rekeyd.trust.judge import RULES, judge
from support.generations import candidate_of
from support.judging import NOW, VERIFYING, generation_of, judged, judging, rules_broken, verdict_on
from support.pki import DAY, Authority

CA = Authority()
INTERMEDIATE = CA.intermediate()


def test_sound_material_is_accepted_without_a_word() -> None:
    assert judged(INTERMEDIATE.issue()) == {}
    assert judged(INTERMEDIATE.issue(), INTERMEDIATE.issue()) == {}


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [rule.name for rule in RULES]

    assert len(names) == len(set(names))


def test_what_is_refused_is_not_held_as_well() -> None:
    verdict = judge(candidate_of(CA.issue(not_before=NOW + DAY, key="rsa1024")), None, NOW)

    assert verdict.refused
    assert verdict.held_until is None


def test_a_part_that_could_not_be_read_is_told_once() -> None:
    fault = Finding("empty", Severity.REFUSE, Part.SERVER_CERTIFICATE, "the file is empty")
    ca_fault = Finding("empty", Severity.REFUSE, Part.CLIENT_CA, "the file is empty")

    verdict = judge(candidate_of(None, settings=VERIFYING, faults=(fault, ca_fault)), None, NOW)

    assert verdict.findings == (fault, ca_fault)
    assert verdict.refused


def test_a_key_that_can_never_be_found_warns() -> None:
    ring = KeyRing(
        [
            Credential.of_secret("api_key", Right.MANAGE, "same"),
            Credential.of_secret("read_only_api_key", Right.READ, "same"),
        ]
    )

    [finding] = judge(candidate_of(CA.issue(), ring=ring), None, NOW).findings

    assert (finding.rule, finding.severity, finding.part) == ("secrets_shadowed", Severity.WARN, Part.KEYS)
    assert "read_only_api_key" in finding.message


def test_every_finding_has_a_remedy() -> None:
    bad = candidate_of(
        CA.issue("other", not_before=NOW - 9 * DAY, not_after=NOW - DAY, key="rsa1024"), settings=VERIFYING
    )
    served: Generation = candidate_of(INTERMEDIATE.issue()).generation(1)

    findings = judge(bad, served, NOW).findings

    assert {f.rule for f in findings} >= {
        "expired",
        "weak_key",
        "names_lost",
        "expiry_backwards",
        "client_ca_missing",
    }
    assert all(finding.fix and finding.fix[0].isupper() for finding in findings)


def test_the_judge_reads_nothing_but_what_it_is_given() -> None:
    leaf = CA.issue(not_after=NOW + 80 * DAY)
    candidate: Candidate = candidate_of(read_material(leaf.chain_pem, leaf.key_pem))

    assert judge(candidate, None, NOW) == judge(candidate, None, NOW)
    assert judge(candidate, None, NOW + 81 * DAY).refused


SETTABLE = [described for described in describe() if described.key.startswith("judge.")]


def test_every_setting_is_a_rule_with_that_severity_and_each_other_rule_refuses_or_holds() -> None:
    rules = {f"judge.{rule.name}": rule.severity.value for rule in RULES}

    assert {described.key: described.default for described in SETTABLE}.items() <= rules.items()
    fixed = rules.keys() - {described.key for described in SETTABLE}
    assert {rules[key] for key in fixed} <= {"refuse", "hold"}


def test_a_rule_that_is_allowed_says_nothing_and_one_that_refuses_refuses() -> None:
    shorter = CA.issue(not_after=NOW + 30 * DAY)
    served = generation_of(CA.issue(not_after=NOW + 60 * DAY))

    assert rules_broken(verdict_on(shorter, current=served, settings=judging(expiry_backwards="allow"))) == {}
    assert verdict_on(shorter, current=served, settings=judging(expiry_backwards="refuse")).refused
