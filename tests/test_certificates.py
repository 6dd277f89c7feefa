"""Certificates and keys as bytes: what is understood, and how every fault is told."""

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import x25519
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.formats.pem import MaterialError
from rekeyd.trust.certificates import Origin, read_anchors, read_chain, read_material
from support.pki import Authority, KeyKind, make_key, pem_of

CA = Authority()
LEAF = CA.intermediate().issue(
    "localhost", "127.0.0.1", "spiffe://example.org/rekeyd", "ops@example.org", serial=0x0A1B
)


def fault(chain: bytes, key: bytes) -> MaterialError:
    with pytest.raises(MaterialError) as caught:
        read_material(chain, key)
    return caught.value


def test_a_chain_is_read_leaf_first_with_all_that_is_to_be_known() -> None:
    material = read_material(LEAF.chain_pem, LEAF.key_pem)

    leaf = material.leaf
    assert [c.subject for c in material.chain] == ["CN=localhost", "CN=rekeyd test intermediate"]
    assert (leaf.serial, leaf.serial_hex, leaf.sha256) == (0x0A1B, "0A1B", LEAF.fingerprint)
    assert leaf.names == ("localhost", "127.0.0.1")
    assert leaf.uris == ("spiffe://example.org/rekeyd",)
    assert leaf.emails == ("ops@example.org",)
    assert leaf.not_after == LEAF.certificate.not_valid_after_utc
    assert leaf.not_after.tzinfo is not None
    assert (leaf.key, leaf.signature_hash, leaf.is_ca) == ("ECDSA P-256", "sha256", False)
    assert leaf.is_issued_by(material.chain[1])
    assert not material.chain[1].is_issued_by(leaf)


@pytest.mark.parametrize("serial", [1, 0x7F, 0x80, 0xABC, 2**158 + 5])
def test_a_serial_is_written_as_openssl_writes_it(serial: int, tmp_path: Path) -> None:
    leaf = CA.issue(serial=serial)
    file = tmp_path / "leaf.pem"
    file.write_bytes(leaf.cert_pem)

    command = ["openssl", "x509", "-noout", "-serial", "-in", str(file)]
    told = subprocess.run(command, check=True, capture_output=True, text=True).stdout

    assert told.strip() == f"serial={read_chain(leaf.cert_pem)[0].serial_hex}"


@pytest.mark.parametrize(
    ("kind", "words"),
    [("p256", "ECDSA P-256"), ("p384", "ECDSA P-384"), ("rsa2048", "RSA 2048"), ("ed25519", "Ed25519")],
)
def test_a_key_is_named_as_people_name_it(kind: KeyKind, words: str) -> None:
    leaf = CA.issue(key=kind)

    read = read_material(leaf.chain_pem, leaf.key_pem).leaf
    assert read.key == words
    assert read.kind == words.split(maxsplit=1)[0]


def test_an_ed25519_signature_has_no_hash_of_its_own() -> None:
    assert read_chain(Authority(key="ed25519").issue().cert_pem)[0].signature_hash is None


def test_without_alternative_names_the_common_name_counts() -> None:
    [root] = read_chain(CA.pem)

    assert root.names == ("rekeyd test CA",)


def test_a_name_alone_does_not_make_an_issuer() -> None:
    [impostor] = read_chain(Authority("rekeyd test CA").pem)
    [leaf] = read_chain(CA.issue().cert_pem)

    assert leaf.issuer == impostor.subject
    assert not leaf.is_issued_by(impostor)


def test_certificate_and_key_may_share_a_file() -> None:
    both = LEAF.key_pem + LEAF.chain_pem

    assert read_material(both, both) == read_material(LEAF.chain_pem, LEAF.key_pem)


def test_a_traditional_key_after_its_parameters_is_read() -> None:
    parameters = b"-----BEGIN EC PARAMETERS-----\nBggqhkjOPQMBBw==\n-----END EC PARAMETERS-----\n"

    material = read_material(LEAF.chain_pem, parameters + LEAF.traditional_key_pem)

    assert material.key_pem == LEAF.traditional_key_pem


def test_an_encrypted_key_is_served_decrypted() -> None:
    material = read_material(LEAF.chain_pem, LEAF.encrypted_key_pem(b"open sesame"), b"open sesame")

    assert material == read_material(LEAF.chain_pem, LEAF.key_pem)


def test_where_material_was_read_is_told_and_is_no_part_of_it() -> None:
    origin = Origin("/etc/tls.crt", "/etc/tls.key", 0o640)

    material = read_material(LEAF.chain_pem, LEAF.key_pem, origin=origin)

    assert material.origin == origin
    assert material == read_material(LEAF.chain_pem, LEAF.key_pem)


def test_what_is_served_holds_nothing_but_what_was_read() -> None:
    material = read_material(b"Bag Attributes\n" + LEAF.chain_pem, b"# mine\n" + LEAF.key_pem)

    assert material.chain_pem == LEAF.chain_pem
    assert material.key_pem == LEAF.key_pem


