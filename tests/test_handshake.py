"""A handshake in memory: what a context shows, and why it doesn't."""

import hashlib
import ssl
from pathlib import Path

import pytest

from rekeyd.reload.handshake import HandshakeError, Looker, UnbelievedError, fingerprints_shown_between
from support.pki import DAY, Authority, Leaf, now

CA = Authority()


def server(tmp_path: Path, *leaves: Leaf) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    for number, leaf in enumerate(leaves):
        context.load_cert_chain(*leaf.write(tmp_path / str(number)))
    return context


def test_the_leaf_is_seen_without_being_believed(tmp_path: Path) -> None:
    leaf = CA.issue(not_before=now() - 9 * DAY, not_after=now() - DAY)

    assert Looker().fingerprint_shown_by(server(tmp_path, leaf)) == hashlib.sha256(leaf.der).hexdigest()


def test_a_name_is_asked_for(tmp_path: Path) -> None:
    asked = []
    context = server(tmp_path, CA.issue())
    context.sni_callback = lambda _connection, name, _context: asked.append(name)

    looker = Looker()
    looker.fingerprint_shown_by(context)
    looker.fingerprint_shown_by(context, "a.example.org")

    assert asked == [None, "a.example.org"]


def test_ciphers_choose_the_kind_of_key(tmp_path: Path) -> None:
    ecdsa, rsa = CA.issue(), CA.issue(key="rsa2048")
    context = server(tmp_path, rsa, ecdsa)

    assert Looker("ECDHE-RSA-AES128-GCM-SHA256").fingerprint_shown_by(context) == rsa.fingerprint
    assert Looker("ECDHE-ECDSA-AES128-GCM-SHA256").fingerprint_shown_by(context) == ecdsa.fingerprint


def test_where_a_client_certificate_is_required_the_leaf_is_seen_all_the_same(tmp_path: Path) -> None:
    leaf = CA.issue()
    context = server(tmp_path, leaf)
    context.load_verify_locations(cadata=CA.pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED

    assert Looker().fingerprint_shown_by(context) == leaf.fingerprint


def test_a_failure_is_told_with_openssls_reason() -> None:
    with pytest.raises(HandshakeError, match=r"HANDSHAKE_FAILURE|NO_SHARED_CIPHER|NO_SUITABLE"):
        Looker().fingerprint_shown_by(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


def mutual(folder: Path, leaf: Leaf, authority: Authority) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    contexts = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    for context in contexts:
        context.check_hostname = False
        context.load_cert_chain(*leaf.write(folder))
        context.load_verify_locations(cadata=authority.pem.decode())
        context.verify_mode = ssl.CERT_REQUIRED
    return contexts


def test_both_sides_are_seen(tmp_path: Path) -> None:
    leaf = CA.issue(peer=True)
    assert fingerprints_shown_between(*mutual(tmp_path, leaf, CA)) == (leaf.fingerprint, leaf.fingerprint)


def test_disbelief_is_told_from_other_failures(tmp_path: Path) -> None:
    with pytest.raises(UnbelievedError):
        fingerprints_shown_between(*mutual(tmp_path, CA.issue(peer=True), Authority("another CA")))
    old, new = mutual(tmp_path, CA.issue(peer=True), CA)
    old.maximum_version, new.minimum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3
    with pytest.raises(HandshakeError) as failed:
        fingerprints_shown_between(old, new)
    assert not isinstance(failed.value, UnbelievedError)
