"""Every setting: its name, type, default, meaning, and whether a reload can change it.

Owns: the one place where a key is declared. Must not know: where values come from (YAML, environment), or
how keys bear on one another (`rules`). These names, defaults and meanings are promised to users.

A key is declared once, with `setting(default, meaning, …)`; unknown keys, the environment's names, the
reference in `etc/rekeyd.yaml` and what a reload may change all follow from the declaration.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from pydantic.fields import FieldInfo

from rekeyd.settings import fields
from rekeyd.settings.kinds import Kind


def setting(default: Any, meaning: str, *, reloadable: bool = False, qdrant: bool = False) -> Any:
    """Declare a key. `qdrant`: it is Qdrant's own, so that `QDRANT__…` in the environment sets it as well."""
    return Field(
        default=default,
        description=meaning,
        json_schema_extra={"reloadable": reloadable, "qdrant": qdrant},
    )


class Section(BaseModel):
    """A part of the settings: immutable, without unknown keys, and silent about what it was given."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


_S = TypeVar("_S", bound=Section)


class Service(Section):
    host: fields.Host = setting("0.0.0.0", "The address to listen on.", qdrant=True)  # noqa: S104 - Qdrant's default
    http_port: fields.Port = setting(
        6333, "The port for HTTP(S). 0 takes any free one; `daemon.started` tells which.", qdrant=True
    )
    grpc_port: fields.OptionalPort = setting(
        None, "The port for gRPC. Without `upstream.grpc` nothing listens there.", qdrant=True
    )
    enable_tls: fields.Switch = setting(
        False, "Speak TLS on every port, with `tls.cert` and `tls.key`.", qdrant=True
    )
    api_key: fields.Secret = setting(
        None, "A key that may do everything. Empty is unset.", reloadable=True, qdrant=True
    )
    alt_api_key: fields.Secret = setting(
        None, "A second one, so that keys can be changed without a gap.", reloadable=True, qdrant=True
    )
    read_only_api_key: fields.Secret = setting(
        None, "A key that may read, and nothing else.", reloadable=True, qdrant=True
    )
    jwt_rbac: fields.Switch = setting(
        False, "Accept Qdrant's tokens, signed with a read-write key.", reloadable=True, qdrant=True
    )
    insecure: fields.Switch = setting(
        False, "Start with no API key at all: whoever reaches the port may do everything."
    )
    verify_https_client_certificate: fields.ClientCertificates = setting(
        False,
        "Ask clients for a certificate that `tls.ca_cert` vouches for. `optional` takes clients without one.",
        reloadable=True,
        qdrant=True,
    )
    max_request_size_mb: fields.Megabytes = setting(
        32, "The largest body of a request, in MiB. More is answered 413.", reloadable=True, qdrant=True
    )
    enable_cors: fields.Switch = setting(
        False,
        "Answer the preflight requests of browsers without a key. Qdrant's own default is true.",
        reloadable=True,
        qdrant=True,
    )
    trusted_proxies: fields.Networks = setting(
        (), "Networks of proxies in front, whose `X-Forwarded-*` is believed.", reloadable=True
    )
    drain_timeout: fields.Grace = setting(
        30, "Seconds that running requests get to finish when the daemon stops."
    )
    workers: fields.Workers = setting(1, "How many processes serve. 0 is one per core.")
    handshake_timeout: fields.Timeout = setting(10, "Seconds that a TLS handshake may take.")
    header_timeout: fields.Timeout = setting(
        15,
        "Seconds for the head of a request, counted from the connection for the first request and from "
        "its first byte for each one after that.",
    )
    idle_timeout: fields.Timeout = setting(
        75, "Seconds that a connection may stay open without a request, between two of them."
    )
    stall_timeout: fields.Timeout = setting(
        60,
        "Seconds between two pieces of a client's body, or while a client does not read its answer.",
        reloadable=True,
    )
    max_header_size_kb: fields.Kilobytes = setting(32, "The largest head of a request, whole, in KiB.")
    max_connections: fields.Connections = setting(10_000, "How many clients may be connected at once.")


class Tls(Section):
    cert: fields.FilePath = setting(
        None, "The certificate in PEM, its chain after it.", reloadable=True, qdrant=True
    )
    key: fields.FilePath = setting(
        None, "The private key of `tls.cert` in PEM.", reloadable=True, qdrant=True
    )
    ca_cert: fields.FilePath = setting(
        None,
        "The authorities that vouch for client certificates, in PEM.",
        reloadable=True,
        qdrant=True,
    )
    crl: fields.FilePath = setting(None, "Revoked client certificates, in PEM.", reloadable=True)
    cert_ttl: fields.Interval = setting(
        3600, "Seconds between two looks at the files, besides `tls.watch`. 0 or null: no timer.", qdrant=True
    )
    watch: fields.Switch = setting(True, "Watch the files and reload when they change.")
    min_version: fields.TlsVersion = setting(
        "1.2", 'The oldest TLS to speak: "1.2" or "1.3".', reloadable=True
    )
    ciphers: fields.Ciphers = setting(
        None,
        "Cipher suites for TLS 1.2, as an OpenSSL cipher string. null: those with forward secrecy and AEAD.",
        reloadable=True,
    )


class Upstream(Section):
    http: fields.HttpAddress = setting(
        None,
        "The service to protect: `http://host:port`, `https://host:port`, `unix:/path`, "
        "`app:module:factory` (an aiohttp application in this process) or `demo`. It must be set.",
        reloadable=True,
    )
    grpc: fields.GrpcAddress = setting(
        None,
        "Its gRPC side: `host:port`, `http://host:port`, `https://host:port` or `unix:/path`.",
        reloadable=True,
    )
    api_key: fields.Secret = setting(
        None, "Sent to the upstream in place of the client's key, which never gets there.", reloadable=True
    )
    connect_timeout: fields.Timeout = setting(5, "Seconds to connect to the upstream.", reloadable=True)
    read_timeout: fields.Timeout = setting(
        60, "Seconds between two pieces of an answer, so that streams may last.", reloadable=True
    )
    identity_headers: fields.Switch = setting(
        False,
        "Tell the upstream who asks: `X-Rekeyd-Key-Id`, `X-Rekeyd-Right`, `X-Rekeyd-Tls`, `X-Rekeyd-Cipher`, "
        "`X-Rekeyd-Client-Cert`. Such headers of clients never get there.",
        reloadable=True,
    )
    ca_cert: fields.FilePath = setting(
        None,
        "The authorities that vouch for an `https` upstream, in PEM. null: the system's.",
        reloadable=True,
    )


class Access(Section):
    policy: fields.PolicyName = setting(
        "qdrant",
        "What a request needs: `qdrant`, `http` (GET, HEAD and OPTIONS read, the rest writes) or the path of "
        "a policy file.",
        reloadable=True,
    )
    public: fields.RequestPaths = setting(
        (), "Exact paths that are open without a key, added to those of the policy.", reloadable=True
    )
    keys_file: fields.FilePath = setting(None, "A file of named keys.", reloadable=True)


class Admin(Section):
    socket: fields.SocketPath = setting(
        Path("/run/rekeyd/admin.sock"),
        "The unix socket of `rekeyd reload` and `rekeyd status`. null: off. The default is off too, with a "
        "warning, where its folder can't be written.",
    )

    @property
    def socket_is_default(self) -> bool:
        """Nobody asked for this path, so that doing without it is a warning and not an error."""
        return "socket" not in self.model_fields_set


class Metrics(Section):
    port: fields.OptionalPort = setting(None, "A port for Prometheus.")


class Logging(Section):
    format: fields.LogFormat = setting(
        "auto", "`json`, `console`, or `auto`: console on a terminal, else JSON."
    )
    level: fields.LogLevel = setting("info", "`debug`, `info`, `warning` or `error`.", reloadable=True)
    decisions: fields.Decisions = setting(
        "all", "`all`, or `denied`, which leaves allowed decisions out.", reloadable=True
    )
    buffer_mb: fields.BufferMegabytes = setting(
        8, "MiB of lines kept in memory while whoever reads the log is slow."
    )


class P2p(Section):
    enable_tls: fields.Switch = setting(False, "Mutual TLS between peers, on the cluster port.", qdrant=True)


class Cluster(Section):
    p2p: P2p = P2p()


class Settings(Section):
    """Everything that is configured, valid as a whole. Secrets are `SecretStr`, paths are absolute."""

    service: Service = Service()
    tls: Tls = Tls()
    upstream: Upstream = Upstream()
    access: Access = Access()
    admin: Admin = Admin()
    metrics: Metrics = Metrics()
    logging: Logging = Logging()
    cluster: Cluster = Cluster()

    def value(self, key: str) -> Any:
        """The value of a dotted key."""
        found: Any = self
        for name in key.split("."):
            found = getattr(found, name)
        return found


@dataclass(frozen=True, slots=True)
class Setting:
    """What is declared of one key; `key` is dotted."""

    key: str
    default: Any
    meaning: str
    kind: Kind
    reloadable: bool
    qdrant: bool


@cache
def describe() -> tuple[Setting, ...]:
    """Every key, in the order of its declaration."""
    return tuple(_settings_of(Settings, ""))


@cache
def sections() -> frozenset[str]:
    """The dotted names of all sections."""
    keys = [described.key for described in describe()]
    return frozenset(key[:end] for key in keys for end, mark in enumerate(key) if mark == ".")


def restart_needed(old: Settings, new: Settings) -> tuple[str, ...]:
    """The dotted keys that differ and that a reload can't change."""
    fixed = (described.key for described in describe() if not described.reloadable)
    return tuple(key for key in fixed if old.value(key) != new.value(key))


