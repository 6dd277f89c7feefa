"""Where peers are, as it is written."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.settings import ClientPattern, Endpoint, UnusableError
from rekeyd.settings.endpoints import parse_endpoint, peer


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        ("127.0.0.1:16336", Endpoint("127.0.0.1", 16336)),
        ("node-2.example.org:6335", Endpoint("node-2.example.org", 6335)),
        ("[::1]:0", Endpoint("::1", 0)),
        ("unix:/run/cluster.sock", Endpoint(path="/run/cluster.sock")),
    ],
)
def test_an_endpoint_is_read_and_written(text: str, endpoint: Endpoint) -> None:
    assert parse_endpoint(text, unix=True) == endpoint
    assert str(endpoint) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "node",
        ":1",
        "node:",
        "node:x",
        "node:70000",
        "::1:6335",
        "[node]:1",
        "http://node:1",
        "a b:1",
        "unix:x",
    ],
)
def test_what_is_no_endpoint_is_refused(text: str) -> None:
    with pytest.raises(UnusableError):
        parse_endpoint(text, unix=True)


def test_a_socket_file_is_only_for_the_service() -> None:
    with pytest.raises(UnusableError, match="host and a port"):
        parse_endpoint("unix:/run/cluster.sock", unix=False)
    with pytest.raises(UnusableError, match="107 bytes"):
        parse_endpoint("unix:/" + "x" * 200, unix=True)


@pytest.mark.parametrize(
    ("host", "is_name"), [("node-2", True), ("192.0.2.1", False), ("::1", False), ("", False)]
)
def test_a_name_is_told_from_an_address(host: str, is_name: bool) -> None:
    assert Endpoint(host, 1).is_name == is_name


def test_who_is_expected_is_who_is_connected_to_unless_it_is_said() -> None:
    entry = {"listen": "127.0.0.1:16336", "connect": "Node-2.example.org:6335"}
    assert peer(entry).expect == ClientPattern("dns", "node-2.example.org")
    named = peer({**entry, "expect": "uri:spiffe://cluster/2"})
    assert named.expect == ClientPattern("uri", "spiffe://cluster/2")
    assert peer(named) is named
    assert str(named) == "Node-2.example.org:6335"


@given(
    value=st.recursive(st.none() | st.integers() | st.text(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_nothing_else_is_raised(value: object) -> None:
    with pytest.raises(UnusableError):
        peer(value)
