"""Contexts: a real handshake shows the judged certificate, and what must be refused is."""

import gc
import hashlib
import ssl
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa

from rekeyd.reload.contexts import ContextError, ProbeError, build, probe, serving_of
from rekeyd.trust.certificates import Material, read_anchors
from rekeyd.trust.generation import Generation
from rekeyd.trust.revocations import read_revocations
from support.generations import candidate_of, settings_of
from support.pki import Authority, KeyKind, Leaf

CA = Authority()
CLIENTS = Authority("client CA")
LEAF = CA.intermediate().issue()


def generation(
    *leaves: Leaf, anchors: bytes = CLIENTS.pem, crl: bytes | None = None, **sections: Any
) -> Generation:
    settings = settings_of(**sections)
    verifies = bool(settings.service.verify_https_client_certificate)
    return candidate_of(
        *(leaves or (LEAF,)),
        settings=settings,
        anchors=read_anchors(anchors) if verifies else None,
        revocations=read_revocations(crl) if crl else None,
    ).generation(1)


def context_of(*leaves: Leaf, **properties: Any) -> ssl.SSLContext:
    context = build(generation(*leaves, **properties))
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
    server: ssl.SSLContext,
    client: ssl.SSLContext,
    session: ssl.SSLSession | None = None,
    name: str | None = "localhost",
) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    """Both ends of a finished handshake in which one byte was told each way, or the error of either."""
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = server.wrap_bio(up, down, server_side=True)
    theirs = client.wrap_bio(down, up, server_hostname=name, session=session)
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
    sound = generation().default
    assert sound is not None
    other = CA.issue()
    torn = replace(generation(), certificates=(Material(sound.chain, sound.chain_pem, other.key_pem),))

    with pytest.raises(ContextError, match="KEY_VALUES_MISMATCH") as caught:
        build(torn)
    assert other.key_pem.splitlines()[1].decode() not in str(caught.value) + repr(caught.value)


@pytest.mark.timeout(10)
def test_openssl_never_asks_for_a_passphrase() -> None:
    sound = generation().default
    assert sound is not None
    locked = replace(
        generation(), certificates=(Material(sound.chain, sound.chain_pem, LEAF.encrypted_key_pem()),)
    )

    with pytest.raises(ContextError):
        build(locked)


def test_a_session_never_crosses_to_the_next_generation(tmp_path: Path) -> None:
    client = client_context(tmp_path)
    old, new = context_of(), context_of()
    session = shake_hands(old, client)[1].session

    assert shake_hands(old, client, session)[1].session_reused
    assert not shake_hands(new, client, session)[1].session_reused


BOTH_VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.mark.parametrize("version", BOTH_VERSIONS)
@pytest.mark.parametrize("name", ["localhost", "second.example"])
@pytest.mark.parametrize("mode", [False, "optional", True])
def test_within_a_generation_sessions_resume_and_say_who_the_client_is(
    tmp_path: Path, version: ssl.TLSVersion, name: str, mode: bool | str
) -> None:
    """By the default context, by one that SNI switched to, and with a client certificate."""
    own = CLIENTS.issue("client", client=True) if mode else None
    context = context_of(LEAF, CA.issue("second.example"), **(verifying(mode) if mode else {}))
    client = client_context(tmp_path, own)
    client.maximum_version = version

    session = shake_hands(context, client, name=name)[1].session
    ours, theirs = shake_hands(context, client, session, name=name)

    assert theirs.session_reused
    assert ours.getpeercert(binary_form=True) == (own.der if own else None)
    assert not shake_hands(context_of(LEAF), client, session)[1].session_reused


def test_a_session_gets_nobody_past_strict_names(tmp_path: Path) -> None:
    """A client may resume under another name, since all names believe the same clients; it must be one. (In
    TLS 1.2 OpenSSL goes by the name that the session was made under, which was one.)"""
    context = context_of(LEAF, CA.issue("second.example"), tls={"strict_sni": True})
    client = client_context(tmp_path)
    session = shake_hands(context, client)[1].session

    client.check_hostname = False
    shake_hands(context, client, session, name="second.example")
    with pytest.raises(ssl.SSLError, match="CALLBACK_FAILED"):
        shake_hands(context, client, session, name="unknown.example")


