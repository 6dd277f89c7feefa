"""PEM bytes to certificates and keys: `Material` (what we present) and `Anchors` (whom we believe).

The rule: what is read here is what is served. `Material.chain_pem` is encoded again from the very DER that
was read, and `key_pem` is the one private key block that was used, so that a second parser (OpenSSL) can't
find another certificate in the same file than the one that was judged.

Every fault raises `MaterialError` with a reason code, what is wrong and what to do; nothing else is raised. A
private key appears in no message and in no repr. Must not know: the disk (where bytes came from is passed
in, to be told), the clock, or what is acceptable (`judge.py`).
"""

import datetime as dt
import hashlib
from dataclasses import dataclass, field
from functools import lru_cache

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, NameOID

from rekeyd.formats.pem import MaterialError, armoured, blocks, nothing_found, unarmoured
from rekeyd.trust.private_keys import read_private_key

_CERTIFICATE_LABELS = frozenset({b"CERTIFICATE", b"X509 CERTIFICATE"})
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}

# All that the parsers of `cryptography` raise on bytes that are not what they should be.
_PARSER_ERRORS = (
    ValueError,
    TypeError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)


@dataclass(frozen=True, slots=True)
class Certificate:
    """One X.509 certificate, as far as rekeyd needs to know it.

    Times are aware and in UTC (RFC 5280, 4.1.2.5). `key` is said as people say it: `ECDSA P-256`, `RSA 2048`,
    `Ed25519`; `signature_hash` is None where the algorithm brings its own. `public_key` is the DER of the
    SubjectPublicKeyInfo.
    """

    der: bytes = field(repr=False)
    serial: int
    subject: str
    issuer: str
    common_name: str | None
    dns_names: tuple[str, ...]
    ip_addresses: tuple[str, ...]
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    public_key: bytes = field(repr=False)
    not_before: dt.datetime
    not_after: dt.datetime
    key: str
    rsa_bits: int | None
    signature_hash: str | None
    is_ca: bool
    publishes_issuer: bool
    purposes: frozenset[str] | None = None
    """The OIDs of its extended key usage (RFC 5280, 4.2.1.12); None where it may be used for anything."""

    @classmethod
    def from_der(cls, der: bytes) -> "Certificate":
        """Raises `MaterialError` (`unparsable`)."""
        try:
            return _describe(x509.load_der_x509_certificate(der), der)
        except _PARSER_ERRORS as error:
            raise MaterialError(
                "certificate",
                "unparsable",
                "a PEM block is well formed but what it holds is not a certificate that can be read",
                "Look at it with `openssl x509 -noout -text -in FILE` and get it anew from its issuer",
            ) from error

    @property
    def sha256(self) -> str:
        """The fingerprint: SHA-256 of the DER, lower-case hex without colons."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def serial_hex(self) -> str:
        """The serial as `openssl x509 -serial` prints it: upper-case hex, two digits a byte."""
        digits = f"{abs(self.serial):X}"
        return ("-" if self.serial < 0 else "") + "0" * (len(digits) % 2) + digits

    @property
    def kind(self) -> str:
        """The kind of its key, of which a server can have one each: `ECDSA`, `RSA`, `Ed25519`, …"""
        return self.key.partition(" ")[0]

    @property
    def names(self) -> tuple[str, ...]:
        """What a client may call it: DNS names, then IP addresses; the common name where there is neither."""
        names = self.dns_names + self.ip_addresses
        return names or ((self.common_name,) if self.common_name else ())

    def is_issued_by(self, other: "Certificate") -> bool:
        """Whether `other` is the issuer by name and its key made the signature, where that can be checked."""
        return self.issuer == other.subject and _is_signed_by(self.der, other.der)


@lru_cache(maxsize=8192)
def _is_signed_by(der: bytes, issuer: bytes) -> bool:
    """Remembered, for the same thousand chains may be looked at again with every reload."""
    try:
        ours, theirs = (x509.load_der_x509_certificate(each) for each in (der, issuer))
        ours.verify_directly_issued_by(theirs)
    except InvalidSignature:
        return False
    except _PARSER_ERRORS:
        return True  # an algorithm that can't be checked here says nothing against it
    return True


@dataclass(frozen=True, slots=True)
class Origin:
    """Where material was read: the files' names, to be told, and the mode bits of the key's file."""

    certificate: str = ""
    key: str = ""
    key_mode: int | None = None


@dataclass(frozen=True, slots=True)
class Material:
    """A certificate chain, leaf first, and the private key of its leaf; whence they came is no part of it."""

    chain: tuple[Certificate, ...]
    chain_pem: bytes = field(repr=False)
    key_pem: bytes = field(repr=False)
    origin: Origin = field(default=Origin(), compare=False)

    @property
    def leaf(self) -> Certificate:
        return self.chain[0]


@dataclass(frozen=True, slots=True)
class Anchors:
    """Certificates under which others are believed: the client CA file."""

    certificates: tuple[Certificate, ...]
    pem: bytes = field(repr=False)

    @property
    def der(self) -> bytes:
        """All of them, concatenated, as `SSLContext.load_verify_locations(cadata=…)` takes them."""
        return b"".join(certificate.der for certificate in self.certificates)


def read_chain(pem: bytes) -> tuple[Certificate, ...]:
    """Every certificate in the order of the file; at least one. Raises `MaterialError`."""
    ders = [unarmoured(body) for label, body in blocks(pem, "certificate") if label in _CERTIFICATE_LABELS]
    if not ders:
        raise nothing_found(pem, "certificate")
    return tuple(Certificate.from_der(der) for der in ders)


def read_material(
    chain_pem: bytes, key_pem: bytes, passphrase: bytes | None = None, *, origin: Origin = Origin()
) -> Material:
    """The chain and its key, which belong together; `passphrase` is for an encrypted key.

    Raises `MaterialError`.
    """
    chain = read_chain(chain_pem)
    key = read_private_key(key_pem, passphrase)
    if chain[0].public_key != key.public:
        raise _mismatch(chain, key.public)
    return Material(chain, armoured(c.der for c in chain), key.pem, origin)


def read_anchors(pem: bytes) -> Anchors:
    """The certificates of a CA file, whatever they are. Raises `MaterialError`."""
    certificates = read_chain(pem)
    return Anchors(certificates, armoured(c.der for c in certificates))


def _mismatch(chain: tuple[Certificate, ...], public: bytes) -> MaterialError:
    for place, certificate in enumerate(chain[1:], start=2):
        if certificate.public_key == public:
            return MaterialError(
                "certificate",
                "leaf_not_first",
                f"the certificate that belongs to the key is number {place} of {len(chain)} in the file",
                "Put the server's own certificate first, then the intermediates in order",
            )
    return MaterialError(
        "key",
        "key_mismatch",
        f"the private key does not belong to the certificate with serial {chain[0].serial_hex}",
        "Both must be of one issue; if they were just replaced, one of them is still the old one",
    )


def _describe(parsed: x509.Certificate, der: bytes) -> Certificate:
    alternatives = _alternative_names(parsed)
    public = parsed.public_key()
    return Certificate(
        der=der,
        serial=parsed.serial_number,
        subject=parsed.subject.rfc4514_string(),
        issuer=parsed.issuer.rfc4514_string(),
        common_name=_common_name(parsed),
        dns_names=_texts(alternatives, x509.DNSName),
        ip_addresses=_texts(alternatives, x509.IPAddress),
        uris=_texts(alternatives, x509.UniformResourceIdentifier),
        emails=_texts(alternatives, x509.RFC822Name),
        public_key=public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        not_before=parsed.not_valid_before_utc,
        not_after=parsed.not_valid_after_utc,
        key=_key_description(public),
        rsa_bits=public.key_size if isinstance(public, rsa.RSAPublicKey) else None,
        signature_hash=_signature_hash(parsed),
        is_ca=_is_ca(parsed),
        publishes_issuer=_publishes_issuer(parsed),
        purposes=_purposes(parsed),
    )


def _alternative_names(parsed: x509.Certificate) -> x509.SubjectAlternativeName | None:
    try:
        return parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None


_Named = type[x509.DNSName | x509.IPAddress | x509.UniformResourceIdentifier | x509.RFC822Name]


def _texts(alternatives: x509.SubjectAlternativeName | None, kind: _Named) -> tuple[str, ...]:
    return tuple(map(str, alternatives.get_values_for_type(kind))) if alternatives else ()


def _common_name(parsed: x509.Certificate) -> str | None:
    for attribute in parsed.subject.get_attributes_for_oid(NameOID.COMMON_NAME):
        return str(attribute.value)
    return None


def _key_description(public: object) -> str:
    if isinstance(public, rsa.RSAPublicKey):
        return f"RSA {public.key_size}"
    if isinstance(public, ec.EllipticCurvePublicKey):
        return f"ECDSA {_CURVES.get(public.curve.name, public.curve.name)}"
    return type(public).__name__.removesuffix("PublicKey").lstrip("_")


def _signature_hash(parsed: x509.Certificate) -> str | None:
    try:
        algorithm = parsed.signature_hash_algorithm
    except UnsupportedAlgorithm:
        return None
    return algorithm.name if algorithm else None


def _is_ca(parsed: x509.Certificate) -> bool:
    """RFC 5280, 4.2.1.9; a self-signed certificate of version 1 has no way to say it and counts as one."""
    try:
        return parsed.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return parsed.version is x509.Version.v1 and parsed.issuer == parsed.subject


def _publishes_issuer(parsed: x509.Certificate) -> bool:
    """Whether it says where its issuer is to be had (RFC 5280, 4.2.2.1): then there is one to send along."""
    try:
        access = parsed.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except x509.ExtensionNotFound:
        return False
    return any(entry.access_method == AuthorityInformationAccessOID.CA_ISSUERS for entry in access)


def _purposes(parsed: x509.Certificate) -> frozenset[str] | None:
    try:
        usages = parsed.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    return frozenset(usage.dotted_string for usage in usages)
