"""Contexts: a real handshake shows the judged certificate, and what must be refused is."""

import gc
import hashlib
import ssl
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rekeyd.reload.contexts import ContextError, ProbeError, build, probe, serving_of
from rekeyd.trust.certificates import Material, read_anchors
from rekeyd.trust.generation import Generation
from support.generations import candidate_of, settings_of
from support.pki import Authority, KeyKind, Leaf

CA = Authority()
CLIENTS = Authority("client CA")
LEAF = CA.intermediate().issue()


def generation(leaf: Leaf = LEAF, **sections: Any) -> Generation:
    settings = settings_of(**sections)
    anchors = read_anchors(CLIENTS.pem) if settings.service.verify_https_client_certificate else None
    return candidate_of(leaf, settings=settings, anchors=anchors).generation(1)


def context_of(leaf: Leaf = LEAF, **sections: Any) -> ssl.SSLContext:
    context = build(generation(leaf, **sections))
    assert context is not None
    return context


def verifying(mode: bool | str) -> dict[str, Any]:
    return {
        "service": {"verify_https_client_certificate": mode},
        "tls": {"ca_cert": "/etc/rekeyd/client-ca.pem"},
    }


def client_context(
    tmp_path: Path, certificate: Leaf | None = None, authority: Authority = CA
) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=authority.pem.decode())
    if certificate:
        context.load_cert_chain(*certificate.write(tmp_path / "client"))
    return context


