"""The rules about client authorities and revocation lists."""

from typing import Any

import pytest
from cryptography import x509

from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Finding, Generation, Part, Severity, Verdict
from rekeyd.trust.judge import judge
from rekeyd.trust.revocations import read_revocations
from support.generations import candidate_of, settings_of
from support.judging import NOW, VERIFYING, generation_of, rules_broken, verdict_on
from support.pki import DAY, Authority, make_key

CA = Authority()
CLIENTS, OTHERS = Authority("client CA"), Authority("another CA")
LEAF = CA.issue()


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


def with_lists(crl: bytes, anchors: bytes = CLIENTS.pem, **properties: Any) -> Verdict:
    return verdict_on(
        LEAF,
        anchors=read_anchors(anchors),
        revocations=read_revocations(crl),
        **{"settings": VERIFYING, **properties},
    )


def serving(crl: bytes, anchors: bytes = CLIENTS.pem) -> Generation:
    return generation_of(
        LEAF, settings=VERIFYING, anchors=read_anchors(anchors), revocations=read_revocations(crl)
    )


def test_a_sound_list_is_accepted_without_a_word() -> None:
    assert rules_broken(with_lists(CLIENTS.crl(1))) == {}
    assert rules_broken(with_lists(CLIENTS.crl(1), current=serving(CLIENTS.crl()))) == {}


def test_a_list_past_its_next_update_is_refused() -> None:
    stale = CLIENTS.crl(this_update=NOW - 9 * DAY, next_update=NOW - DAY)

    [finding] = with_lists(stale).findings
    assert (finding.rule, finding.severity, finding.part) == ("crl_expired", Severity.REFUSE, Part.CLIENT_CRL)
    assert "CN=client CA" in finding.message
    assert with_lists(stale, current=serving(CLIENTS.crl(this_update=NOW - 10 * DAY))).refused


def test_a_list_that_ran_out_while_it_was_served_keeps_nothing_else_from_changing() -> None:
    stale = CLIENTS.crl(this_update=NOW - 9 * DAY, next_update=NOW - DAY)

    assert rules_broken(with_lists(stale, current=serving(stale))) == {"crl_expired": Severity.WARN}


def test_a_list_of_the_future_is_held_until_it_is_valid() -> None:
    verdict = with_lists(CLIENTS.crl(this_update=NOW + DAY))

    assert rules_broken(verdict) == {"crl_not_yet_valid": Severity.HOLD}
    assert verdict.held_until == NOW + DAY


def test_a_list_of_an_authority_that_is_not_believed_is_refused() -> None:
    assert rules_broken(with_lists(CLIENTS.crl() + OTHERS.crl())) == {
        "crl_of_another_issuer": Severity.REFUSE
    }


def test_a_list_that_another_key_signed_is_refused() -> None:
    forged = CLIENTS.crl(signed_by=make_key("p256"))

    assert rules_broken(with_lists(forged)) == {"crl_badly_signed": Severity.REFUSE}


def test_of_two_authorities_of_one_name_either_may_have_signed() -> None:
    namesake = Authority("client CA")

    assert rules_broken(with_lists(CLIENTS.crl(), CLIENTS.pem + namesake.pem)) == {}


def test_a_list_that_openssl_would_not_go_by_is_refused() -> None:
    delta = CLIENTS.crl(extensions=[x509.DeltaCRLIndicator(1)])

    assert rules_broken(with_lists(delta)) == {"crl_unsupported": Severity.REFUSE}


def test_an_authority_without_a_list_is_told() -> None:
    [finding] = with_lists(CLIENTS.crl(), CLIENTS.pem + OTHERS.pem).findings

    assert (finding.rule, finding.severity) == ("crl_incomplete", Severity.WARN)
    assert "CN=another CA" in finding.message
    strict = settings_of(
        service={"verify_https_client_certificate": True},
        tls={"ca_cert": "/etc/rekeyd/client-ca.pem"},
        judge={"crl_incomplete": "refuse"},
    )
    assert with_lists(CLIENTS.crl(), CLIENTS.pem + OTHERS.pem, settings=strict).refused


def test_an_older_list_put_back_is_told() -> None:
    old, new = (CLIENTS.crl(this_update=NOW - days * DAY) for days in (3, 2))

    assert rules_broken(with_lists(old, current=serving(new))) == {"crl_backwards": Severity.WARN}
    assert rules_broken(with_lists(new, current=serving(old))) == {}


@pytest.mark.parametrize("setting", ["warn", "refuse", "allow"])
def test_an_expired_authority_is_told_as_the_setting_says(setting: str) -> None:
    old = Authority("client CA", not_before=NOW - 9 * DAY, not_after=NOW - DAY)
    settings = settings_of(
        service={"verify_https_client_certificate": True},
        tls={"ca_cert": "/etc/rekeyd/client-ca.pem"},
        judge={"client_ca_expired": setting},
    )
    served = generation_of(LEAF, settings=settings, anchors=read_anchors(old.pem))

    found = rules_broken(verdict_on(LEAF, settings=settings, anchors=read_anchors(old.pem)))

    assert found == ({} if setting == "allow" else {"client_ca_expired": Severity(setting)})
    assert not verdict_on(LEAF, settings=settings, anchors=read_anchors(old.pem), current=served).refused


def test_a_list_that_could_not_be_read_is_told_once() -> None:
    fault = Finding("empty", Severity.REFUSE, Part.CLIENT_CRL, "the file is empty")
    candidate = candidate_of(LEAF, settings=VERIFYING, anchors=read_anchors(CLIENTS.pem), faults=(fault,))

    assert judge(candidate, None, NOW).findings == (fault,)
