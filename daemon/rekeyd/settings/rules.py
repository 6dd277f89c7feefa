"""How settings bear on one another: what can't go together, and what should be said.

Owns: every rule over more than one key, and what this version doesn't do yet. Must not know: where a value
was written (the caller puts in the file), or what is on the disk.

Each rule is a function from settings to problems, in a table beside the keys that it looks at: it is left out
when one of them could not be read, so that one mistake is told once.
"""

import ipaddress
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations

from pydantic import SecretStr

from rekeyd.errors import Problem
from rekeyd.settings.credentials import Credential
from rekeyd.settings.schema import Settings

SHORT_KEY = 16
"""Characters under which a static key is called short: less than 64 bits, were it hexadecimal."""
SHORT_SIGNING_KEY = 32
"""Bytes that RFC 7518, 3.2, asks of a key for HS256."""

_SERVICE_KEYS = ("service.api_key", "service.alt_api_key", "service.read_only_api_key")
_CREDENTIALS = (*_SERVICE_KEYS, "access.keys_file", "access.jwks_file")
_SIGNING_KEYS = ("service.api_key", "service.alt_api_key")
_P2P_TLS = "cluster.p2p.enable_tls"


@dataclass(frozen=True, slots=True)
class Rule:
    keys: tuple[str, ...]
    """The keys that it looks at."""
    check: Callable[[Settings], Iterator[Problem]]


def _problem(key: str, message: str, fix: str) -> Problem:
    return Problem("", key, message, fix)


# --- refused


def _tls_has_both_files(settings: Settings) -> Iterator[Problem]:
    tls = settings.tls
    pair = {"tls.cert": tls.cert, "tls.key": tls.key}
    missing = [key for key, path in pair.items() if path is None]
    elsewhere = len(missing) == len(pair) and (tls.certificates or tls.certificate_dir)
    if speaks_tls(settings) and not elsewhere:
        switch = "service.enable_tls" if settings.service.enable_tls else "cluster.p2p.enable_tls"
        for key in missing:
            yield _problem(
                key, f"is not set, and `{switch}` needs it", f"Name the file, or set `{switch}: false`"
            )
    elif len(missing) == 1:
        other = next(key for key in pair if key not in missing)
        yield _problem(missing[0], f"is not set, but `{other}` is", "Set both or neither")


def _client_certificates_have_an_authority(settings: Settings) -> Iterator[Problem]:
    key = "service.verify_https_client_certificate"
    if settings.service.verify_https_client_certificate is False:
        return
    if not settings.service.enable_tls:
        yield _problem(key, "needs TLS, which is off", "Set `service.enable_tls: true`, or remove it")
    if settings.tls.ca_cert is None:
        yield _problem(
            key, "needs `tls.ca_cert`, which is not set", "Name the file of your authority, or remove it"
        )


def _clients_are_verified_before_they_are_chosen(settings: Settings) -> Iterator[Problem]:
    if settings.tls.allowed_clients and settings.service.verify_https_client_certificate is False:
        yield _problem(
            "tls.allowed_clients",
            "needs client certificates, which nobody is asked for, so everybody would get in",
            "Set `service.verify_https_client_certificate: true` and `tls.ca_cert`, or remove it",
        )


def _metrics_have_a_port_of_their_own(settings: Settings) -> Iterator[Problem]:
    port, service = settings.metrics.port, settings.service
    if port and port in (service.http_port, service.grpc_port):
        yield _problem("metrics.port", "is a port that rekeyd serves on already", "Choose another one")


def _grpc_has_a_port_of_its_own(settings: Settings) -> Iterator[Problem]:
    service = settings.service
    if service.grpc_port and service.grpc_port == service.http_port:
        yield _problem(
            "service.grpc_port",
            "is `service.http_port` as well",
            "Choose another one, or say `service.single_port: true` and leave it out",
        )


def _single_port_can_tell(settings: Settings) -> Iterator[Problem]:
    if settings.service.single_port and not settings.service.enable_tls:
        yield _problem(
            "service.single_port",
            "needs TLS, by which clients say whether they speak gRPC",
            "Set `service.enable_tls: true`, or use `service.grpc_port`",
        )


def _something_is_protected(settings: Settings) -> Iterator[Problem]:
    if settings.upstream.http is None:
        yield _problem(
            "upstream.http",
            "is not set, so there is nothing to protect",
            "Set it to `http://host:port`, `https://host:port`, `unix:/path`, `app:module:factory` or `demo`",
        )


def _upstream_is_not_ourselves(settings: Settings) -> Iterator[Problem]:
    upstream, service = settings.upstream.http, settings.service
    if upstream is None or upstream.port != service.http_port or not upstream.host:
        return
    if is_here(upstream.host, service.host):
        yield _problem(
            "upstream.http",
            "is the address on which rekeyd itself listens",
            "Give the protected service a port of its own, or change `service.http_port`",
        )