@pytest.mark.parametrize(("kinds", "tickets"), [(["p256"], 1), (["rsa2048"], 2), (["p256", "rsa2048"], 2)])
def test_there_are_two_tickets_where_signing_is_dear(
    tmp_path: Path, kinds: list[KeyKind], tickets: int
) -> None:
    context = context_of(*(CA.issue(key=kind) for kind in kinds))
    client, seen = client_context(tmp_path), list[int]()

    def count(_conn: object, direction: str, _version: int, content: int, message: int, _: bytes) -> None:
        if (direction, content, message) == ("read", 22, 4):  # NewSessionTicket (RFC 8446, 4.6.1)
            seen.append(message)

    client._msg_callback = count  # type: ignore[attr-defined]
    shake_hands(context, client)
    assert len(seen) == tickets


def test_two_hundred_contexts_leak_no_descriptor() -> None:
    serving_of(generation())
    gc.collect()  # of what other tests left
    before = len(list(Path("/proc/self/fd").iterdir()))

    for number in range(200):
        serving_of(generation(**(verifying(True) if number % 2 else {})))
    gc.collect()

    assert len(list(Path("/proc/self/fd").iterdir())) == before


# Many names.


def credulous(**settings: Any) -> ssl.SSLContext:
    """A client that looks and does not judge."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    for name, value in settings.items():
        setattr(context, name, value)
    return context


def shown(server: ssl.SSLContext, name: str | None, client: ssl.SSLContext | None = None) -> str:
    _, theirs = shake_hands(server, client or credulous(), name=name)
    return hashlib.sha256(theirs.getpeercert(binary_form=True) or b"").hexdigest()


def test_each_name_is_shown_its_certificate_and_the_rest_the_default() -> None:
    first, exact, wild = CA.issue("first.example"), CA.issue("a.example.org"), CA.issue("*.example.org")
    context = context_of(first, wild, exact)

    assert shown(context, "first.example") == first.fingerprint
    assert shown(context, "a.example.org") == exact.fingerprint
    assert shown(context, "A.Example.ORG") == exact.fingerprint
    assert shown(context, "b.example.org") == wild.fingerprint
    for name in ("unknown.example", "a.b.example.org", "127.0.0.1", None):
        assert shown(context, name) == first.fingerprint


@pytest.mark.parametrize("leaves", [1, 2])
@pytest.mark.parametrize("name", ["unknown.example", "127.0.0.1", None])
def test_where_names_are_strict_others_get_the_alert_that_says_so(name: str | None, leaves: int) -> None:
    context = context_of(
        *[CA.issue(each) for each in ("first.example", "second.example")[:leaves]], tls={"strict_sni": True}
    )
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ours = context.wrap_bio(up, down, server_side=True)
    theirs = credulous().wrap_bio(down, up, server_hostname=name)

    with pytest.raises(ssl.SSLWantReadError):
        theirs.do_handshake()
    with pytest.raises(ssl.SSLError, match="CALLBACK_FAILED"):
        ours.do_handshake()
    with pytest.raises(ssl.SSLError, match=r"UNRECOGNIZED_NAME|unrecognized name"):
        theirs.do_handshake()
    assert shown(context, "first.example")


def test_where_names_are_strict_the_probe_asks_for_each() -> None:
    leaves = CA.issue("first.example"), CA.issue("*.example.org")

    assert serving_of(generation(*leaves, tls={"strict_sni": True})).tls is not None


@pytest.mark.parametrize("order", [1, -1])
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_of_ecdsa_and_rsa_the_first_is_preferred_whatever_the_client_and_the_file_say(
    version: ssl.TLSVersion, order: int, tmp_path: Path
) -> None:
    ecdsa, rsa = CA.issue("a.example.org"), CA.issue("a.example.org", key="rsa2048")
    context = context_of(CA.issue("first.example"), *(ecdsa, rsa)[::order])
    client = credulous(minimum_version=version, maximum_version=version)

    assert shown(context, "a.example.org", client) == ecdsa.fingerprint


def test_a_client_that_does_only_rsa_is_shown_the_rsa_certificate() -> None:
    ecdsa, rsa = CA.issue("a.example.org"), CA.issue("a.example.org", key="rsa2048")
    client = credulous(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("ECDHE-RSA-AES128-GCM-SHA256")

    for leaves in ((ecdsa, rsa), (CA.issue("first.example"), ecdsa, rsa)):
        assert shown(context_of(*leaves), "a.example.org", client) == rsa.fingerprint


def test_a_client_that_prefers_chacha_gets_it_also_where_the_order_is_ours() -> None:
    """It has no AES in hardware."""
    context = context_of(CA.issue("a.example.org"), CA.issue("a.example.org", key="rsa2048"))
    client = credulous(maximum_version=ssl.TLSVersion.TLSv1_2)
    client.set_ciphers("ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-ECDSA-AES128-GCM-SHA256")

    cipher = shake_hands(context, client, name="a.example.org")[1].cipher()

    assert cipher is not None
    assert cipher[0] == "ECDHE-ECDSA-CHACHA20-POLY1305"


@pytest.mark.parametrize("ciphers", [None, "ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES128-GCM-SHA256"])
@pytest.mark.parametrize("min_version", ["1.2", "1.3"])
@pytest.mark.parametrize("mode", [False, True])
def test_the_probe_looks_at_each_kind_of_key_that_can_be_had(
    mode: bool, min_version: str, ciphers: str | None
) -> None:
    sections = verifying(mode) if mode else {}
    sections["tls"] = {**sections.get("tls", {}), "min_version": min_version, "ciphers": ciphers}
    leaves = [CA.issue("a.example.org", key=kind) for kind in ("p256", "rsa2048", "ed25519")]

    assert serving_of(generation(*leaves, **sections)).tls is not None


def test_a_key_whose_numbers_do_not_belong_together_is_found_by_the_probe() -> None:
    """Its modulus is the certificate's, its private exponent is not."""
    leaf = CA.issue("a.example.org", key="rsa2048")
    assert isinstance(leaf.private_key, rsa.RSAPrivateKey)
    n = leaf.private_key.private_numbers()
    torn = rsa.RSAPrivateNumbers(
        n.p, n.q, n.d + 2, n.dmp1 + 2, n.dmq1 + 2, n.iqmp, n.public_numbers
    ).private_key(unsafe_skip_rsa_key_validation=True)
    broken = Leaf(leaf.certificate, torn)

    for leaves in ((broken,), (LEAF, broken), (CA.issue("a.example.org"), broken)):
        with pytest.raises(ContextError):
            serving_of(generation(*leaves))


