"""What the example files in `tests/settings` do not show of the rules about peers."""

import pytest

from rekeyd.settings import Cluster, Endpoint, P2p, Service, Settings, describe, peer_host
from rekeyd.settings.peer_rules import PEER_RULES, PEER_WARNINGS


def test_rules_name_keys_that_exist() -> None:
    known = {described.key for described in describe()}
    assert {key for rule in (*PEER_RULES, *PEER_WARNINGS) for key in rule.keys} <= known


def test_without_peers_nothing_is_asked_for() -> None:
    assert [problem for rule in (*PEER_RULES, *PEER_WARNINGS) for problem in rule.check(Settings())] == []


def test_peers_are_listened_for_where_clients_are_unless_it_is_said() -> None:
    assert peer_host(Settings(service=Service(host="192.0.2.1"))) == "192.0.2.1"
    assert peer_host(Settings(cluster=Cluster(p2p=P2p(host="::1")))) == "::1"


@pytest.mark.parametrize(
    ("host", "upstream", "ourselves"),
    [("0.0.0.0", "127.0.0.1", True), ("192.0.2.1", "127.0.0.1", False), ("::1", "::1", True)],  # noqa: S104
)
def test_a_service_that_is_ourselves_is_found(host: str, upstream: str, ourselves: bool) -> None:
    p2p = P2p(enable_tls=True, port=6335, host=host, upstream=Endpoint(upstream, 6335))
    settings = Settings(cluster=Cluster(p2p=p2p))
    told = [problem.message for rule in PEER_RULES for problem in rule.check(settings)]
    assert ("is the address on which rekeyd itself listens for peers" in told) == ourselves