@pytest.mark.parametrize(
    ("chain", "key", "source", "reason"),
    [
        (b"", LEAF.key_pem, "certificate", "empty"),
        (b" \n", LEAF.key_pem, "certificate", "empty"),
        (LEAF.chain_pem, b"", "key", "empty"),
        (b"hello", LEAF.key_pem, "certificate", "no_pem_block"),
        (LEAF.der, LEAF.key_pem, "certificate", "no_pem_block"),
        (LEAF.key_pem, LEAF.key_pem, "certificate", "no_pem_block"),
        (LEAF.chain_pem, LEAF.chain_pem, "key", "no_pem_block"),
        (LEAF.chain_pem[:-40], LEAF.key_pem, "certificate", "truncated_pem"),
        (LEAF.chain_pem, LEAF.key_pem[:-40], "key", "truncated_pem"),
        (LEAF.chain_pem.replace(b"MII", b"M*I", 1), LEAF.key_pem, "certificate", "garbage"),
        (LEAF.chain_pem.replace(b"MII", b"AII", 1), LEAF.key_pem, "certificate", "unparsable"),
        (LEAF.chain_pem, LEAF.key_pem.replace(b"MIG", b"AIG", 1), "key", "unparsable"),
        (LEAF.chain_pem, LEAF.encrypted_key_pem(), "key", "key_encrypted"),
        (LEAF.chain_pem, LEAF.encrypted_key_pem(traditional=True), "key", "key_encrypted"),
        (LEAF.chain_pem, CA.issue().key_pem, "key", "key_mismatch"),
        (pem_of([*LEAF.intermediates, LEAF.certificate]), LEAF.key_pem, "certificate", "leaf_not_first"),
    ],
)
def test_a_fault_is_told_with_its_reason_and_a_remedy(
    chain: bytes, key: bytes, source: str, reason: str
) -> None:
    error = fault(chain, key)

    assert (error.source, error.reason) == (source, reason)
    assert error.message
    assert error.fix


def test_der_is_recognised_and_the_command_that_converts_it_is_told() -> None:
    assert "openssl x509 -inform DER" in fault(LEAF.der, LEAF.key_pem).fix


def test_a_key_that_tls_does_not_use_is_told() -> None:
    pem = x25519.X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )

    assert fault(LEAF.chain_pem, pem).reason == "key_unsupported"


def test_a_leaf_that_is_not_first_is_told_by_its_place() -> None:
    error = fault(pem_of([*LEAF.intermediates, LEAF.certificate]), LEAF.key_pem)

    assert "number 2 of 2" in error.message


def test_no_private_key_is_in_a_repr_or_a_message() -> None:
    body = LEAF.key_pem.splitlines()[1].decode()

    material = read_material(LEAF.chain_pem, LEAF.key_pem)
    broken = fault(LEAF.chain_pem, LEAF.key_pem.replace(b"MIG", b"AIG", 1))

    assert body not in repr(material)
    assert body not in repr(broken) + str(broken)
    assert broken.__cause__ is None


def test_anchors_are_all_certificates_of_the_file() -> None:
    other = Authority("another CA")

    anchors = read_anchors(CA.pem + other.pem)

    assert [c.subject for c in anchors.certificates] == ["CN=rekeyd test CA", "CN=another CA"]
    assert anchors.pem == CA.pem + other.pem
    assert all(c.is_ca for c in anchors.certificates)
    assert anchors.der == b"".join(
        x509.load_pem_x509_certificate(a.pem).public_bytes(DER) for a in (CA, other)
    )


DER = serialization.Encoding.DER
_PEM_LIKE = st.one_of(
    st.binary(max_size=2000),
    st.builds(
        lambda label, body: b"-----BEGIN %b-----\n%b\n-----END %b-----\n" % (label, body, label),
        st.sampled_from([b"CERTIFICATE", b"PRIVATE KEY", b"EC PRIVATE KEY", b"RSA PRIVATE KEY"]),
        st.one_of(st.binary(max_size=300), st.from_regex(rb"([A-Za-z0-9+/]{4}){0,80}", fullmatch=True)),
    ),
)


@st.composite
def _damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """The real thing with one byte changed, removed or put in."""
    at = draw(st.integers(0, len(whole) - 1))
    cut = draw(st.integers(0, 1))
    return whole[:at] + draw(st.binary(max_size=2)) + whole[at + cut :]


@pytest.mark.filterwarnings("ignore")  # `cryptography` warns of certificates that are only nearly right
@settings(max_examples=300, deadline=None)
@given(st.one_of(_PEM_LIKE, _damaged(LEAF.chain_pem)), st.one_of(_PEM_LIKE, _damaged(LEAF.key_pem)))
def test_arbitrary_bytes_are_material_or_a_material_error(chain: bytes, key: bytes) -> None:
    for pair in ((chain, LEAF.key_pem), (LEAF.chain_pem, key), (chain, key)):
        try:
            material = read_material(*pair)
        except MaterialError as error:
            assert error.fix  # noqa: PT017 - either outcome is right
        else:
            assert material.chain


@pytest.mark.filterwarnings("ignore")  # as above
@settings(max_examples=100, deadline=None)
@given(st.one_of(_PEM_LIKE, _damaged(CA.pem)))
def test_arbitrary_bytes_are_anchors_or_a_material_error(pem: bytes) -> None:
    try:
        anchors = read_anchors(pem)
    except MaterialError as error:
        assert error.source == "certificate"  # noqa: PT017 - either outcome is right
    else:
        assert anchors.certificates


def test_a_key_of_another_kind_does_not_match() -> None:
    other = CA.issue(key=make_key("rsa2048"))

    assert fault(LEAF.chain_pem, other.key_pem).reason == "key_mismatch"
