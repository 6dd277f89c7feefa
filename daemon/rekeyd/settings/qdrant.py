"""The settings that Qdrant has and rekeyd does not use.

Owns: their names, read from `config/config.yaml` and `src/settings.rs` of Qdrant 1.16. A file of Qdrant's is
accepted as it is, and what is left out of account is named once at start. A section that is named here is
left out whole, so new keys in it need no change here.
"""

_SECTIONS = (
    "audit",
    "debugger",
    "feature_flags",
    "gpu",
    "hnsw_index",
    "inference",
    "log_level",
    "logger",
    "per_collection_metrics_enabled",
    "storage",
    "telemetry_disabled",
)
_KEYS = {
    "service": (
        "enable_static_content",
        "hardware_reporting",
        "hide_jwt_dashboard",
        "max_workers",
        "metrics_port",
        "metrics_prefix",
        "slow_query_secs",
        "static_content_dir",
    ),
    "cluster": (
        "connection_timeout_ms",
        "consensus",
        "enabled",
        "grpc_timeout_ms",
        "peer_id",
        "resharding_enabled",
    ),
    "cluster.p2p": ("connection_pool_size",),
}

IGNORED = frozenset(_SECTIONS) | {f"{section}.{name}" for section, names in _KEYS.items() for name in names}
