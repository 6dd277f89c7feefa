"""Private keys: plain and encrypted, and that neither they nor their passphrases are ever told."""

import subprocess

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

from rekeyd.formats.pem import MaterialError
from rekeyd.trust.private_keys import passphrase_in, read_private_key
from support.pki import Authority, KeyKind

CA = Authority()
LEAF = CA.issue()
PASSPHRASE = b"open sesame"


def fault(pem: bytes, passphrase: bytes | None = None) -> MaterialError:
    with pytest.raises(MaterialError) as caught:
        read_private_key(pem, passphrase)
    assert caught.value.source == "key"
    assert caught.value.fix
    return caught.value


def public_half(pem: bytes) -> bytes:
    key = load_pem_private_key(pem, password=None)
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
def test_a_plain_key_stays_as_it_is_written(kind: KeyKind) -> None:
    leaf = CA.issue(key=kind)

    key = read_private_key(leaf.key_pem)

    assert (key.pem, key.public) == (leaf.key_pem, public_half(leaf.key_pem))


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("kind", ["p256", "rsa2048"])
def test_an_encrypted_key_is_opened_with_its_passphrase(kind: KeyKind, *, traditional: bool) -> None:
    leaf = CA.issue(key=kind)
    encrypted = leaf.encrypted_key_pem(PASSPHRASE, traditional=traditional)
    assert (b"Proc-Type: 4,ENCRYPTED" in encrypted) is traditional

    key = read_private_key(encrypted, PASSPHRASE)

    assert key.public == public_half(leaf.key_pem)
    assert public_half(key.pem) == key.public
    assert b"ENCRYPTED" not in key.pem


@pytest.mark.parametrize("cipher", ["-aes256", "-des3"])
def test_a_key_that_openssl_encrypted_in_the_old_way_is_opened(cipher: str) -> None:
    command = ["openssl", "ec", cipher, "-passout", f"pass:{PASSPHRASE.decode()}"]
    encrypted = subprocess.run(command, input=LEAF.key_pem, check=True, capture_output=True).stdout
    assert b"Proc-Type: 4,ENCRYPTED" in encrypted

    assert read_private_key(encrypted, PASSPHRASE).public == public_half(LEAF.key_pem)


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("passphrase", [None, b""])
def test_an_encrypted_key_without_a_passphrase_is_told(
    passphrase: bytes | None, *, traditional: bool
) -> None:
    error = fault(LEAF.encrypted_key_pem(PASSPHRASE, traditional=traditional), passphrase)

    assert error.reason == "key_encrypted"
    assert "tls.key_passphrase_file" in error.fix


@pytest.mark.parametrize("traditional", [False, True])
@pytest.mark.parametrize("wrong", [b"open sesam", b"open sesame\n", b"\xff\x00", b"x" * 5000])
def test_a_wrong_passphrase_is_told_without_either(wrong: bytes, *, traditional: bool) -> None:
    error = fault(LEAF.encrypted_key_pem(PASSPHRASE, traditional=traditional), wrong)

    assert error.reason == "passphrase_wrong"
    for secret in (PASSPHRASE, wrong, LEAF.key_pem.splitlines()[1]):
        assert secret not in repr(error).encode() + str(error).encode()
    assert error.__cause__ is None
    assert error.__suppress_context__


def test_a_passphrase_for_a_plain_key_is_not_looked_at() -> None:
    assert read_private_key(LEAF.key_pem, PASSPHRASE) == read_private_key(LEAF.key_pem)


def test_no_key_is_in_a_repr() -> None:
    assert LEAF.key_pem.splitlines()[1].decode() not in repr(read_private_key(LEAF.key_pem))


@pytest.mark.parametrize(
    ("content", "passphrase"),
    [
        (b"secret", b"secret"),
        (b"secret\n", b"secret"),
        (b"secret\r\n", b"secret"),
        (b" secret \n\n", b" secret \n"),
        (b"", b""),
    ],
)
def test_one_line_end_is_no_part_of_a_passphrase(content: bytes, passphrase: bytes) -> None:
    assert passphrase_in(content) == passphrase