def _grpc_upstream_is_not_ourselves(settings: Settings) -> Iterator[Problem]:
    upstream, service = settings.upstream.grpc, settings.service
    ports = {service.http_port, service.grpc_port}
    if upstream is None or not upstream.host or upstream.port not in ports:
        return
    if upstream.host == service.host or (is_wildcard(service.host) and is_loopback(upstream.host)):
        yield _problem(
            "upstream.grpc",
            "is an address on which rekeyd itself listens",
            "Give the protected service a port of its own, or change `service.grpc_port`",
        )


def _somebody_has_a_key(settings: Settings) -> Iterator[Problem]:
    if not has_credential(settings) and not settings.service.insecure:
        yield _problem(
            "service.api_key",
            "is not set, nor is any other credential, so everybody would get in",
            "Set it (make one with `openssl rand -hex 32`), or say `service.insecure: true`",
        )


def _tokens_are_meant_for_us(settings: Settings) -> Iterator[Problem]:
    """Whoever else the issuer makes tokens for could get in with theirs."""
    if settings.access.jwks_file is None:
        return
    for key, whose in (("access.jwt_issuer", "`iss`"), ("access.jwt_audience", "`aud`")):
        if settings.value(key) is None:
            yield _problem(
                key,
                "is not set, and `access.jwks_file` needs it",
                f"Set it to what the issuer's tokens for this service have as {whose}",
            )


RULES: tuple[Rule, ...] = (
    Rule(
        ("service.enable_tls", _P2P_TLS, "tls.cert", "tls.key", "tls.certificates", "tls.certificate_dir"),
        _tls_has_both_files,
    ),
    Rule(
        ("service.enable_tls", "service.verify_https_client_certificate", "tls.ca_cert"),
        _client_certificates_have_an_authority,
    ),
    Rule(
        ("service.verify_https_client_certificate", "tls.allowed_clients"),
        _clients_are_verified_before_they_are_chosen,
    ),
    Rule(("metrics.port", "service.http_port", "service.grpc_port"), _metrics_have_a_port_of_their_own),
    Rule(("service.grpc_port", "service.http_port"), _grpc_has_a_port_of_its_own),
    Rule(("service.single_port", "service.enable_tls"), _single_port_can_tell),
    Rule(("upstream.http",), _something_is_protected),
    Rule(("upstream.http", "service.host", "service.http_port"), _upstream_is_not_ourselves),
    Rule(
        ("upstream.grpc", "service.host", "service.http_port", "service.grpc_port"),
        _grpc_upstream_is_not_ourselves,
    ),
    Rule((*_CREDENTIALS, "service.insecure"), _somebody_has_a_key),
    Rule(("access.jwks_file", "access.jwt_issuer", "access.jwt_audience"), _tokens_are_meant_for_us),
)


# --- worth saying


def _everybody_gets_in(settings: Settings) -> Iterator[Problem]:
    if settings.service.insecure and has_credential(settings):
        yield _problem("service.insecure", "has no effect, because a credential is configured", "Remove it")
    elif settings.service.insecure:
        yield _problem(
            "service.insecure",
            "whoever reaches the port may do everything",
            "Set `service.api_key` and remove it",
        )


def _pepper_without_keys(settings: Settings) -> Iterator[Problem]:
    if settings.access.pepper_file and settings.access.keys_file is None:
        yield _problem(
            "access.pepper_file",
            "has no effect: there is no `access.keys_file`, and other keys have no pepper",
            "Name the key file, or remove it",
        )


def _keys_travel_in_the_open(settings: Settings) -> Iterator[Problem]:
    service = settings.service
    if has_credential(settings) and not service.enable_tls and not is_loopback(service.host):
        yield _problem(
            "service.enable_tls",
            "is off, so keys and tokens cross the network in the clear",
            "Turn it on, or set `service.host: 127.0.0.1`",
        )


def _short_keys(settings: Settings) -> Iterator[Problem]:
    for key, secret in _static_keys(settings):
        if len(secret) < SHORT_KEY:
            yield _problem(
                key,
                f"is shorter than {SHORT_KEY} characters and may be guessed",
                "Make a longer one, for example with `openssl rand -hex 32`",
            )


def _short_signing_keys(settings: Settings) -> Iterator[Problem]:
    """Whoever has one token can try secrets against it, at any speed and unseen."""
    for key, secret in _static_keys(settings):
        if (
            settings.service.jwt_rbac
            and key in _SIGNING_KEYS
            and SHORT_KEY <= len(secret) < SHORT_SIGNING_KEY
        ):
            yield _problem(
                key,
                f"is shorter than {SHORT_SIGNING_KEY} bytes, few for a key that signs tokens (RFC 7518, 3.2)",
                "Make a longer one, for example with `openssl rand -hex 32`",
            )


