"""Who may be a peer, by its certificate."""

from typing import Any

import pytest

from rekeyd.settings import parse_client_pattern
from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Generation
from rekeyd.trust.peers import allowed_peers, name_of, peer_objection
from rekeyd.trust.revocations import read_revocations
from support.generations import candidate_of, settings_of
from support.pki import Authority

CA, OTHER = Authority(), Authority("another CA")
OWN = CA.issue("one.test", peer=True)
TWO = CA.issue("two.test", peer=True)
PEER = {"listen": "127.0.0.1:0", "connect": "two.test:6335"}


def node(
    *allowed: str, believed: bytes = CA.pem, crl: bytes | None = None, number: int = 1, **p2p: Any
) -> Generation:
    section = {"enable_tls": True, "upstream": "127.0.0.1:1", "allowed_peers": list(allowed), **p2p}
    settings = settings_of(tls={"ca_cert": "/etc/rekeyd/ca.pem"}, cluster={"p2p": section})
    return candidate_of(
        OWN,
        settings=settings,
        anchors=read_anchors(believed),
        revocations=read_revocations(crl) if crl else None,
    ).generation(number)


def test_one_that_is_allowed_has_a_place() -> None:
    assert peer_objection(node("dns:*.test"), TWO.der) is None
    assert peer_objection(node(peers=[PEER]), TWO.der) is None


@pytest.mark.parametrize(
    ("generation", "der", "why"),
    [
        (node("dns:*.test"), None, "it has no certificate"),
        (node("dns:*.test"), b"\x30\x03abc", "its certificate can't be read"),
        (node("dns:three.test"), TWO.der, "its certificate is not among cluster.p2p.allowed_peers"),
        (node("dns:*.test", crl=CA.crl(TWO)), TWO.der, "its certificate is revoked"),
        (
            node(peers=[PEER]),
            CA.issue("a-client.test", client=True).der,
            "its certificate is not among cluster.p2p.allowed_peers",
        ),
    ],
)
def test_who_has_no_place_is_told_why(generation: Generation, der: bytes | None, why: str) -> None:
    assert peer_objection(generation, der) == why


def test_where_we_connect_to_one_is_expected() -> None:
    three = parse_client_pattern("dns:three.test")
    assert peer_objection(node("dns:*.test"), TWO.der, expected=three) == "it is not dns:three.test"
    two = parse_client_pattern("dns:two.test")
    assert peer_objection(node("dns:*.test"), TWO.der, expected=two) is None
    assert peer_objection(node("dns:one.test"), TWO.der, expected=two) is not None


@pytest.mark.parametrize(
    ("pattern", "shown", "is_it"),
    [
        ("dns:two.cluster.test", "*.cluster.test", True),
        ("dns:*.cluster.test", "*.cluster.test", True),
        ("dns:two.cluster.test", "*.CLUSTER.test", True),
        ("dns:two.other.test", "*.cluster.test", False),
        ("dns:a.two.cluster.test", "*.cluster.test", False),
        ("dns:cluster.test", "*.cluster.test", False),
        ("dns:*.test", "*.cluster.test", False),
        ("cn:two.cluster.test", "*.cluster.test", False),
    ],
)
def test_nodes_may_share_a_wildcard_certificate(pattern: str, shown: str, is_it: bool) -> None:
    der = CA.issue(shown, common_name="shared", peer=True).der
    expected = parse_client_pattern(pattern)
    assert (peer_objection(node(pattern), der) is None) == is_it
    assert (peer_objection(node("cn:shared"), der, expected=expected) is None) == is_it


def test_an_authority_that_is_gone_takes_its_peers_along() -> None:
    before = node("dns:*.test", believed=CA.pem + OTHER.pem)
    assert peer_objection(node("dns:*.test", number=2), TWO.der, before) is None
    without = node("dns:*.test", believed=OTHER.pem, number=2)
    assert peer_objection(without, TWO.der, before) == (
        "the authority of its certificate is not believed any more"
    )


def test_nobody_is_allowed_where_nobody_is_named() -> None:
    """The settings refuse that; should it come about all the same, nobody gets in."""
    settings = settings_of()
    assert allowed_peers(settings) == ()
    generation = candidate_of(OWN, settings=settings, anchors=read_anchors(CA.pem)).generation(1)
    assert peer_objection(generation, TWO.der) is not None


def test_a_name_for_the_log_is_short_and_harmless() -> None:
    assert name_of(TWO.der) == "dns:two.test"
    assert name_of(None) is None
    assert name_of(b"nonsense") is None
    long = CA.issue("spiffe://cluster/" + "x" * 5000, common_name="long")
    assert len(name_of(long.der) or "") == 256
