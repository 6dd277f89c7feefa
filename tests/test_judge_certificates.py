"""The rules about the certificates that rekeyd shows: one case for each, and what is nearly one."""

import datetime as dt
from dataclasses import replace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import AuthorityInformationAccessOID

from rekeyd.trust.certificates import Origin
from rekeyd.trust.generation import Severity
from rekeyd.trust.judge import judge
from support.generations import candidate_of, material_of, settings_of
from support.judging import NOW, generation_of, judged, judging, rules_broken, verdict_on
from support.pki import DAY, Authority, Leaf, make_key

CA = Authority()
INTERMEDIATE = CA.intermediate()
MINUTE = dt.timedelta(minutes=1)


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


def an_expired(*names: str, **properties: Any) -> Leaf:
    return CA.issue(*names, not_before=NOW - 10 * DAY, not_after=NOW - DAY, **properties)


@pytest.mark.parametrize(
    ("setting", "severity"), [("allow", None), ("warn", Severity.WARN), ("refuse", Severity.REFUSE)]
)
def test_at_start_the_setting_says_whether_an_expired_certificate_is_served(
    setting: str, severity: Severity | None
) -> None:
    found = rules_broken(verdict_on(an_expired(), settings=judging(expired=setting)))

    assert found.get("expired") is severity


@pytest.mark.parametrize("setting", ["allow", "warn", "refuse"])
def test_an_expired_certificate_never_takes_the_place_of_a_good_one(setting: str) -> None:
    verdict = verdict_on(an_expired(), current=generation_of(CA.issue()), settings=judging(expired=setting))

    assert verdict.refused


def test_where_the_current_one_has_expired_too_the_setting_decides() -> None:
    served = generation_of(an_expired())

    assert verdict_on(an_expired(), current=served).refused
    assert not verdict_on(an_expired(), current=served, settings=judging(expired="warn")).refused


def test_an_expired_certificate_that_is_served_already_keeps_nothing_else_from_changing() -> None:
    expired = an_expired("a.example")
    served = generation_of(expired, CA.issue("b.example"))

    found = rules_broken(verdict_on(expired, CA.issue("b.example"), current=served))

    assert found["expired"] is Severity.WARN
    assert Severity.REFUSE not in found.values()


def test_an_expired_newcomer_is_refused_and_named_by_its_file() -> None:
    newcomer = replace(material_of(an_expired("b.example")), origin=Origin("/certs/b/tls.crt"))
    served = CA.issue("a.example")

    [finding] = [
        f
        for f in judge(candidate_of(served, newcomer), generation_of(served), NOW).findings
        if f.rule == "expired"
    ]

    assert finding.severity is Severity.REFUSE
    assert finding.message.startswith("/certs/b/tls.crt: the certificate with serial ")


@pytest.mark.parametrize(
    ("setting", "severity"),
    [("hold", Severity.HOLD), ("refuse", Severity.REFUSE), ("warn", Severity.WARN), ("allow", None)],
)
def test_a_certificate_that_is_not_valid_yet_is_held_or_what_the_setting_says(
    setting: str, severity: Severity | None
) -> None:
    verdict = verdict_on(CA.issue(not_before=NOW + DAY), settings=judging(not_yet_valid=setting))

    assert rules_broken(verdict).get("not_yet_valid") is severity
    assert (verdict.held_until is not None) is (setting == "hold")


def test_of_several_that_wait_the_last_says_when() -> None:
    early, later = CA.issue("a", not_before=NOW + DAY), CA.issue("b", not_before=NOW + 2 * DAY)

    assert verdict_on(early, later).held_until == NOW + 2 * DAY


@pytest.mark.parametrize(("ahead", "skewed"), [(MINUTE, True), (10 * MINUTE, True), (11 * MINUTE, False)])
def test_a_certificate_of_the_near_future_speaks_of_a_clock(ahead: dt.timedelta, *, skewed: bool) -> None:
    found = judged(CA.issue(not_before=NOW + ahead))

    assert ("clock_skew" in found) is skewed
    assert found["not_yet_valid"] is Severity.HOLD


