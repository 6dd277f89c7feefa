"""What the example files in `tests/settings` do not show of the rules."""

import pytest

from rekeyd.settings import (
    Service,
    Settings,
    Upstream,
    UpstreamAddress,
    describe,
    is_loopback,
)
from rekeyd.settings.rules import RULES, WARNINGS


def test_rules_name_keys_that_exist() -> None:
    known = {described.key for described in describe()}
    assert {key for rule in (*RULES, *WARNINGS) for key in rule.keys} <= known


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "::1", "localhost", "LOCALHOST."])
def test_loopback_hosts(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org", "localhost.example.org"])  # noqa: S104 - compared, not bound
def test_other_hosts(host: str) -> None:
    assert not is_loopback(host)


@pytest.mark.parametrize(
    ("host", "upstream", "ourselves"),
    [
        ("0.0.0.0", "127.0.0.1", True),  # noqa: S104 - compared, not bound
        ("::", "localhost", True),
        ("127.0.0.1", "127.0.0.1", True),
        ("192.0.2.1", "127.0.0.1", False),
        ("127.0.0.1", "127.0.0.2", False),
    ],
)
def test_an_upstream_that_is_ourselves_is_found(host: str, upstream: str, ourselves: bool) -> None:
    settings = Settings(
        service=Service(host=host, http_port=6333, insecure=True),
        upstream=Upstream(http=UpstreamAddress("http", upstream, 6333, "", f"{upstream}:6333")),
    )
    told = [problem.key for rule in RULES for problem in rule.check(settings)]
    assert told == (["upstream.http"] if ourselves else [])