def _tokens_of_nobody(settings: Settings) -> Iterator[Problem]:
    """Qdrant starts with such settings too, and takes no token."""
    if settings.service.jwt_rbac and not any(settings.value(key) for key in _SIGNING_KEYS):
        yield _problem(
            "service.jwt_rbac",
            "has no effect: there is no read-write key to sign tokens with",
            "Set `service.api_key`, or remove it",
        )


def _issuer_without_keys(settings: Settings) -> Iterator[Problem]:
    for key in ("access.jwt_issuer", "access.jwt_audience"):
        if settings.access.jwks_file is None and settings.value(key) is not None:
            yield _problem(key, "has no effect without `access.jwks_file`", "Name the file, or remove it")


def _shared_keys(settings: Settings) -> Iterator[Problem]:
    for (first, secret), (second, other) in combinations(_static_keys(settings), 2):
        if secret == other:
            yield _problem(second, f"is the same secret as `{first}`, whose right it has", "Make another one")


def _grpc_port_without_upstream(settings: Settings) -> Iterator[Problem]:
    service = settings.service
    if service.grpc_port is not None and settings.upstream.grpc is None:
        yield _problem(
            "service.grpc_port",
            "has no effect without `upstream.grpc`: nothing listens there",
            "Remove it or set it to null",
        )
    if service.single_port and settings.upstream.grpc is None:
        yield _problem("service.single_port", "has no effect without `upstream.grpc`", "Remove it")


def _grpc_upstream_without_port(settings: Settings) -> Iterator[Problem]:
    service = settings.service
    if settings.upstream.grpc is not None and service.grpc_port is None and not service.single_port:
        yield _problem(
            "upstream.grpc",
            "has no effect: rekeyd listens nowhere for gRPC",
            "Set `service.grpc_port` (Qdrant's is 6334) or `service.single_port: true`",
        )


def _trust_without_tls(settings: Settings) -> Iterator[Problem]:
    upstream = settings.upstream
    addresses = [address for address in (upstream.http, upstream.grpc) if address is not None]
    if upstream.ca_cert and addresses and all(address.scheme != "https" for address in addresses):
        names = "`upstream.http`" if upstream.grpc is None else "neither `upstream.http` nor `upstream.grpc`"
        verb = "is not" if upstream.grpc is None else "is"
        yield _problem("upstream.ca_cert", f"has no effect: {names} {verb} https", "Remove it")


def _revocation_without_clients(settings: Settings) -> Iterator[Problem]:
    asked = settings.service.verify_https_client_certificate or settings.cluster.p2p.enable_tls
    if settings.tls.crl and not asked:
        yield _problem(
            "tls.crl",
            "has no effect: clients are not asked for certificates",
            "Set `service.verify_https_client_certificate`, or remove it",
        )


WARNINGS: tuple[Rule, ...] = (
    Rule((*_CREDENTIALS, "service.insecure"), _everybody_gets_in),
    Rule((*_CREDENTIALS, "service.enable_tls", "service.host"), _keys_travel_in_the_open),
    Rule(("access.keys_file", "access.pepper_file"), _pepper_without_keys),
    Rule((*_SIGNING_KEYS, "service.jwt_rbac"), _tokens_of_nobody),
    Rule(("access.jwks_file", "access.jwt_issuer", "access.jwt_audience"), _issuer_without_keys),
    Rule(("service.grpc_port", "service.single_port", "upstream.grpc"), _grpc_port_without_upstream),
    Rule(("service.grpc_port", "service.single_port", "upstream.grpc"), _grpc_upstream_without_port),
    Rule(("upstream.ca_cert", "upstream.http", "upstream.grpc"), _trust_without_tls),
    Rule(("tls.crl", "service.verify_https_client_certificate", _P2P_TLS), _revocation_without_clients),
)

SECRET_WARNINGS: tuple[Rule, ...] = (
    Rule(_SERVICE_KEYS, _short_keys),
    Rule((*_SERVICE_KEYS, "service.jwt_rbac"), _short_signing_keys),
    Rule(_SERVICE_KEYS, _shared_keys),
)
"""They look at secrets themselves, so that they are asked once more when credentials have been read."""


# --- what the rules ask


def speaks_tls(settings: Settings) -> bool:
    """Whether any listener needs a certificate."""
    return settings.service.enable_tls or settings.cluster.p2p.enable_tls


def is_here(host: str, listened_on: str) -> bool:
    return host == listened_on or (is_wildcard(listened_on) and is_loopback(host))


def has_credential(settings: Settings) -> bool:
    """Whether anybody could show a key or token. A client certificate opens a connection, not the service."""
    return any(settings.value(key) is not None for key in _CREDENTIALS)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches a listener on `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost"


def is_wildcard(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def _static_keys(settings: Settings) -> list[tuple[str, str]]:
    """Those that are known: credentials that were not read yet are passed over."""
    found = [(key, settings.value(key)) for key in _SERVICE_KEYS]
    return [
        (key, secret.get_secret_value())
        for key, secret in found
        if isinstance(secret, SecretStr) and not isinstance(secret, Credential)
    ]
