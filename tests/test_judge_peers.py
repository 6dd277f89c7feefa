"""What peers would say of the own certificate is said before they do."""

from typing import Any

import pytest

from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Severity
from support.generations import settings_of
from support.judging import rules_broken, verdict_on
from support.pki import Authority, Leaf

OLD, NEW = Authority("the old CA"), Authority("the new CA")


def settings(**judge: str) -> Any:
    return settings_of(
        tls={"ca_cert": "/etc/rekeyd/ca.pem"},
        cluster={"p2p": {"enable_tls": True, "upstream": "127.0.0.1:1", "allowed_peers": ["dns:*.test"]}},
        judge=judge,
    )


def found(leaf: Leaf, *believed: Authority, **judge: str) -> dict[str, Severity]:
    anchors = read_anchors(b"".join(each.pem for each in believed))
    return rules_broken(verdict_on(leaf, settings=settings(**judge), anchors=anchors))


def test_the_order_in_which_an_authority_changes_is_held() -> None:
    """Both first, then the new certificate, then without the old one; any other order is refused."""
    old, new = OLD.issue("node.test", peer=True), NEW.issue("node.test", peer=True)
    assert found(old, OLD) == found(old, OLD, NEW) == found(new, OLD, NEW) == found(new, NEW) == {}
    assert found(new, OLD) == {"peer_unbelieved": Severity.REFUSE}
    assert found(old, NEW) == {"peer_unbelieved": Severity.REFUSE}


def test_an_intermediate_that_comes_along_leads_to_the_root() -> None:
    leaf = OLD.intermediate().issue("node.test", peer=True)
    assert found(leaf, OLD) == {}
    assert found(leaf, NEW) == {"peer_unbelieved": Severity.REFUSE}


@pytest.mark.parametrize("client", [False, True])
def test_a_certificate_for_one_purpose_is_refused(client: bool) -> None:
    leaf = OLD.issue("node.test", client=client)
    assert found(leaf, OLD) == {"peer_unfit": Severity.REFUSE}
    lacking = "serverAuth" if client else "clientAuth"
    (finding,) = verdict_on(leaf, settings=settings(), anchors=read_anchors(OLD.pem)).findings
    assert f"is not for {lacking} " in finding.message


def test_it_may_be_set_otherwise() -> None:
    leaf = OLD.issue("node.test")
    assert found(leaf, NEW, peer_unbelieved="warn", peer_unfit="allow") == {"peer_unbelieved": Severity.WARN}


def test_without_peers_it_is_nobodys_business() -> None:
    assert rules_broken(verdict_on(OLD.issue("node.test"))) == {}
