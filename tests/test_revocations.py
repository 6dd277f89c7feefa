"""Revocation lists: read from PEM and DER, and every fault told."""

import datetime as dt

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.formats.pem import MaterialError
from rekeyd.trust.certificates import read_anchors, read_chain
from rekeyd.trust.revocations import covers_all, read_revocations, without_list
from support.pki import DAY, Authority, KeyKind, make_key, now

CA = Authority("client CA")
OTHER = Authority("another CA")
GONE = CA.issue("gone", client=True)


def der(pem: bytes) -> bytes:
    return x509.load_pem_x509_crl(pem).public_bytes(Encoding.DER)


def test_a_list_says_who_made_it_when_and_what_is_revoked() -> None:
    began = now() - DAY

    [found] = read_revocations(CA.crl(GONE, 7, this_update=began, next_update=began + 9 * DAY)).lists

    assert (found.issuer, found.this_update, found.next_update) == ("CN=client CA", began, began + 9 * DAY)
    assert found.this_update.tzinfo is dt.UTC or found.this_update.utcoffset() == dt.timedelta(0)
    assert found.serials == {GONE.serial, 7}
    assert found.unsupported is None


def test_several_lists_of_one_file_are_all_read_and_kept_byte_for_byte() -> None:
    pem = CA.crl(1, 2) + b"# the other\n" + OTHER.crl(3)

    revocations = read_revocations(pem)

    assert set(revocations.entries()) == {("CN=client CA", 1), ("CN=client CA", 2), ("CN=another CA", 3)}
    assert revocations.holds("CN=client CA", 2)
    assert not revocations.holds("CN=client CA", 3)
    assert read_revocations(revocations.pem) == revocations


def test_a_list_may_come_as_der() -> None:
    pem = CA.crl(1)

    assert read_revocations(der(pem)).lists == read_revocations(pem).lists


def test_a_list_that_revokes_nobody_is_a_list() -> None:
    [found] = read_revocations(CA.crl()).lists

    assert found.serials == frozenset()


@pytest.mark.parametrize("kind", ["p256", "rsa2048", "ed25519"])
def test_a_signature_is_the_authoritys_or_it_is_not(kind: KeyKind) -> None:
    authority = Authority("client CA", key=kind)
    [certificate] = read_chain(authority.pem)
    [impostor] = read_chain(Authority("client CA", key=kind).pem)

    [found] = read_revocations(authority.crl(1)).lists
    [forged] = read_revocations(authority.crl(1, signed_by=make_key(kind))).lists

    assert found.is_signed_by(certificate)
    assert not found.is_signed_by(impostor)
    assert not found.is_signed_by(read_chain(OTHER.pem)[0])
    assert not forged.is_signed_by(certificate)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"hello", "no_pem_block"),
        (CA.pem, "no_pem_block"),
        (CA.crl(1)[:-30], "truncated_pem"),
        (CA.crl(1).replace(b"\nMI", b"\nM*", 1), "garbage"),
        (CA.crl(1).replace(b"\nMI", b"\nAI", 1), "unparsable"),
        (der(CA.crl(1))[:-5], "unparsable"),
        (CA.issue().der, "unparsable"),
    ],
)
def test_a_fault_is_told_with_its_reason_and_a_remedy(source: bytes, reason: str) -> None:
    with pytest.raises(MaterialError) as caught:
        read_revocations(source)

    assert (caught.value.source, caught.value.reason) == ("crl", reason)
    assert caught.value.fix


def test_a_list_that_speaks_only_of_a_part_is_not_supported() -> None:
    def point(**only: object) -> x509.IssuingDistributionPoint:
        said = dict.fromkeys(("full_name", "relative_name", "only_some_reasons"), None) | dict.fromkeys(
            (
                "only_contains_user_certs",
                "only_contains_ca_certs",
                "indirect_crl",
                "only_contains_attribute_certs",
            ),
            False,
        )
        return x509.IssuingDistributionPoint(**(said | only))  # type: ignore[arg-type]

    def unsupported(extension: x509.ExtensionType) -> str | None:
        return read_revocations(CA.crl(1, extensions=[extension])).lists[0].unsupported

    assert "delta" in (unsupported(x509.DeltaCRLIndicator(1)) or "")
    assert "other issuers" in (unsupported(point(indirect_crl=True)) or "")
    assert "reasons" in (unsupported(point(only_some_reasons=frozenset([x509.ReasonFlags.superseded]))) or "")
    assert "clients" in (unsupported(point(only_contains_ca_certs=True)) or "")
    assert unsupported(point(only_contains_user_certs=True)) is None
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    assert "1.2.3.4" in (unsupported(unknown) or "")


def test_authorities_without_a_list_are_found() -> None:
    anchors = read_anchors(CA.pem + OTHER.pem)

    assert not covers_all(read_revocations(CA.crl()), anchors)
    assert [c.subject for c in without_list(read_revocations(CA.crl()), anchors)] == ["CN=another CA"]
    assert covers_all(read_revocations(CA.crl() + OTHER.crl()), anchors)


CA_DER = der(CA.crl(1, 2))


@st.composite
def _damaged(draw: st.DrawFn) -> bytes:
    """A real list with one byte changed, removed or put in."""
    at = draw(st.integers(0, len(CA_DER) - 1))
    return CA_DER[:at] + draw(st.binary(max_size=2)) + CA_DER[at + draw(st.integers(0, 1)) :]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=400) | _damaged())
def test_arbitrary_bytes_are_lists_or_a_material_error(source: bytes) -> None:
    try:
        revocations = read_revocations(source)
    except MaterialError as error:
        assert error.source == "crl"  # noqa: PT017 - either outcome is right
    else:
        assert revocations.lists
