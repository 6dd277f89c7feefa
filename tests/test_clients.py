"""Clients: who somebody is by a certificate, who is let in, and who may stay."""

import base64
import hashlib
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from rekeyd.formats.pem import MaterialError
from rekeyd.settings import parse_client_pattern
from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.clients import ClientIdentity, is_allowed, is_revoked, objection
from rekeyd.trust.generation import Generation
from rekeyd.trust.revocations import read_revocations
from support.generations import candidate_of, settings_of
from support.pki import Authority

CA = Authority("client CA")
SERVER = Authority().issue()
CLIENT = CA.issue(
    "Worker.example.org",
    "spiffe://example.org/ns/prod/sa/worker",
    "Ops@Example.org",
    common_name="worker one",
    client=True,
)
IDENTITY = ClientIdentity.of_der(CLIENT.der)


def allowed(*patterns: str, identity: ClientIdentity = IDENTITY) -> bool:
    return is_allowed(identity, tuple(map(parse_client_pattern, patterns)))


def generation(
    number: int = 1, *, mode: bool | str = True, anchors: bytes = CA.pem, crl: bytes | None = None, **tls: Any
) -> Generation:
    settings = settings_of(
        service={"verify_https_client_certificate": mode}, tls={"ca_cert": "/etc/rekeyd/ca.pem", **tls}
    )
    return candidate_of(
        SERVER,
        settings=settings,
        anchors=read_anchors(anchors),
        revocations=read_revocations(crl) if crl else None,
    ).generation(number)


def test_an_identity_is_all_the_names_of_a_certificate() -> None:
    assert (IDENTITY.cn, IDENTITY.dns, IDENTITY.uris, IDENTITY.emails) == (
        "worker one",
        ("Worker.example.org",),
        ("spiffe://example.org/ns/prod/sa/worker",),
        ("Ops@Example.org",),
    )
    assert (IDENTITY.serial, IDENTITY.fingerprint) == (CLIENT.serial, CLIENT.fingerprint)
    assert IDENTITY.issuer == "CN=client CA"


def test_a_pin_is_what_openssl_makes_of_the_public_key(tmp_path: Path) -> None:
    public = tmp_path / "public.der"
    public.write_bytes(
        CLIENT.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    )
    command = ["openssl", "dgst", "-sha256", "-binary", str(public)]
    digest = subprocess.run(command, check=True, capture_output=True).stdout

    assert allowed(f"spki:sha256/{base64.b64encode(digest).decode()}")
    assert not allowed(f"spki:sha256/{base64.b64encode(hashlib.sha256(b'').digest()).decode()}")


def test_without_a_list_everybody_is_allowed() -> None:
    assert allowed()


@pytest.mark.parametrize(
    "pattern",
    [
        "cn:worker one",
        "dns:worker.example.org",
        "dns:*.example.org",
        "uri:spiffe://example.org/ns/prod/sa/worker",
        "uri:spiffe://example.org/ns/prod/*",
        "uri:spiffe://example.org/*",
        "email:Ops@example.ORG",
    ],
)
def test_one_match_is_enough(pattern: str) -> None:
    assert allowed(pattern)
    assert allowed("cn:somebody else", pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        "cn:Worker one",
        "cn:worker",
        "cn:Worker.example.org",
        "dns:example.org",
        "dns:*.worker.example.org",
        "dns:*.org",
        "dns:orker.example.org",
        "uri:spiffe://example.org/ns/prod/sa/Worker",
        "uri:spiffe://example.org/ns/prod/sa/worker/*",
        "uri:spiffe://example.org/ns/pro/*",
        "uri:spiffe://example.org.evil/*",
        "email:ops@example.org",
        "email:Ops@mail.example.org",
    ],
)
def test_what_is_nearly_so_is_not(pattern: str) -> None:
    assert not allowed(pattern)