def test_a_clock_that_went_back_is_told_and_what_is_served_is_not_refused_for_it() -> None:
    served = CA.issue(not_before=NOW - DAY)

    found = judged(served, served, at=NOW - 2 * DAY)

    assert found == {"clock_skew": Severity.WARN, "not_yet_valid": Severity.WARN}


def test_names_may_move_from_one_certificate_to_another() -> None:
    served = generation_of(CA.issue("a.example", "b.example"), CA.issue("c.example"))

    assert (
        rules_broken(verdict_on(CA.issue("c.example"), CA.issue("b.example", "a.example"), current=served))
        == {}
    )
    [finding] = verdict_on(CA.issue("a.example"), CA.issue("c.example"), current=served).findings
    assert finding.message == "no certificate covers b.example any more"


def test_a_certificate_that_can_never_be_chosen_is_told() -> None:
    first, again, rsa = (CA.issue("a.example", key=kind) for kind in ("p256", "p256", "rsa2048"))

    assert rules_broken(verdict_on(first, rsa)) == {}
    [finding] = verdict_on(first, again, rsa).findings
    assert (finding.rule, finding.severity) == ("certificate_shadowed", Severity.WARN)
    assert again.certificate.serial_number == int(finding.message.split("serial ")[1].split()[0], 16)


def test_where_names_are_strict_a_certificate_for_an_address_is_never_chosen() -> None:
    leaf = CA.issue("10.0.0.1")

    assert rules_broken(verdict_on(leaf)) == {}
    strict = settings_of(tls={"strict_sni": True})
    assert rules_broken(verdict_on(leaf, settings=strict)) == {"certificate_shadowed": Severity.WARN}


@pytest.mark.parametrize(
    ("mode", "exposed"),
    [(0o600, False), (0o640, False), (0o644, True), (0o602, True), (0o660, False), (None, False)],
)
def test_a_key_that_every_user_can_read_is_told(mode: int | None, *, exposed: bool) -> None:
    material = replace(material_of(CA.issue()), origin=Origin("/c.pem", "/c.key", mode))

    findings = judge(candidate_of(material), None, NOW).findings

    assert [f.rule for f in findings] == (["key_exposed"] if exposed else [])
    assert all(f"mode {mode:04o}" in f.message and "chmod" in f.fix for f in findings)


def test_a_key_file_is_told_once_however_often_it_is_used() -> None:
    key = make_key("p256")
    shared = [
        replace(material_of(CA.issue(name, key=key)), origin=Origin(f"/{name}.pem", "/c.key", 0o644))
        for name in ("a", "b")
    ]

    assert [f.rule for f in judge(candidate_of(*shared), None, NOW).findings] == ["key_exposed"]


def test_each_certificate_is_compared_with_the_one_whose_place_it_takes() -> None:
    served = generation_of(
        CA.issue("a.example", not_after=NOW + 60 * DAY), CA.issue("b.example", not_after=NOW + 40 * DAY)
    )
    renewed = CA.issue("b.example", not_after=NOW + 50 * DAY), CA.issue("a.example", not_after=NOW + 61 * DAY)

    assert rules_broken(verdict_on(*renewed, current=served)) == {}
    older = CA.issue("b.example", not_after=NOW + 39 * DAY)
    assert rules_broken(verdict_on(older, renewed[1], current=served)) == {"expiry_backwards": Severity.WARN}


def test_an_intermediate_that_expired_while_it_was_served_is_no_reason_to_refuse() -> None:
    old = Authority("old", parent=CA, not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    leaf, other = old.issue(), old.issue()
    strict = judging(intermediate_expired="refuse")

    assert verdict_on(leaf, settings=strict).refused
    assert not verdict_on(leaf, settings=strict, current=generation_of(leaf)).refused
    assert not verdict_on(other, settings=strict, current=generation_of(leaf)).refused
