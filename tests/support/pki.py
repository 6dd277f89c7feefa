"""Certificates to measure, made for one test and gone with it.

An `Authority` signs leaves, intermediates and client certificates with any validity, names, key, serial and
hash, good or bad; a `Leaf` knows its PEM forms and writes them as a careful tool would (`write`: a temporary
file and a rename). `write_in_place` and `write_torn` write as careless ones do.

    ca = Authority()
    leaf = ca.issue("localhost", "127.0.0.1")
    cert, key = leaf.write(tmp_path)
"""

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
KeyKind = Literal["p256", "p384", "rsa1024", "rsa2048", "rsa3072", "ed25519"]
HashName = Literal["sha256", "sha384", "sha1", "md5"]

DAY = dt.timedelta(days=1)

_RSA_OID = bytes.fromhex("2a864886f70d0101")  # + one byte: 04 md5, 05 sha1, 0b sha256
_WEAK: dict[str, tuple[bytes, hashes.HashAlgorithm]] = {
    "sha1": (b"\x05", hashes.SHA1()),  # noqa: S303 - made to be refused
    "md5": (b"\x04", hashes.MD5()),  # noqa: S303 - made to be refused
}


def now() -> dt.datetime:
    """The present moment in whole seconds, which is as fine as a certificate can tell."""
    return dt.datetime.now(dt.UTC).replace(microsecond=0)


def make_key(kind: KeyKind = "p256") -> PrivateKey:
    if kind == "p256":
        return ec.generate_private_key(ec.SECP256R1())
    if kind == "p384":
        return ec.generate_private_key(ec.SECP384R1())
    if kind == "ed25519":
        return ed25519.Ed25519PrivateKey.generate()
    return rsa.generate_private_key(65537, int(kind.removeprefix("rsa")))


def pem_of(certificates: Sequence[x509.Certificate]) -> bytes:
    return b"".join(c.public_bytes(serialization.Encoding.PEM) for c in certificates)


def replace_file(path: Path, data: bytes) -> Path:
    """As a careful tool writes: a temporary file beside it, then a rename over it."""
    temporary = path.with_name(f".{path.name}.new")
    temporary.write_bytes(data)
    temporary.replace(path)
    return path


def write_in_place(path: Path, data: bytes) -> Path:
    """As `cp` and `>` write: the same inode, truncated and filled again."""
    with path.open("wb") as file:
        file.write(data)
    return path


def write_torn(path: Path, data: bytes, *, keep: float = 0.5) -> Path:
    """As a crash in the middle leaves it: only the first part of the bytes, in place."""
    return write_in_place(path, data[: int(len(data) * keep)])


@dataclass(frozen=True)
class Leaf:
    """A certificate, its private key and the intermediates that lead to the root."""

    certificate: x509.Certificate
    private_key: PrivateKey = field(repr=False)
    intermediates: tuple[x509.Certificate, ...] = ()

    @property
    def serial(self) -> int:
        return self.certificate.serial_number

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the DER, lower-case hex."""
        return hashlib.sha256(self.der).hexdigest()

    @property
    def cert_pem(self) -> bytes:
        """The leaf alone."""
        return pem_of([self.certificate])

    @property
    def chain_pem(self) -> bytes:
        """The leaf and its intermediates, as `tls.cert` wants them."""
        return pem_of([self.certificate, *self.intermediates])

    @property
    def key_pem(self) -> bytes:
        """PKCS #8."""
        return self._key_bytes(serialization.PrivateFormat.PKCS8)

    @property
    def traditional_key_pem(self) -> bytes:
        """`EC PRIVATE KEY` or `RSA PRIVATE KEY`."""
        return self._key_bytes(serialization.PrivateFormat.TraditionalOpenSSL)

    def encrypted_key_pem(self, passphrase: bytes = b"open sesame", *, traditional: bool = False) -> bytes:
        form = (
            serialization.PrivateFormat.TraditionalOpenSSL
            if traditional
            else serialization.PrivateFormat.PKCS8
        )
        return self._key_bytes(form, serialization.BestAvailableEncryption(passphrase))

    def _key_bytes(
        self,
        form: serialization.PrivateFormat,
        encryption: serialization.KeySerializationEncryption | None = None,
    ) -> bytes:
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, form, encryption or serialization.NoEncryption()
        )

    def write(self, directory: Path, *, cert: str = "tls.crt", key: str = "tls.key") -> tuple[Path, Path]:
        """Certificate chain and key, each atomically, the key readable by its owner only."""
        directory.mkdir(parents=True, exist_ok=True)
        key_file = replace_file(directory / key, self.key_pem)
        key_file.chmod(0o600)
        return replace_file(directory / cert, self.chain_pem), key_file