def test_the_probe_tells_which_name_shows_another_certificate() -> None:
    first = CA.issue("first.example")

    with pytest.raises(ProbeError, match=r"asks for a\.example\.org showed the certificate"):
        probe(context_of(first, CA.issue("a.example.org")), generation(first, CA.issue("a.example.org")))


# Clients, whichever context is chosen.

NAMES = ("first.example", "a.example.org", "unknown.example")


def several(**properties: Any) -> ssl.SSLContext:
    return context_of(CA.issue("first.example"), CA.issue("a.example.org"), **properties)


def client_of(tmp_path: Path, leaf: Leaf | None = None, **settings: Any) -> ssl.SSLContext:
    client = credulous(**settings)
    if leaf is not None:
        client.load_cert_chain(*leaf.write(tmp_path / leaf.fingerprint[:8]))
    return client


VERSIONS = pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])


@VERSIONS
@pytest.mark.parametrize("name", NAMES)
def test_a_client_certificate_is_required_whatever_the_name(
    name: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    context = several(**verifying(True))
    known = CLIENTS.issue("client", client=True)

    ours, _ = shake_hands(context, client_of(tmp_path, known, maximum_version=version), name=name)
    assert ours.getpeercert(binary_form=True) == known.der
    for leaf in (None, Authority("client CA").issue("client", client=True)):
        with pytest.raises(ssl.SSLError):
            shake_hands(context, client_of(tmp_path, leaf, maximum_version=version), name=name)


@VERSIONS
@pytest.mark.parametrize("name", NAMES)
def test_from_optional_to_required_no_session_saves_a_client_without_certificate(
    name: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    client = client_of(tmp_path, maximum_version=version)
    optional, required = several(**verifying("optional")), several(**verifying(True))
    session = shake_hands(optional, client, name=name)[1].session
    assert session is not None
    assert shake_hands(optional, client, session, name=name)[1].session_reused

    with pytest.raises(ssl.SSLError):
        shake_hands(required, client, session, name=name)


@VERSIONS
@pytest.mark.parametrize(("made_under", "used_for"), [(one, other) for one in NAMES for other in NAMES])
def test_a_session_made_under_a_removed_authority_never_resumes(
    made_under: str, used_for: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    gone = Authority("gone CA")
    client = client_of(tmp_path, gone.issue("client", client=True), maximum_version=version)
    before = several(anchors=CLIENTS.pem + gone.pem, **verifying(True))
    after = several(anchors=CLIENTS.pem, **verifying(True))
    session = shake_hands(before, client, name=made_under)[1].session

    with pytest.raises(ssl.SSLError):
        shake_hands(after, client, session, name=used_for)


@VERSIONS
@pytest.mark.parametrize("name", NAMES)
def test_a_session_of_the_same_generation_resumes_and_the_client_is_still_known(
    name: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    known = CLIENTS.issue("client", client=True)
    client, context = client_of(tmp_path, known, maximum_version=version), several(**verifying(True))
    session = shake_hands(context, client, name=name)[1].session

    ours, theirs = shake_hands(context, client, session, name=name)

    assert theirs.session_reused
    assert ours.getpeercert(binary_form=True) == known.der


def test_all_contexts_of_a_generation_verify_in_the_same_way() -> None:
    switched = []
    context = several(crl=CLIENTS.crl(), **verifying(True))
    for name in NAMES:
        ours = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
        assert context.sni_callback is not None
        context.sni_callback(ours, name, context)
        switched.append(ours.context)

    assert len(set(map(id, switched))) == 2
    for each in ("verify_mode", "verify_flags", "options", "minimum_version"):
        assert len({getattr(other, each) for other in switched}) == 1


# Revoked clients.


@VERSIONS
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["optional", True])
def test_a_revoked_client_is_refused_whatever_the_name(
    mode: bool | str, name: str, version: ssl.TLSVersion, tmp_path: Path
) -> None:
    good, gone = (CLIENTS.issue("client", client=True) for _ in range(2))
    context = several(crl=CLIENTS.crl(gone), **verifying(mode))

    ours, _ = shake_hands(context, client_of(tmp_path, good, maximum_version=version), name=name)
    assert ours.getpeercert(binary_form=True) == good.der
    with pytest.raises(ssl.SSLError) as caught:
        shake_hands(context, client_of(tmp_path, gone, maximum_version=version), name=name)
    assert "revoked" in str(caught.value).lower()


def test_a_session_made_before_a_revocation_does_not_resume_after_it(tmp_path: Path) -> None:
    known = CLIENTS.issue("client", client=True)
    client = client_of(tmp_path, known)
    session = shake_hands(several(crl=CLIENTS.crl(), **verifying(True)), client)[1].session

    with pytest.raises(ssl.SSLError):
        shake_hands(several(crl=CLIENTS.crl(known), **verifying(True)), client, session)


def test_a_revoked_intermediate_is_noticed_where_every_authority_has_a_list(tmp_path: Path) -> None:
    middle = CLIENTS.intermediate("middle")
    client = middle.issue("client", client=True)
    anchors = CLIENTS.pem + middle.pem
    revoked = middle.certificate.serial_number

    context = context_of(anchors=anchors, crl=CLIENTS.crl() + middle.crl(), **verifying(True))
    assert shake_hands(context, client_of(tmp_path, client))[0].getpeercert(binary_form=True) == client.der
    context = context_of(anchors=anchors, crl=CLIENTS.crl(revoked) + middle.crl(), **verifying(True))
    with pytest.raises(ssl.SSLError):
        shake_hands(context, client_of(tmp_path, client))


def test_where_the_root_has_no_list_clients_of_the_intermediate_get_in_and_their_own_are_checked(
    tmp_path: Path,
) -> None:
    middle = CLIENTS.intermediate("middle")
    good, gone = (middle.issue("client", client=True) for _ in range(2))
    context = context_of(anchors=CLIENTS.pem + middle.pem, crl=middle.crl(gone), **verifying(True))

    assert shake_hands(context, client_of(tmp_path, good))[0].getpeercert(binary_form=True) == good.der
    with pytest.raises(ssl.SSLError):
        shake_hands(context, client_of(tmp_path, gone))


# Memory.


def test_the_contexts_of_a_generation_go_with_it_and_wait_for_no_garbage_collector() -> None:
    context = several(**verifying(True))
    ours = context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_side=True)
    assert context.sni_callback is not None
    context.sni_callback(ours, "a.example.org", context)
    chosen, default = weakref.ref(ours.context), weakref.ref(context)
    gc.disable()
    try:
        del context, ours
        assert default() is None
        deadline = time.monotonic() + 5
        while chosen() is not None:  # freed in a thread
            assert time.monotonic() < deadline
            threading.Event().wait(0.001)
    finally:
        gc.enable()


def test_twenty_generations_of_many_names_leak_no_descriptor() -> None:
    leaves = [CA.issue(f"host{number}.example.org") for number in range(5)]
    gc.collect()  # what other tests have left
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(20):
        serving_of(generation(*leaves, crl=CLIENTS.crl(), **verifying(True)))
    gc.collect()

    assert len(list(Path("/proc/self/fd").iterdir())) == before
