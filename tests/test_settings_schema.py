"""The declarations: what they promise, and what follows from them."""

from pathlib import Path

import pytest
from pydantic import SecretStr, ValidationError

from rekeyd.settings import (
    Admin,
    Logging,
    Service,
    Settings,
    Tls,
    Upstream,
    as_running,
    describe,
    restart_needed,
)
from rekeyd.settings.schema import sections

# Promised to users: the keys without an R. The rest there, and these of ours, are taken up by a reload.
NEED_A_RESTART = {
    "service.host",
    "service.http_port",
    "service.grpc_port",
    "service.enable_tls",
    "service.insecure",
    "service.drain_timeout",
    "service.workers",
    "service.handshake_timeout",
    "service.header_timeout",
    "service.idle_timeout",
    "service.max_header_size_kb",
    "service.max_connections",
    "tls.cert_ttl",
    "tls.watch",
    "admin.socket",
    "metrics.port",
    "logging.format",
    "logging.buffer_mb",
    "cluster.p2p.enable_tls",
}


def test_what_needs_a_restart_is_what_the_contract_says() -> None:
    assert {described.key for described in describe() if not described.reloadable} == NEED_A_RESTART


def test_every_key_says_what_it_means_what_it_takes_and_how_to_write_it() -> None:
    for described in describe():
        assert described.meaning.endswith("."), described.key
        assert described.kind.wants, described.key


def test_every_default_is_a_value_that_may_be_written() -> None:
    for described in describe():
        *path, name = described.key.split(".")
        tree: dict[str, object] = {name: _as_written(described.default)}
        for section in reversed(path):
            tree = {section: tree}
        assert Settings.model_validate(tree).value(described.key) == described.default, described.key


def _as_written(default: object) -> object:
    return list(default) if isinstance(default, tuple) else default


def test_secrets_and_paths_are_told_apart_by_their_kind() -> None:
    secrets = {described.key for described in describe() if described.kind.secret}
    assert secrets == {
        "service.api_key",
        "service.alt_api_key",
        "service.read_only_api_key",
        "upstream.api_key",
    }


def test_sections_are_named_with_their_parents() -> None:
    assert {"service", "cluster", "cluster.p2p"} <= sections()
    assert "cluster.p2p.enable_tls" not in sections()


def test_a_change_of_what_is_fixed_is_named_and_of_the_rest_it_is_not() -> None:
    old = Settings(service=Service(http_port=1, api_key=SecretStr("a" * 20)))
    new = Settings(
        service=Service(http_port=2, api_key=SecretStr("b" * 20)),
        tls=Tls(watch=False, cert=Path("/c")),
        logging=Logging(level="debug"),
    )
    assert restart_needed(old, new) == ("service.http_port", "tls.watch")
    assert restart_needed(old, old) == ()


def test_the_default_socket_written_out_is_no_change() -> None:
    assert restart_needed(Settings(), Settings(admin=Admin(socket=Path("/run/rekeyd/admin.sock")))) == ()


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().service.host = "::"  # type: ignore[misc]


def test_an_error_of_pydantics_does_not_show_what_it_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Upstream.model_validate({"api_key": ["sw0rdfish"]})
    assert "sw0rdfish" not in str(caught.value)


def test_what_a_reload_can_not_change_stays_as_it_runs_and_the_rest_is_as_wanted() -> None:
    running = Settings(service=Service(http_port=1, enable_tls=True, api_key=SecretStr("a" * 20)))
    wanted = Settings(
        service=Service(http_port=2, api_key=SecretStr("b" * 20), insecure=True), tls=Tls(cert=Path("/c"))
    )
    mixed = as_running(wanted, running)
    assert mixed.service == Service(http_port=1, enable_tls=True, api_key=SecretStr("b" * 20))
    assert mixed.tls == wanted.tls
    assert as_running(running, running) == running
