"""A file of Qdrant's own is accepted as it is."""

from pathlib import Path

from rekeyd.settings import describe, parse
from rekeyd.settings.qdrant import IGNORED

# The keys of Qdrant's config/config.yaml, with its values where rekeyd uses them.
QDRANTS_OWN = b"""
log_level: INFO
storage:
  storage_path: ./storage
  snapshots_config: {snapshots_storage: local}
  performance: {max_search_threads: 0, update_rate_limit: null}
  hnsw_index: {m: 16, on_disk: false}
  collection: {replication_factor: 1, vectors: {on_disk: null}}
service:
  max_request_size_mb: 32
  max_workers: 0
  host: 0.0.0.0
  http_port: 6333
  grpc_port: 6334
  enable_cors: true
  enable_tls: false
  verify_https_client_certificate: false
  api_key: your_secret_api_key_here
  read_only_api_key: your_secret_read_only_api_key_here
  hardware_reporting: true
  metrics_prefix: qdrant_
cluster:
  enabled: false
  p2p: {port: 6335, enable_tls: false}
  consensus: {tick_period_ms: 100, compact_wal_entries: 128}
telemetry_disabled: false
per_collection_metrics_enabled: true
tls:
  cert: ./tls/cert.pem
  key: ./tls/key.pem
  ca_cert: ./tls/cacert.pem
  cert_ttl: 3600
audit: {enabled: false}
"""


def test_qdrants_own_file_needs_an_upstream_and_nothing_else() -> None:
    found = parse(
        QDRANTS_OWN,
        file=Path("/etc/qdrant/config.yaml"),
        environ={"REKEYD__UPSTREAM__HTTP": "http://127.0.0.1:16333"},
        cwd=Path("/"),
    )
    assert found.ignored == (
        "audit",
        "cluster.consensus",
        "cluster.enabled",
        "log_level",
        "per_collection_metrics_enabled",
        "service.hardware_reporting",
        "service.max_workers",
        "service.metrics_prefix",
        "storage",
        "telemetry_disabled",
    )
    assert [warning.key for warning in found.warnings] == ["service.enable_tls", "service.grpc_port"]


def test_nothing_that_is_used_is_said_to_be_ignored() -> None:
    used = {described.key for described in describe()}
    assert not used & IGNORED
    assert not {key.partition(".")[0] for key in used} & IGNORED
