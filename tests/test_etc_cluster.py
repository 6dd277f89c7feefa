"""The worked example of a cluster can be used as it is, and its nodes agree with one another."""

import re
from pathlib import Path

import pytest

from rekeyd.settings import Parsed, parse

FOLDER = Path(__file__).parents[1] / "etc" / "cluster"
NUMBERS = (1, 2, 3)


def node(number: int) -> Parsed:
    file = FOLDER / f"node-{number}.yaml"
    environ = {"REKEYD__SERVICE__API_KEY": "k" * 32}
    return parse(file.read_bytes(), file=file, environ=environ, cwd=Path("/"))


@pytest.mark.parametrize("number", NUMBERS)
def test_with_a_key_each_node_can_be_used(number: int) -> None:
    parsed = node(number)
    assert (parsed.warnings, parsed.ignored) == ((), ())
    assert parsed.settings.cluster.p2p.enable_tls


@pytest.mark.parametrize("number", NUMBERS)
def test_each_node_leads_to_the_others_under_one_address(number: int) -> None:
    leads_to = {str(peer.listen): str(peer.connect) for peer in node(number).settings.cluster.p2p.peers}
    others = [other for other in NUMBERS if other != number]
    assert leads_to == {f"127.0.0.1:1733{n}": f"node-{n}.example.org:6335" for n in others}
    for peer in node(number).settings.cluster.p2p.peers:
        assert str(peer.expect) == f"dns:{peer.connect.host}"


def test_the_nodes_differ_in_nothing_else() -> None:
    def settings(number: int) -> dict[str, object]:
        found: dict[str, object] = node(number).settings.model_dump()
        found["cluster"]["p2p"].pop("peers")  # type: ignore[index]
        found["tls"] = {}
        return found

    assert settings(1) == settings(2) == settings(3)


def test_the_walk_through_names_addresses_that_the_settings_have() -> None:
    text = (FOLDER / "README.md").read_text()
    assert set(re.findall(r"127\.0\.0\.1:(1733\d)", text)) == {"17331", "17332", "17333"}
    p2p = node(1).settings.cluster.p2p
    assert p2p.upstream is not None
    assert f"CLUSTER__P2P__PORT={p2p.upstream.port}" in text
    upstream = node(1).settings.upstream.http
    assert upstream is not None
    assert f"HTTP_PORT={upstream.port}" in text
    for number in NUMBERS:
        assert f"(node-{number}.yaml)" in text