@pytest.mark.parametrize(
    "uri", ["spiffe://t/a/../admin", "spiffe://t/a/./b", "spiffe://t/a//b", "spiffe://t/a/", "spiffe://t/a"]
)
def test_a_path_that_could_mean_another_one_matches_no_star(uri: str) -> None:
    identity = ClientIdentity.of_der(CA.issue(uri, client=True).der)

    assert identity.uris == (uri,)
    assert not allowed("uri:spiffe://t/a/*", identity=identity)


def test_a_certificate_for_a_wildcard_is_not_each_of_its_names() -> None:
    identity = ClientIdentity.of_der(CA.issue("*.example.org", client=True).der)

    assert not allowed("dns:*.example.org", "dns:a.example.org", identity=identity)


def test_the_identity_in_the_log_is_one_visible_word_or_two() -> None:
    assert str(IDENTITY) == "uri:spiffe://example.org/ns/prod/sa/worker"
    assert str(ClientIdentity.of_der(CA.issue("a.example.org", client=True).der)) == "dns:a.example.org"
    assert (
        str(ClientIdentity.of_der(CA.issue("10.0.0.1", common_name="ü\n", client=True).der)) == r"cn:\xfc\n"
    )


def test_what_is_no_certificate_is_nobody() -> None:
    with pytest.raises(MaterialError):
        ClientIdentity.of_der(CLIENT.der[:-9])


def test_a_revoked_certificate_is_one_of_its_own_issuers() -> None:
    assert is_revoked(IDENTITY, read_revocations(CA.crl(CLIENT)))
    assert not is_revoked(IDENTITY, read_revocations(CA.crl(5)))
    assert not is_revoked(IDENTITY, read_revocations(Authority("another").crl(CLIENT)))
    assert not is_revoked(IDENTITY, None)


def test_where_nobody_is_asked_nobody_is_objected_to() -> None:
    assert objection(generation(mode=False, crl=CA.crl(CLIENT)), CLIENT.der) is None
    assert objection(generation(mode=False), None) is None


def test_no_certificate_is_an_objection_only_where_one_is_required() -> None:
    assert objection(generation(mode="optional"), None) is None
    assert "required" in (objection(generation(mode=True), None) or "")


def test_who_was_verified_just_now_is_judged_by_list_and_revocation_alone() -> None:
    assert objection(generation(), CLIENT.der) is None
    assert "revoked" in (objection(generation(crl=CA.crl(CLIENT)), CLIENT.der) or "")
    assert "allowed_clients" in (objection(generation(allowed_clients=["cn:other"]), CLIENT.der) or "")
    assert "can't be read" in (objection(generation(), b"no certificate") or "")


def test_who_rests_on_an_authority_that_is_gone_has_no_place_any_more() -> None:
    other = Authority("another CA")
    before = generation(anchors=CA.pem + other.pem)

    assert objection(generation(2, anchors=other.pem + CA.pem), CLIENT.der, before) is None
    assert objection(generation(2, anchors=CA.pem), CLIENT.der, before) is None
    assert "not believed" in (objection(generation(2, anchors=other.pem), CLIENT.der, before) or "")


def test_an_intermediate_alone_vouches_for_nobody() -> None:
    """As OpenSSL has it, which wants a root at the end of a chain."""
    middle = CA.intermediate("middle")
    client = middle.issue("client", client=True)
    before = generation(anchors=CA.pem + middle.pem)

    assert objection(before, client.der, before) is None
    assert "not believed" in (objection(generation(2, anchors=middle.pem), client.der, before) or "")


def test_who_brought_an_intermediate_stays_as_long_as_no_authority_is_lost() -> None:
    other = Authority("another CA")
    client = CA.intermediate("middle").issue("client", client=True)
    before = generation(anchors=CA.pem)

    assert objection(generation(2, anchors=CA.pem + other.pem), client.der, before) is None
    assert objection(generation(2, anchors=other.pem), client.der, before) is not None
