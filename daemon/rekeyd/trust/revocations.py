"""Lists of revoked certificates (CRLs, RFC 5280, 5): bytes to values.

The rule: as with certificates, what is read here is what OpenSSL gets, encoded again from the DER that was
read. PEM may hold several lists, DER is one. Must not know: files, the clock, or what is acceptable
(`judge.py`); who checks clients against the lists is OpenSSL.
"""

import datetime as dt
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_der_public_key

from rekeyd.formats.pem import MaterialError, armoured, blocks, nothing_found, unarmoured
from rekeyd.trust.certificates import Anchors, Certificate

Revoked = tuple[str, int]
"""Issuer, as `Certificate.issuer` has it, and serial number: what names a certificate (RFC 5280, 4.1.2.2)."""

_LABEL = b"X509 CRL"
_DER_SEQUENCE = b"\x30"
_PARSER_ERRORS = (ValueError, TypeError, UnsupportedAlgorithm, x509.DuplicateExtension, x509.InvalidVersion)
_UNDERSTOOD = frozenset(
    {
        x509.CRLNumber.oid,
        x509.AuthorityKeyIdentifier.oid,
        x509.AuthorityInformationAccess.oid,
        x509.IssuingDistributionPoint.oid,
        x509.FreshestCRL.oid,
    }
)


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One CRL. Times are aware and in UTC; `next_update` is None where it promises no successor.

    `unsupported` says what is in it that OpenSSL won't go by, so that it would refuse every client.
    """

    der: bytes = field(repr=False)
    issuer: str
    this_update: dt.datetime
    next_update: dt.datetime | None
    serials: frozenset[int] = field(repr=False)
    unsupported: str | None = None

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.der).hexdigest()

    def is_signed_by(self, authority: Certificate) -> bool:
        """Whether `authority` is the issuer by name and its key made the signature."""
        if self.issuer != authority.subject:
            return False
        try:
            key = load_der_public_key(authority.public_key)
            return x509.load_der_x509_crl(self.der).is_signature_valid(key)  # type: ignore[arg-type]
        except _PARSER_ERRORS:
            return False


@dataclass(frozen=True, slots=True)
class Revocations:
    """All lists of a CRL file."""

    lists: tuple[RevocationList, ...]
    pem: bytes = field(repr=False)

    def entries(self) -> Iterator[Revoked]:
        """Every certificate that is revoked."""
        return ((each.issuer, serial) for each in self.lists for serial in each.serials)

    def holds(self, issuer: str, serial: int) -> bool:
        """Whether the certificate that `issuer` gave this number is revoked."""
        return any(each.issuer == issuer and serial in each.serials for each in self.lists)


def read_revocations(source: bytes) -> Revocations:
    """The lists in the bytes of a CRL file, in PEM or DER; at least one. Raises `MaterialError`."""
    if source.startswith(_DER_SEQUENCE):
        ders = [source]
    else:
        ders = [unarmoured(body, "crl") for label, body in blocks(source, "crl") if label == _LABEL]
    if not ders:
        raise nothing_found(source, "crl")
    return Revocations(tuple(map(_list_of, ders)), armoured(ders, _LABEL))


def covers_all(revocations: Revocations, anchors: Anchors) -> bool:
    """Whether each authority has a list of its own, so that chains can be checked as a whole."""
    return not without_list(revocations, anchors)


def without_list(revocations: Revocations, anchors: Anchors) -> tuple[Certificate, ...]:
    """The authorities that have no list; OpenSSL refuses the clients of such a one."""
    issuers = {each.issuer for each in revocations.lists}
    return tuple(c for c in anchors.certificates if c.is_ca and c.subject not in issuers)


def _list_of(der: bytes) -> RevocationList:
    try:
        parsed = x509.load_der_x509_crl(der)
        return RevocationList(
            der=der,
            issuer=parsed.issuer.rfc4514_string(),
            this_update=parsed.last_update_utc,
            next_update=parsed.next_update_utc,
            serials=frozenset(entry.serial_number for entry in parsed),
            unsupported=_unsupported(parsed),
        )
    except _PARSER_ERRORS as error:
        raise MaterialError(
            "crl",
            "unparsable",
            "what it holds is not a certificate revocation list that can be read",
            "Look at it with `openssl crl -noout -text -in FILE` and get it anew from its issuer",
        ) from error


def _unsupported(parsed: x509.CertificateRevocationList) -> str | None:
    """Delta lists, lists for only some reasons, and lists for the certificates of others (RFC 5280, 5.2)."""
    for extension in parsed.extensions:
        if extension.oid == x509.DeltaCRLIndicator.oid:
            return "it is a delta list, which says only what changed since another"
        point = extension.value
        if isinstance(point, x509.IssuingDistributionPoint):
            if point.indirect_crl:
                return "it lists certificates of other issuers (an indirect list)"
            if point.only_some_reasons:
                return "it lists certificates that were revoked for some reasons only"
            if point.only_contains_ca_certs or point.only_contains_attribute_certs:
                return "it does not list certificates of clients"
        elif extension.critical and extension.oid not in _UNDERSTOOD:
            return f"it has a critical extension that is not understood ({extension.oid.dotted_string})"
    return None
