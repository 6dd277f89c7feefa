"""Shrinkage: what trust was taken away, and what only changed its form."""

from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes

from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Generation
from rekeyd.trust.revocations import read_revocations
from rekeyd.trust.shrinkage import Shrinkage, shrinkage
from support.generations import candidate_of, settings_of
from support.pki import Authority, pem_of

CA, OTHER = Authority("client CA"), Authority("another CA")
SERVER = Authority().issue()


def generation(
    *,
    anchors: bytes | None = None,
    crl: bytes | None = None,
    mode: bool | str = False,
    **tls: Any,
) -> Generation:
    settings = settings_of(
        service={"verify_https_client_certificate": mode}, tls={"ca_cert": "/etc/rekeyd/ca.pem", **tls}
    )
    return candidate_of(
        SERVER,
        settings=settings,
        anchors=read_anchors(anchors) if anchors else None,
        revocations=read_revocations(crl) if crl else None,
    ).generation(1)


def test_nothing_is_taken_away_by_what_is_added_or_stays() -> None:
    old = generation(anchors=CA.pem, crl=CA.crl(1))
    new = generation(anchors=OTHER.pem + CA.pem, crl=CA.crl(1))

    assert shrinkage(old, new) == Shrinkage()
    assert not shrinkage(old, new)


def test_an_authority_is_lost_by_its_fingerprint() -> None:
    [gone] = read_anchors(CA.pem).certificates

    taken = shrinkage(generation(anchors=CA.pem + OTHER.pem), generation(anchors=OTHER.pem))

    assert taken.authorities == {gone.sha256}
    assert shrinkage(generation(anchors=CA.pem), generation()).authorities == {gone.sha256}


def test_an_authority_that_renewed_its_certificate_is_not_lost() -> None:
    builder = x509.CertificateBuilder().subject_name(CA.name).issuer_name(CA.name)
    builder = builder.public_key(CA.private_key.public_key()).serial_number(99)
    builder = builder.not_valid_before(CA.certificate.not_valid_before_utc)
    builder = builder.not_valid_after(CA.certificate.not_valid_after_utc)
    renewed = pem_of([builder.sign(CA.private_key, hashes.SHA256())])

    assert renewed != CA.pem
    assert shrinkage(generation(anchors=CA.pem), generation(anchors=renewed)).authorities == frozenset()


def test_what_is_newly_revoked_is_named_by_issuer_and_serial() -> None:
    old = generation(anchors=CA.pem, crl=CA.crl(1))

    assert shrinkage(old, generation(anchors=CA.pem, crl=CA.crl(1, 2))).revoked == {("CN=client CA", 2)}
    assert shrinkage(generation(anchors=CA.pem), old).revoked == {("CN=client CA", 1)}
    assert shrinkage(old, generation(anchors=CA.pem)).revoked == frozenset()


@pytest.mark.parametrize(
    ("before", "after", "narrowed"),
    [
        (False, "optional", True),
        (False, True, True),
        ("optional", True, True),
        (True, "optional", False),
        (True, False, False),
        (True, True, False),
    ],
)
def test_asking_for_more_narrows(before: bool | str, after: bool | str, *, narrowed: bool) -> None:
    old, new = (generation(mode=mode, anchors=CA.pem) for mode in (before, after))

    assert shrinkage(old, new).narrowed is narrowed


@pytest.mark.parametrize(
    ("before", "after", "narrowed"),
    [
        ([], ["cn:a"], True),
        (["cn:a", "cn:b"], ["cn:b"], True),
        (["cn:a"], ["cn:b"], True),
        (["cn:a"], ["cn:b", "cn:a"], False),
        (["cn:a"], [], False),
    ],
)
def test_a_shorter_list_of_clients_narrows(before: list[str], after: list[str], *, narrowed: bool) -> None:
    old, new = (generation(mode=True, anchors=CA.pem, allowed_clients=each) for each in (before, after))

    assert shrinkage(old, new).narrowed is narrowed
