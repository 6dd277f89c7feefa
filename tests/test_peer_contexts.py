"""The contexts of a generation's tunnels, and what they refuse to do."""

import ssl
from dataclasses import replace

import pytest

from rekeyd.reload.contexts import ContextError, ProbeError, serving_of
from rekeyd.reload.current import PeerContexts
from rekeyd.reload.peer_contexts import peers_of
from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Generation
from rekeyd.trust.revocations import read_revocations
from support.generations import candidate_of, settings_of
from support.pki import Authority, Leaf

CA = Authority()
PEERS = settings_of(
    service={"enable_tls": False},
    tls={"ca_cert": "/etc/rekeyd/ca.pem"},
    cluster={"p2p": {"enable_tls": True, "upstream": "127.0.0.1:1", "allowed_peers": ["dns:*.test"]}},
)


def node(leaf: Leaf | None = None, **properties: object) -> Generation:
    anchors = read_anchors(CA.pem)
    shown = leaf or CA.issue("node.test", peer=True)
    return candidate_of(shown, settings=PEERS, anchors=anchors, **properties).generation(1)  # type: ignore[arg-type]


def contexts_of(generation: Generation) -> PeerContexts:
    contexts = peers_of(generation)
    assert contexts is not None
    return contexts


def shaken(server: ssl.SSLContext, client: ssl.SSLContext) -> tuple[ssl.SSLObject, ssl.SSLObject]:
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepted = server.wrap_bio(to_server, to_client, server_side=True)
    dialing = client.wrap_bio(to_client, to_server)
    for side in (dialing, accepted, dialing, accepted):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    return accepted, dialing


def test_without_peers_there_are_none() -> None:
    generation = candidate_of(CA.issue()).generation(1)
    assert peers_of(generation) is None
    assert serving_of(generation).peers is None


def test_two_nodes_know_each_other() -> None:
    one, two = (CA.issue(name, peer=True) for name in ("one.test", "two.test"))
    accepted, dialing = shaken(contexts_of(node(one)).accepting, contexts_of(node(two)).connecting)
    assert accepted.getpeercert(binary_form=True) == two.der
    assert dialing.getpeercert(binary_form=True) == one.der
    assert accepted.version() == "TLSv1.3"


def test_plaintext_with_clients_is_no_plaintext_with_peers() -> None:
    serving = serving_of(node())
    assert serving.tls is None
    assert serving.peers is not None


def test_no_session_can_be_resumed() -> None:
    """A ticket that was made under an authority must not outlive it."""
    contexts = contexts_of(node())
    accepted, dialing = shaken(contexts.accepting, contexts.connecting)
    accepted.write(b"a word, after which tickets would have come")
    assert dialing.read(100)
    assert dialing.session is None or not dialing.session.has_ticket
    assert contexts.accepting.num_tickets == 0


@pytest.mark.parametrize("side", ["accepting", "connecting"])
def test_each_side_asks_for_a_certificate_of_the_cluster(side: str) -> None:
    other = Authority("another CA")
    stranger = candidate_of(
        other.issue("node.test", peer=True), settings=PEERS, anchors=read_anchors(CA.pem + other.pem)
    ).generation(1)
    ours, theirs = contexts_of(node()), contexts_of(stranger)
    between = (ours.accepting, theirs.connecting)
    if side == "connecting":
        between = (theirs.accepting, ours.connecting)
    with pytest.raises(ssl.SSLCertVerificationError):
        shaken(*between)


def test_nothing_older_than_tls_1_3_is_spoken() -> None:
    contexts = contexts_of(node())
    for context in (contexts.accepting, contexts.connecting):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3
        assert context.verify_mode is ssl.CERT_REQUIRED


def test_the_revoked_are_refused_on_both_sides() -> None:
    revoked = CA.issue("revoked.test", peer=True)
    crl = read_revocations(CA.crl(revoked))
    ours, theirs = contexts_of(node(revocations=crl)), contexts_of(node(revoked))
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shaken(ours.accepting, theirs.connecting)
    with pytest.raises(ssl.SSLCertVerificationError, match="revoked"):
        shaken(theirs.accepting, ours.connecting)


def test_a_certificate_that_peers_would_refuse_is_the_judges_business() -> None:
    """It is proved that it is shown; `judge.peer_unbelieved` may say that this is enough."""
    other = Authority("another CA")
    assert contexts_of(node(other.issue("node.test", peer=True)))
    assert contexts_of(node(CA.issue("node.test")))  # a server's alone


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(ContextError, match="there is no certificate"):
        peers_of(replace(node(), certificates=()))
    with pytest.raises(ContextError, match="there is no CA"):
        peers_of(replace(node(), client_anchors=None))


def test_another_certificate_than_the_judged_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    other = contexts_of(node(CA.issue("other.test", peer=True)))
    monkeypatch.setattr(
        "rekeyd.reload.peer_contexts._context",
        lambda side, _: other.accepting if side == ssl.PROTOCOL_TLS_SERVER else other.connecting,
    )
    with pytest.raises(ProbeError, match="instead of"):
        peers_of(node())