class Authority:
    """A certificate authority: a root, or with `parent` an intermediate."""

    def __init__(
        self,
        name: str = "rekeyd test CA",
        *,
        parent: "Authority | None" = None,
        key: KeyKind = "p256",
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        serial: int | None = None,
    ) -> None:
        self.name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
        self.parent = parent
        self.private_key = make_key(key)
        builder = self._builder(self.name, self.private_key, not_before or now() - DAY, not_after, serial)
        builder = builder.issuer_name(parent.name if parent else self.name).add_extension(
            x509.BasicConstraints(ca=True, path_length=None), critical=True
        )
        builder = builder.add_extension(_CA_USAGE, critical=True)
        self.certificate = _sign(builder, parent.private_key if parent else self.private_key, "sha256")

    @property
    def pem(self) -> bytes:
        """This authority's own certificate: a root for `--cacert` and `tls.ca_cert`."""
        return pem_of([self.certificate])

    @property
    def root(self) -> "Authority":
        return self.parent.root if self.parent else self

    @property
    def chain(self) -> tuple[x509.Certificate, ...]:
        """What a server sends after its leaf: this and the authorities above it, without the root."""
        return (self.certificate, *self.parent.chain) if self.parent else ()

    def intermediate(self, name: str = "rekeyd test intermediate", *, key: KeyKind = "p256") -> "Authority":
        return Authority(name, parent=self, key=key)

    def write(self, path: Path) -> Path:
        return replace_file(path, self.pem)

    def issue(  # noqa: PLR0913 - each is named at the call
        self,
        *names: str,
        common_name: str | None = None,
        key: KeyKind | PrivateKey = "p256",
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        serial: int | None = None,
        signature_hash: HashName = "sha256",
        client: bool = False,
        peer: bool = False,
    ) -> Leaf:
        """A leaf for these names, addresses and URIs; by default `localhost` and `127.0.0.1`, for 90 days.

        `key` is a kind or an existing key; `peer`: for a server and a client both. SHA-1 and MD5 signatures
        need an authority with an RSA key.
        """
        names = names or ("localhost", "127.0.0.1")
        private_key = make_key(key) if isinstance(key, str) else key
        subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name or names[0])])
        builder = self._builder(subject, private_key, not_before or now() - DAY, not_after, serial)
        builder = builder.issuer_name(self.name)
        builder = builder.add_extension(
            x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False
        )
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        purposes = [ExtendedKeyUsageOID.CLIENT_AUTH if client else ExtendedKeyUsageOID.SERVER_AUTH]
        if peer:
            purposes = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        builder = builder.add_extension(x509.ExtendedKeyUsage(purposes), critical=False)
        return Leaf(_sign(builder, self.private_key, signature_hash), private_key, self.chain)

    def crl(
        self,
        *revoked: Leaf | int,
        this_update: dt.datetime | None = None,
        next_update: dt.datetime | None = None,
        extensions: Sequence[x509.ExtensionType] = (),
        signed_by: PrivateKey | None = None,
    ) -> bytes:
        """A list of revoked certificates (or serial numbers) as PEM, good from yesterday and for a week.

        `extensions` are critical; `signed_by` is another key than this authority's.
        """
        began = this_update or now() - DAY
        builder = x509.CertificateRevocationListBuilder().issuer_name(self.name).last_update(began)
        builder = builder.next_update(next_update or max(now(), began) + 7 * DAY)
        for each in revoked:
            serial = each if isinstance(each, int) else each.serial
            entry = x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(began).build()
            builder = builder.add_revoked_certificate(entry)
        for extension in extensions:
            builder = builder.add_extension(extension, critical=True)
        key = signed_by or self.private_key
        hash_name = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
        return builder.sign(key, hash_name).public_bytes(serialization.Encoding.PEM)

    def _builder(
        self,
        subject: x509.Name,
        key: PrivateKey,
        not_before: dt.datetime,
        not_after: dt.datetime | None,
        serial: int | None,
    ) -> x509.CertificateBuilder:
        own = self.private_key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number() if serial is None else serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after or max(now(), not_before) + 90 * DAY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    self.parent.private_key.public_key() if self.parent and key is self.private_key else own
                ),
                critical=False,
            )
        )


_CA_USAGE = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _general_name(name: str) -> x509.GeneralName:
    if "://" in name:
        return x509.UniformResourceIdentifier(name)
    if "@" in name:
        return x509.RFC822Name(name)
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _sign(builder: x509.CertificateBuilder, key: PrivateKey, hash_name: HashName) -> x509.Certificate:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return builder.sign(key, None)
    if hash_name in _WEAK:
        if not isinstance(key, rsa.RSAPrivateKey):
            raise TypeError("a weak signature needs an authority with an RSA key")
        return _sign_weakly(builder.sign(key, hashes.SHA256()), key, hash_name)
    return builder.sign(key, hashes.SHA384() if hash_name == "sha384" else hashes.SHA256())


def _sign_weakly(strong: x509.Certificate, key: rsa.RSAPrivateKey, hash_name: str) -> x509.Certificate:
    """The same certificate under SHA-1 or MD5, which `cryptography` won't sign: the OIDs have one length."""
    last, algorithm = _WEAK[hash_name]
    old, new = _RSA_OID + b"\x0b", _RSA_OID + last
    signed_part = strong.tbs_certificate_bytes
    weak_part = signed_part.replace(old, new)
    signature = key.sign(weak_part, padding.PKCS1v15(), algorithm)
    der = strong.public_bytes(serialization.Encoding.DER)
    der = der.replace(signed_part, weak_part).replace(old, new)
    return x509.load_der_x509_certificate(der[: -len(signature)] + signature)
