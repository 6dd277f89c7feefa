"""The judge: one case for each rule, and one that breaks none."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import AuthorityInformationAccessOID

from rekeyd.trust.certificates import read_anchors, read_material
from rekeyd.trust.generation import Candidate, Finding, Generation, Part, Severity, Verdict
from rekeyd.trust.judge import RULES, judge
from rekeyd.trust.keys import Credential, KeyRing, Right
from support.generations import candidate_of, settings_of
from support.pki import DAY, Authority, Leaf, now

CA = Authority()
INTERMEDIATE = CA.intermediate()
NOW = now()
VERIFYING = settings_of(
    service={"verify_https_client_certificate": True}, tls={"ca_cert": "/etc/rekeyd/client-ca.pem"}
)


def rules_broken(verdict: Verdict) -> dict[str, Severity]:
    return {finding.rule: finding.severity for finding in verdict.findings}


def judged(leaf: Leaf | None, current: Leaf | None = None, *, at: dt.datetime = NOW) -> dict[str, Severity]:
    served = candidate_of(current).generation(1) if current else None
    return rules_broken(judge(candidate_of(leaf), served, at))


def test_sound_material_is_accepted_without_a_word() -> None:
    assert judged(INTERMEDIATE.issue()) == {}
    assert judged(INTERMEDIATE.issue(), INTERMEDIATE.issue()) == {}


def test_every_rule_has_a_name_of_its_own() -> None:
    names = [rule.name for rule in RULES]

    assert len(names) == len(set(names))


def test_an_expired_certificate_is_refused_at_start_too() -> None:
    expired = CA.issue(not_before=NOW - 10 * DAY, not_after=NOW - DAY)

    assert judged(expired)["expired"] is Severity.REFUSE
    assert judged(expired, CA.issue())["expired"] is Severity.REFUSE


def test_a_certificate_is_valid_in_its_last_second_and_expired_in_the_next() -> None:
    leaf = CA.issue(not_after=NOW + DAY)

    assert "expired" not in judged(leaf, at=NOW + DAY)
    assert judged(leaf, at=NOW + DAY + dt.timedelta(microseconds=1))["expired"] is Severity.REFUSE


def test_a_certificate_that_is_not_valid_yet_is_held_until_it_is() -> None:
    early = CA.issue(not_before=NOW + DAY)

    verdict = judge(candidate_of(early), None, NOW)

    assert verdict.refused
    assert verdict.held_until == NOW + DAY
    assert not judge(candidate_of(early), None, NOW + DAY).refused


def test_what_is_refused_is_not_held_as_well() -> None:
    verdict = judge(candidate_of(CA.issue(not_before=NOW + DAY, key="rsa1024")), None, NOW)

    assert verdict.refused
    assert verdict.held_until is None


def test_a_short_rsa_key_is_refused() -> None:
    assert judged(CA.issue(key="rsa1024")) == {"weak_key": Severity.REFUSE}
    assert judged(CA.issue(key="rsa2048")) == {}


@pytest.mark.parametrize("broken", ["sha1", "md5"])
def test_a_broken_signature_is_refused(broken: str) -> None:
    leaf = Authority(key="rsa2048").issue(signature_hash="sha1" if broken == "sha1" else "md5")

    assert judged(leaf) == {"weak_signature": Severity.REFUSE}


def test_tls_without_a_certificate_is_refused() -> None:
    assert judged(None) == {"certificate_missing": Severity.REFUSE}
    assert (
        rules_broken(
            judge(candidate_of(None, settings=settings_of(service={"enable_tls": False})), None, NOW)
        )
        == {}
    )


def test_verification_without_a_ca_is_refused() -> None:
    assert rules_broken(judge(candidate_of(CA.issue(), settings=VERIFYING), None, NOW)) == {
        "client_ca_missing": Severity.REFUSE
    }


def test_a_ca_file_without_a_ca_is_refused() -> None:
    leaf = CA.issue()

    def verify_with(pem: bytes) -> dict[str, Severity]:
        return rules_broken(
            judge(candidate_of(leaf, settings=VERIFYING, anchors=read_anchors(pem)), None, NOW)
        )

    assert verify_with(leaf.cert_pem) == {"client_ca_without_ca": Severity.REFUSE}
    assert verify_with(leaf.cert_pem + CA.pem) == {}


def test_a_part_that_could_not_be_read_is_told_once() -> None:
    fault = Finding("empty", Severity.REFUSE, Part.SERVER_CERTIFICATE, "the file is empty")
    ca_fault = Finding("empty", Severity.REFUSE, Part.CLIENT_CA, "the file is empty")

    verdict = judge(candidate_of(None, settings=VERIFYING, faults=(fault, ca_fault)), None, NOW)

    assert verdict.findings == (fault, ca_fault)
    assert verdict.refused


def test_expiry_going_backwards_warns() -> None:
    assert judged(CA.issue(not_after=NOW + 30 * DAY), CA.issue(not_after=NOW + 60 * DAY)) == {
        "expiry_backwards": Severity.WARN
    }


def test_names_that_are_lost_are_warned_of_by_name() -> None:
    served = candidate_of(CA.issue("a.example.org", "b.example.org", "10.0.0.1")).generation(1)

    verdict = judge(candidate_of(CA.issue("A.example.org")), served, NOW)

    [finding] = verdict.findings
    assert finding.rule == "names_lost"
    assert "b.example.org, 10.0.0.1" in finding.message
    assert not verdict.refused


@pytest.mark.parametrize(
    ("before", "after", "lost"),
    [
        ("a.example.org", "*.example.org", False),
        ("*.example.org", "*.example.org", False),
        ("*.example.org", "a.example.org", True),
        ("a.b.example.org", "*.example.org", True),
        ("example.org", "*.example.org", True),
        ("localhost", "localhost.", True),
    ],
)
def test_a_wildcard_covers_one_label(before: str, after: str, *, lost: bool) -> None:
    assert ("names_lost" in judged(CA.issue(after), CA.issue(before))) is lost


def test_a_disordered_chain_warns() -> None:
    upper = CA.intermediate("upper")
    leaf = Authority("lower", parent=upper).issue()
    ordered = Leaf(leaf.certificate, leaf.private_key, leaf.intermediates)
    disordered = Leaf(leaf.certificate, leaf.private_key, leaf.intermediates[::-1])

    assert len(leaf.intermediates) == 2
    assert judged(ordered) == {}
    assert judged(disordered) == {"chain_disordered": Severity.WARN}


def test_a_chain_that_lost_its_intermediate_warns() -> None:
    leaf = INTERMEDIATE.issue()
    alone = Leaf(leaf.certificate, leaf.private_key)

    assert judged(alone, INTERMEDIATE.issue()) == {"chain_incomplete": Severity.WARN}
    assert judged(alone, CA.issue()) == {}


def test_a_lone_leaf_that_says_where_its_issuer_is_warns_at_start() -> None:
    issuer = x509.AccessDescription(
        AuthorityInformationAccessOID.CA_ISSUERS, x509.UniformResourceIdentifier("http://example.org/ca")
    )
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([]))
        .issuer_name(INTERMEDIATE.name)
        .serial_number(1)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + 90 * DAY)
        .add_extension(x509.AuthorityInformationAccess([issuer]), critical=False)
    )
    key = CA.issue().private_key
    leaf = Leaf(builder.public_key(key.public_key()).sign(INTERMEDIATE.private_key, hashes.SHA256()), key)

    assert judged(leaf) == {"chain_incomplete": Severity.WARN}


def test_an_expired_intermediate_warns() -> None:
    old = Authority("old", parent=CA, not_before=NOW - 9 * DAY, not_after=NOW - DAY)

    assert judged(old.issue()) == {"intermediate_expired": Severity.WARN}


@pytest.mark.parametrize(
    ("lifetime", "left", "near"),
    [(90, 13, True), (90, 15, False), (6, 3, False), (6, 1, True), (1, 0.5, False), (1, 0.3, True)],
)
def test_expiry_is_near_within_14_days_or_the_last_third(lifetime: int, left: float, *, near: bool) -> None:
    leaf = CA.issue(not_before=NOW + (left - lifetime) * DAY, not_after=NOW + left * DAY)

    assert ("expires_soon" in judged(leaf)) is near


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