def as_running(wanted: Settings, running: Settings) -> Settings:
    """`wanted`, but with the values of `running` where a reload can't change them."""
    return _mixed(wanted, running, "")


def _mixed(wanted: _S, running: _S, prefix: str) -> _S:
    reloadable = {described.key for described in describe() if described.reloadable}
    fixed = {
        name: _mixed(value, getattr(running, name), f"{prefix}{name}.")
        if isinstance(value, Section)
        else getattr(running, name)
        for name, value in wanted
        if f"{prefix}{name}" not in reloadable
    }
    return wanted.model_copy(update=fixed)


def _settings_of(section: type[Section], prefix: str) -> Iterator[Setting]:
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            yield from _settings_of(field.annotation, f"{prefix}{name}.")
        else:
            yield _setting_of(f"{prefix}{name}", field)


def _setting_of(key: str, field: FieldInfo) -> Setting:
    marks = field.json_schema_extra
    if not isinstance(marks, dict):
        raise TypeError(f"{key} is not declared with setting()")
    return Setting(
        key=key,
        default=field.default,
        meaning=field.description or "",
        kind=next(extra for extra in field.metadata if isinstance(extra, Kind)),
        reloadable=bool(marks["reloadable"]),
        qdrant=bool(marks["qdrant"]),
    )
