"""PEM bytes to the private key of a certificate.

The rule: what comes out is one unencrypted PEM block, which is handed to OpenSSL and to nobody else. Whether
the numbers of an RSA key belong together is not checked here, for that takes a tenth of a second: the
handshake that each generation makes with itself fails if they don't.

Every fault raises `MaterialError`. Neither a key nor a passphrase is in any message, cause or repr. Must not
know: files, certificates.
"""

from dataclasses import dataclass, field

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from rekeyd.formats.pem import MaterialError, blocks, nothing_found

_ENCRYPTED_LABEL = b"ENCRYPTED PRIVATE KEY"
_ENCRYPTED_HEADER = b"4,ENCRYPTED"  # of "Proc-Type: 4,ENCRYPTED" (RFC 1421, 4.6.1.1)
_KINDS = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey


@dataclass(frozen=True, slots=True)
class PrivateKey:
    """A key as OpenSSL is to load it, and the public half as DER (SubjectPublicKeyInfo)."""

    pem: bytes = field(repr=False)
    public: bytes = field(repr=False)


def read_private_key(pem: bytes, passphrase: bytes | None = None) -> PrivateKey:
    """The first private key of the file, as OpenSSL takes it; others (`EC PARAMETERS`, …) are passed over.

    `passphrase` is for a key that is encrypted, and not looked at for one that is not.

    Raises:
        MaterialError: `empty`, `no_pem_block`, `truncated_pem`, `unparsable`, `key_unsupported`,
            `key_encrypted` (there is no passphrase), `passphrase_wrong`.
    """
    label, body = next(((label, body) for label, body in blocks(pem, "key") if _is_key(label)), (b"", b""))
    if not label:
        raise nothing_found(pem, "key")
    block = b"-----BEGIN %b-----%b-----END %b-----\n" % (label, body, label)
    if label == _ENCRYPTED_LABEL or _ENCRYPTED_HEADER in body:
        return _decrypted(block, passphrase)
    return PrivateKey(block, _public_half(_parsed(block)))


def passphrase_in(content: bytes) -> bytes:
    """The passphrase in the bytes of a file: all of them but the line end that editors add."""
    return content.removesuffix(b"\n").removesuffix(b"\r")


def _is_key(label: bytes) -> bool:
    return label.endswith(b"PRIVATE KEY")


def _parsed(block: bytes) -> object:
    try:
        return load_pem_private_key(block, password=None, unsafe_skip_rsa_key_validation=True)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        # Without `from`: what a parser says about a private key belongs in no log.
        raise MaterialError(
            "key",
            "unparsable",
            "the private key can't be read",
            "Look at it with `openssl pkey -noout -in FILE`; if that fails too, issue a new pair",
        ) from None


def _decrypted(block: bytes, passphrase: bytes | None) -> PrivateKey:
    if not passphrase:
        raise MaterialError(
            "key",
            "key_encrypted",
            "the private key is encrypted, and there is no passphrase for it",
            "Name a file with the passphrase in tls.key_passphrase_file, or decrypt the key with "
            "`openssl pkey -in FILE -out NEWFILE`",
        )
    key = _opened(block, passphrase)
    public = _public_half(key)
    if not isinstance(key, _KINDS):
        raise TypeError("a key with a public half of a known kind is of that kind")
    return PrivateKey(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), public)


def _opened(block: bytes, passphrase: bytes) -> object:
    try:
        return load_pem_private_key(block, password=passphrase, unsafe_skip_rsa_key_validation=True)
    except UnsupportedAlgorithm:
        raise MaterialError(
            "key",
            "key_unsupported",
            "the private key is encrypted in a way that can't be read here",
            "Encrypt it anew with `openssl pkcs8 -topk8 -v2 aes256 -in FILE -out NEWFILE`",
        ) from None
    except (ValueError, TypeError):
        raise MaterialError(
            "key",
            "passphrase_wrong",
            "the passphrase does not open the private key",
            "Put the passphrase of this key there; if both were just replaced, one may still be the old one",
        ) from None


def _public_half(key: object) -> bytes:
    if not isinstance(key, _KINDS):
        raise MaterialError(
            "key",
            "key_unsupported",
            "the private key is of a kind that TLS servers don't use",
            "Use an ECDSA, Ed25519 or RSA key",
        )
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
