"""The settings: YAML and environment in, one frozen value out, with every problem told at once.

Owns: the names, types, defaults and meanings that are promised to users (`sections`, `schema`), how they are
read (`sources`, `yaml_source`) and how they bear on one another (`rules`). Must not know: the rest of the
house, the disk (no file is opened here), or how problems are printed.
"""

from rekeyd.settings.client_patterns import ClientPattern, parse_client_pattern
from rekeyd.settings.endpoints import Endpoint, Peer
from rekeyd.settings.judgement import Judge
from rekeyd.settings.kinds import Kind, UnusableError
from rekeyd.settings.pair_files import PairFiles
from rekeyd.settings.parsing import Parsed, UnfitSettingsError, parse, under
from rekeyd.settings.peer_rules import peer_host
from rekeyd.settings.rules import (
    NOT_YET,
    has_credential,
    is_loopback,
    not_yet,
    speaks_tls,
)
from rekeyd.settings.schema import Setting, Settings, as_running, describe, restart_needed
from rekeyd.settings.sections import (
    Access,
    Admin,
    Cluster,
    Connections,
    Logging,
    Metrics,
    P2p,
    Service,
    State,
    Tls,
    Upstream,
)
from rekeyd.settings.sources import variables_read
from rekeyd.settings.upstream_address import UpstreamAddress, parse_grpc_upstream, parse_upstream

__all__ = [
    "NOT_YET",
    "Access",
    "Admin",
    "ClientPattern",
    "Cluster",
    "Connections",
    "Endpoint",
    "Judge",
    "Kind",
    "Logging",
    "Metrics",
    "P2p",
    "PairFiles",
    "Parsed",
    "Peer",
    "Service",
    "Setting",
    "Settings",
    "State",
    "Tls",
    "UnfitSettingsError",
    "UnusableError",
    "Upstream",
    "UpstreamAddress",
    "as_running",
    "describe",
    "has_credential",
    "is_loopback",
    "not_yet",
    "parse",
    "parse_client_pattern",
    "parse_grpc_upstream",
    "parse_upstream",
    "peer_host",
    "restart_needed",
    "speaks_tls",
    "under",
    "variables_read",
]