def shake_hands(
    server: ssl.SSLContext, client: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a finished handshake in which one byte was told each way, or the error of either."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname="localhost", session=session)
    pending: list[Callable[[], object]] = [
        theirs.do_handshake,
        ours.do_handshake,
        lambda: ours.write(b"x"),
        lambda: theirs.read(1),
    ]
    for _ in range(10):
        still = []
        for step in pending:
            try:
                step()
            except ssl.SSLWantReadError:
                still.append(step)
        pending = still
        if not pending:
            return ours, theirs
    raise AssertionError("the handshake does not end")


def test_a_client_that_trusts_the_ca_is_shown_the_judged_certificate(tmp_path: Path) -> None:
    _, theirs = shake_hands(context_of(), client_context(tmp_path))

    assert hashlib.sha256(theirs.getpeercert(binary_form=True) or b"").hexdigest() == LEAF.fingerprint
    assert theirs.version() == "TLSv1.3"


@pytest.mark.parametrize("kind", ["p256", "p384", "rsa2048", "ed25519"])
def test_every_kind_of_key_serves_and_passes_the_probe(kind: KeyKind, tmp_path: Path) -> None:
    leaf = CA.issue(key=kind)

    serving = serving_of(generation(leaf))

    assert serving.tls is not None
    assert shake_hands(serving.tls, client_context(tmp_path))[1].version() == "TLSv1.3"


def test_with_tls_off_there_is_no_context() -> None:
    assert serving_of(generation(service={"enable_tls": False})).tls is None


def test_nothing_is_read_from_a_path_that_the_settings_name() -> None:
    settings = settings_of(tls={"cert": "/nowhere/tls.crt", "key": "/nowhere/tls.key"})

    assert build(candidate_of(LEAF, settings=settings).generation(1)) is not None


def test_tls_1_2_is_spoken_with_forward_secrecy_and_aead_only(tmp_path: Path) -> None:
    client = client_context(tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers("ALL")

    context = context_of()

    cipher = shake_hands(context, client)[1].cipher()
    assert cipher is not None
    old = [c["name"] for c in context.get_ciphers() if c["protocol"] != "TLSv1.3"]
    assert cipher[0] in old
    assert all(name.startswith("ECDHE-") and ("GCM" in name or "CHACHA20" in name) for name in old)


def test_tls_1_1_is_refused(tmp_path: Path) -> None:
    client = client_context(tmp_path)
    client.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        client.minimum_version = client.maximum_version = ssl.TLSVersion.TLSv1_1

    with pytest.raises(ssl.SSLError, match=r"UNSUPPORTED_PROTOCOL|unsupported protocol"):
        shake_hands(context_of(), client)


def test_a_minimum_of_1_3_refuses_1_2(tmp_path: Path) -> None:
    client = client_context(tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2

    with pytest.raises(ssl.SSLError, match=r"UNSUPPORTED_PROTOCOL|unsupported protocol"):
        shake_hands(context_of(tls={"min_version": "1.3"}), client)


def test_alpn_offers_http_1_1_and_nothing_else(tmp_path: Path) -> None:
    client = client_context(tmp_path)
    client.set_alpn_protocols(["h2", "http/1.1"])

    assert shake_hands(context_of(), client)[1].selected_alpn_protocol() == "http/1.1"


def test_compression_and_renegotiation_are_off() -> None:
    options = context_of().options

    assert options & ssl.OP_NO_COMPRESSION
    assert options & ssl.OP_NO_RENEGOTIATION


def test_the_operators_ciphers_are_used_in_the_operators_order(tmp_path: Path) -> None:
    wanted = "ECDHE-ECDSA-AES256-GCM-SHA384:ECDHE-ECDSA-AES128-GCM-SHA256"
    client = client_context(tmp_path)
    client.maximum_version = ssl.TLSVersion.TLSv1_2
    client.set_ciphers(":".join(wanted.split(":")[::-1]))

    cipher = shake_hands(context_of(tls={"ciphers": wanted}), client)[1].cipher()

    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-AES256-GCM-SHA384"


def test_ciphers_that_do_not_exist_are_told() -> None:
    with pytest.raises(ContextError, match=r"tls\.ciphers"):
        build(generation(tls={"ciphers": "NO-SUCH-CIPHER"}))


def test_a_required_client_certificate_is_required(tmp_path: Path) -> None:
    context = context_of(**verifying(True))
    known = CLIENTS.issue("client", client=True)

    ours, _ = shake_hands(context, client_context(tmp_path, known))
    assert ours.getpeercert(binary_form=True) == known.der
    for stranger in (None, Authority("stranger").issue("client", client=True)):
        with pytest.raises(ssl.SSLError):
            shake_hands(context, client_context(tmp_path, stranger))


def test_an_optional_client_certificate_may_be_absent_but_not_false(tmp_path: Path) -> None:
    context = context_of(**verifying("optional"))

    ours, _ = shake_hands(context, client_context(tmp_path))
    assert ours.getpeercert(binary_form=True) is None
    with pytest.raises(ssl.SSLError):
        shake_hands(context, client_context(tmp_path, Authority("stranger").issue("client", client=True)))


@pytest.mark.parametrize("min_version", ["1.2", "1.3"])
@pytest.mark.parametrize("mode", [False, "optional", True])
def test_the_probe_copes_with_client_certificates(mode: bool | str, min_version: str) -> None:
    sections = verifying(mode) if mode else {}
    sections["tls"] = {**sections.get("tls", {}), "min_version": min_version}

    assert serving_of(generation(**sections)).tls is not None


def test_verification_without_anchors_is_never_built() -> None:
    without = candidate_of(LEAF, settings=settings_of(**verifying(True))).generation(1)

    with pytest.raises(ContextError, match="no CA"):
        build(without)


def test_the_probe_tells_another_certificate() -> None:
    with pytest.raises(ProbeError, match=LEAF.fingerprint):
        probe(context_of(CA.issue()), generation())


def test_the_probe_tells_a_context_that_cannot_serve() -> None:
    empty = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)

    with pytest.raises(ProbeError, match="a handshake with itself fails"):
        probe(empty, generation())


def test_a_pair_that_does_not_match_is_told_without_its_key() -> None:
    sound = generation().server
    assert sound is not None
    other = CA.issue()
    torn = replace(generation(), server=Material(sound.chain, sound.chain_pem, other.key_pem))

    with pytest.raises(ContextError, match="KEY_VALUES_MISMATCH") as caught:
        build(torn)
    assert other.key_pem.splitlines()[1].decode() not in str(caught.value) + repr(caught.value)


@pytest.mark.timeout(10)
def test_openssl_never_asks_for_a_passphrase() -> None:
    sound = generation().server
    assert sound is not None
    locked = replace(generation(), server=Material(sound.chain, sound.chain_pem, LEAF.encrypted_key_pem()))

    with pytest.raises(ContextError):
        build(locked)


def test_a_session_never_crosses_to_the_next_generation(tmp_path: Path) -> None:
    client = client_context(tmp_path)
    old, new = context_of(), context_of()
    session = shake_hands(old, client)[1].session

    assert shake_hands(old, client, session)[1].session_reused
    assert not shake_hands(new, client, session)[1].session_reused


def test_two_hundred_contexts_leak_no_descriptor() -> None:
    serving_of(generation())
    before = len(list(Path("/proc/self/fd").iterdir()))

    for number in range(200):
        serving_of(generation(**(verifying(True) if number % 2 else {})))
    gc.collect()

    assert len(list(Path("/proc/self/fd").iterdir())) == before
