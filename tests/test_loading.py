"""Judged bytes into a context, and what OpenSSL has against them."""

import ssl
from dataclasses import replace
from pathlib import Path

import pytest

from rekeyd.reload.loading import ContextError, distrust, load, trust
from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.revocations import read_revocations
from support.generations import material_of
from support.pki import Authority

CA = Authority()


def context() -> ssl.SSLContext:
    return ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)


def open_memory() -> list[str]:
    links = (str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink())
    return [link for link in links if "memfd:rekeyd" in link]


def test_what_is_loaded_lies_open_nowhere() -> None:
    load(context(), material_of(CA.issue()))
    assert open_memory() == []


def test_a_key_of_another_certificate_is_not_taken() -> None:
    mixed = replace(material_of(CA.issue()), key_pem=CA.issue().key_pem)
    with pytest.raises(ContextError, match=r"won't take the certificate and its key \(KEY_VALUES_MISMATCH\)"):
        load(context(), mixed)
    assert open_memory() == []


def test_an_encrypted_key_does_not_ask_the_terminal() -> None:
    leaf = CA.issue()
    encrypted = replace(material_of(leaf), key_pem=leaf.encrypted_key_pem())
    with pytest.raises(ContextError, match="won't take"):
        load(context(), encrypted)


def test_trust_is_in_what_is_given_and_nothing_else() -> None:
    believing = context()
    trust(believing, read_anchors(CA.pem))
    assert [each["serialNumber"] for each in believing.get_ca_certs()] == [
        f"{CA.certificate.serial_number:X}".zfill(len(f"{CA.certificate.serial_number:X}") // 2 * 2)
    ] or len(believing.get_ca_certs()) == 1
    with pytest.raises(ContextError, match="there is no CA"):
        trust(context(), None)


def test_lists_of_all_authorities_check_whole_chains() -> None:
    other = Authority("another CA")
    for anchors, flag in (
        (CA.pem, ssl.VERIFY_CRL_CHECK_CHAIN),
        (CA.pem + other.pem, ssl.VERIFY_CRL_CHECK_LEAF),
    ):
        distrusting = context()
        distrust(distrusting, read_revocations(CA.crl()), read_anchors(anchors))
        assert distrusting.verify_flags & ssl.VERIFY_CRL_CHECK_CHAIN == flag
