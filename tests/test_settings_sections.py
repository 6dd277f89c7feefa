"""The declarations: what they promise."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from rekeyd.settings import PairFiles, Settings, Upstream, describe, parse

# CONTRACT.md, "Settings": the keys without an R. The rest there, and these of ours, are taken up by a reload.
NEED_A_RESTART = {
    "service.host",
    "service.http_port",
    "service.grpc_port",
    "service.single_port",
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
    "tls.start_wait",
    "admin.socket",
    "state.directory",
    "metrics.port",
    "logging.format",
    "logging.buffer_mb",
    "logging.audit",
    "cluster.p2p.enable_tls",
    "cluster.p2p.port",
    "cluster.p2p.host",
    "cluster.p2p.peers",
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


def test_settings_are_frozen() -> None:
    with pytest.raises(ValidationError):
        Settings().service.host = "::"  # type: ignore[misc]


def test_an_error_of_pydantics_does_not_show_what_it_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Upstream.model_validate({"api_key": ["sw0rdfish"]})
    assert "sw0rdfish" not in str(caught.value)


def test_days_of_warning_are_kept_in_falling_order_and_once_each() -> None:
    tls = Settings.model_validate({"tls": {"expiry_warnings": [1, 30, 2, 30]}}).tls

    assert tls.expiry_warnings == (30, 2, 1)


def test_the_files_of_further_certificates_are_absolute() -> None:
    source = b"""
service: {host: 127.0.0.1, insecure: true}
upstream: {http: demo}
tls: {certificates: [{cert: a.pem, key: /k/a.key, key_passphrase_file: ../p}]}
"""
    parsed = parse(source, file=Path("/etc/rekeyd/f.yaml"), environ={})

    [pair] = parsed.settings.tls.certificates
    assert pair == PairFiles(Path("/etc/rekeyd/a.pem"), Path("/k/a.key"), Path("/etc/rekeyd/../p"))


def test_further_certificates_can_come_from_the_environment() -> None:
    environ = {"REKEYD__TLS__CERTIFICATES": "[{cert: a.pem, key: a.key}]"}
    source = b"service: {host: 127.0.0.1, insecure: true}\nupstream: {http: demo}"

    parsed = parse(source, file=Path("/etc/f.yaml"), environ=environ, cwd=Path("/here"))

    assert parsed.settings.tls.certificates == (PairFiles(Path("/here/a.pem"), Path("/here/a.key")),)
