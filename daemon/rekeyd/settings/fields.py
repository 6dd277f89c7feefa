"""The types of the settings' keys.

Owns: which values each kind of key takes, and their bounds. Must not know: the keys themselves.

Nothing is coerced: `"6333"` is not a port and `12345` is not an API key. Each type carries its `Kind`, from
which messages, the environment and the reference are made.
"""

import ipaddress
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

from rekeyd.settings.client_patterns import ClientPattern, parse_client_pattern
from rekeyd.settings.credentials import file_in, refuse_reference, secret_in
from rekeyd.settings.endpoints import PEER_FIX, Endpoint, Peer, parse_endpoint, peer
from rekeyd.settings.kinds import Kind, UnusableError, alternatives
from rekeyd.settings.pair_files import FIX, PairFiles, pair_files, pairs_beside
from rekeyd.settings.paths import absolute, absolute_socket, beside, policy_beside, socket_beside
from rekeyd.settings.upstream_address import (
    UpstreamAddress,
    is_host,
    parse_grpc_upstream,
    parse_upstream,
)

DAY = 86_400
YEAR = 365 * DAY
BUILT_IN_POLICIES = ("qdrant", "chroma", "inference", "http")

_LONGEST_KEY = 4096
_CIPHERS = re.compile(r"[A-Za-z0-9_.:,+!@= -]+", re.ASCII)
_PATH_OF_A_REQUEST = re.compile(r"/[!-~]*", re.ASCII)
_NUMBER = "Write a number, without quotes"


def _text(value: Any, wants: str, fix: str) -> str:
    if not isinstance(value, str):
        raise UnusableError(f"must be {wants}", fix)
    return value


# --- numbers and switches


Switch = Annotated[
    bool, Field(strict=True), Kind("`true` or `false`", "Write `true` or `false`, without quotes", (bool,))
]
Port = Annotated[int, Field(strict=True, ge=0, le=65535), Kind("an integer from 0 to 65535", _NUMBER, (int,))]
OptionalPort = Annotated[
    Annotated[int, Field(strict=True, ge=0, le=65535)] | None,
    Kind("an integer from 0 to 65535, or null", _NUMBER, (int, type(None))),
]
Megabytes = Annotated[
    int, Field(strict=True, ge=1, le=1_048_576), Kind("an integer from 1 to 1048576", _NUMBER, (int,))
]
Kilobytes = Annotated[
    int, Field(strict=True, ge=1, le=1024), Kind("an integer from 1 to 1024", _NUMBER, (int,))
]
BufferMegabytes = Annotated[
    int, Field(strict=True, ge=1, le=1024), Kind("an integer from 1 to 1024", _NUMBER, (int,))
]
ConnectionCount = Annotated[
    int, Field(strict=True, ge=1, le=1_000_000), Kind("an integer from 1 to 1000000", _NUMBER, (int,))
]
StreamCount = Annotated[
    int, Field(strict=True, ge=1, le=65_536), Kind("an integer from 1 to 65536", _NUMBER, (int,))
]
ResetCount = Annotated[
    int, Field(strict=True, ge=10, le=1_000_000), Kind("an integer from 10 to 1000000", _NUMBER, (int,))
]
Attempts = Annotated[
    int, Field(strict=True, ge=1, le=1_000_000), Kind("an integer from 1 to 1000000", _NUMBER, (int,))
]
Workers = Annotated[
    int, Field(strict=True, ge=0, le=1024), Kind("an integer from 0 to 1024", _NUMBER, (int,))
]
Timeout = Annotated[
    float,
    Field(strict=True, gt=0, le=DAY, allow_inf_nan=False),
    Kind("a number of seconds, more than 0 and at most 86400", _NUMBER, (int, float)),
]
Grace = Annotated[
    float,
    Field(strict=True, ge=0, le=DAY, allow_inf_nan=False),
    Kind("a number of seconds from 0 to 86400", _NUMBER, (int, float)),
]
Leeway = Annotated[
    float,
    Field(strict=True, ge=0, le=300, allow_inf_nan=False),
    Kind("a number of seconds from 0 to 300", _NUMBER, (int, float)),
]
Interval = Annotated[
    Annotated[float, Field(strict=True, ge=0, le=YEAR, allow_inf_nan=False)] | None,
    AfterValidator(lambda seconds: seconds or None),
    Kind(
        "a number of seconds from 0 to 31536000, or null",
        f"{_NUMBER}; 0 or null turns it off",
        (int, float, type(None)),
    ),
]
"""Seconds; 0 is read as None: there is no timer."""

ClientCertificates = Annotated[
    Annotated[bool, Field(strict=True)] | Literal["optional"],
    Kind(alternatives("false", "optional", "true"), "Write one of the three, without quotes", (bool, str)),
]


# --- choices


def _choice(*choices: str) -> Kind:
    return Kind(alternatives(*choices), "Write one of them", (str,), text=True)


LogFormat = Annotated[
    Literal["auto", "json", "console", "journal"], _choice("auto", "json", "console", "journal")
]
LogLevel = Annotated[
    Literal["debug", "info", "warning", "error"], _choice("debug", "info", "warning", "error")
]
Decisions = Annotated[Literal["all", "denied"], _choice("all", "denied")]
AfterRotation = Annotated[Literal["keep", "drain"], _choice("keep", "drain")]
Gravity = Annotated[Literal["refuse", "warn", "allow"], _choice("refuse", "warn", "allow")]
GravityOrHold = Annotated[
    Literal["hold", "refuse", "warn", "allow"], _choice("hold", "refuse", "warn", "allow")
]
# Unquoted, 1.3 is a number to YAML; it can only mean one thing.
TlsVersion = Annotated[
    Literal["1.2", "1.3"],
    BeforeValidator(lambda value: str(value) if isinstance(value, float) else value),
    Kind('`"1.2"` or `"1.3"`', "Older versions are broken; write one of the two", (str, float), text=True),
]


# --- secrets


def sendable(value: Any) -> Any:
    """Empty is unset. A key that no header can carry would never match (RFC 9110, 5.5)."""
    if not isinstance(value, str):
        return value
    refuse_reference(value)
    if not value.isascii() or not value.isprintable():
        raise UnusableError(
            "has a control character or one outside ASCII, so it can't be sent in a header",
            "Make a key of letters and digits, for example with `openssl rand -hex 32`",
        )
    if value != value.strip():
        raise UnusableError(
            "begins or ends with a space, so it can't be sent in a header", "Remove the space around it"
        )
    if len(value) > _LONGEST_KEY:
        raise UnusableError(
            f"is longer than {_LONGEST_KEY} characters, too long to be sent in a header", "Make a shorter key"
        )
    return value or None


Secret = Annotated[
    SecretStr | None,
    BeforeValidator(sendable),
    Kind(
        "a string",
        "Put the key in quotes, so that YAML leaves it as it is",
        (str, type(None)),
        text=True,
        secret=True,
        credential=secret_in,
    ),
]


# --- places


def _host(value: Any) -> str:
    fix = "Write an address to listen on, such as `0.0.0.0`, `127.0.0.1` or `::`, without brackets"
    host = _text(value, "a host name or an IP address", fix)
    if not is_host(host):
        raise UnusableError("must be a host name or an IP address", fix)
    return host


def _policy(value: Any) -> Any:
    refuse_reference(value)
    if isinstance(value, str) and value not in BUILT_IN_POLICIES and not value.startswith("/"):
        raise UnusableError(
            f"must be {alternatives(*BUILT_IN_POLICIES)}, or the path of a file",
            "Write one of them; a file's name has a dot or a slash in it",
        )
    return value if value in BUILT_IN_POLICIES else absolute(value)


def _path(wants: str) -> Kind:
    return Kind(wants, "Write a path, or leave the key out", (str, type(None)), text=True, locate=beside)


Host = Annotated[str, BeforeValidator(_host), Kind("a host name or an IP address", "", (str,), text=True)]
OptionalHost = Annotated[
    Annotated[str, BeforeValidator(_host)] | None,
    Kind("a host name or an IP address, or null", "", (str, type(None)), text=True),
]
FilePath = Annotated[
    Path | None,
    BeforeValidator(absolute),
    replace(_path("the path of a file, or null"), credential=file_in),
]
"""A file that is read."""
WrittenPath = Annotated[Path | None, BeforeValidator(absolute), _path("the path of a file, or null")]
FolderPath = Annotated[Path | None, BeforeValidator(absolute), _path("the path of a folder, or null")]
SocketPath = Annotated[Path | None, BeforeValidator(absolute_socket), _path("the path of a socket, or null")]
PolicyName = Annotated[
    Literal["qdrant", "chroma", "inference", "http"] | Path,
    BeforeValidator(_policy),
    Kind(
        "`qdrant`, `chroma`, `inference`, `http` or the path of a file",
        "Write one of them",
        (str,),
        text=True,
        locate=policy_beside,
        credential=file_in,
    ),
]


def _address(value: Any) -> UpstreamAddress | None:
    if value is None or isinstance(value, UpstreamAddress):
        return value
    return parse_upstream(_text(value, "an address, as a string", "Write `http://host:port`"))


def _grpc_address(value: Any) -> UpstreamAddress | None:
    if value is None or isinstance(value, UpstreamAddress):
        return value
    return parse_grpc_upstream(_text(value, "an address, as a string", "Write `host:port`"))


_ADDRESS = Kind("an address, or null", "", (str, type(None)), text=True, locate=socket_beside)
HttpAddress = Annotated[UpstreamAddress | None, BeforeValidator(_address), _ADDRESS]
GrpcAddress = Annotated[UpstreamAddress | None, BeforeValidator(_grpc_address), _ADDRESS]


# --- peers


def _endpoint(value: Any) -> Endpoint | None:
    if value is None or isinstance(value, Endpoint):
        return value
    return parse_endpoint(_text(value, "an address, as a string", "Write `host:port`"), unix=True)


OptionalEndpoint = Annotated[Endpoint | None, BeforeValidator(_endpoint), _ADDRESS]
Peers = Annotated[
    tuple[Annotated[Peer, BeforeValidator(peer)], ...], Kind("a list of peers", PEER_FIX, (list,))
]


# --- certificates and clients


def _client_pattern(value: Any) -> ClientPattern:
    if isinstance(value, ClientPattern):
        return value
    return parse_client_pattern(_text(value, "a string", "Write `dns:*.example.org` or the like, in quotes"))


def _falling(days: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(days), reverse=True))


CertificatePairs = Annotated[
    tuple[Annotated[PairFiles, BeforeValidator(pair_files)], ...],
    Kind("a list of certificates with their keys", FIX, (list,), locate=pairs_beside, credential=file_in),
]
ClientPatterns = Annotated[
    tuple[Annotated[ClientPattern, BeforeValidator(_client_pattern)], ...],
    Kind("a list of clients", 'Write `["dns:*.example.org", "uri:spiffe://example.org/ns/*"]`', (list,)),
]
Days = Annotated[
    tuple[Annotated[int, Field(strict=True, ge=1, le=3650)], ...],
    AfterValidator(_falling),
    Kind("a list of whole days from 1 to 3650", "Write `[30, 14, 7, 3, 1]`", (list,)),
]
"""Days before an expiry, the most first."""


# --- the rest


def _claim_text(value: Any) -> Any:
    """Empty is unset."""
    if isinstance(value, str) and (not value.isprintable() or value != value.strip()):
        raise UnusableError(
            "has a space around it or a control character", "Write it exactly as it is in the issuer's tokens"
        )
    return value or None if isinstance(value, str) else value


ClaimText = Annotated[
    Annotated[str, Field(strict=True)] | None,
    BeforeValidator(_claim_text),
    Kind("a string, or null", "Write it in quotes", (str, type(None)), text=True),
]


def _cipher_string(value: Any) -> Any:
    if isinstance(value, str) and not _CIPHERS.fullmatch(value):
        raise UnusableError(
            "is not an OpenSSL cipher string", "Write one as in openssl-ciphers(1), or leave the key out"
        )
    return value


Ciphers = Annotated[
    Annotated[str, Field(strict=True)] | None,
    BeforeValidator(_cipher_string),
    Kind(
        "an OpenSSL cipher string, or null",
        "Write one as in openssl-ciphers(1), or leave the key out",
        (str, type(None)),
        text=True,
    ),
]


def _network(value: Any) -> Any:
    fix = "Write the address of the network and its prefix length: 10.1.2.3/8 belongs to `10.0.0.0/8`"
    if isinstance(value, ipaddress.IPv4Network | ipaddress.IPv6Network):
        return value
    try:
        return ipaddress.ip_network(_text(value, "a network or an address", fix))
    except UnusableError:
        raise
    except ValueError:
        # From None: the original names the text.
        raise UnusableError("must be a network such as `10.0.0.0/8`, or an address", fix) from None


def _request_path(value: Any) -> str:
    fix = "Write a path as requests have it, such as `/healthz`"
    path = _text(value, "a path", fix)
    if not _PATH_OF_A_REQUEST.fullmatch(path) or "?" in path or "#" in path:
        raise UnusableError(
            "must be a path: a slash, then visible ASCII characters without `?` and `#`",
            fix,
        )
    return path


Network = Annotated[ipaddress.IPv4Network | ipaddress.IPv6Network, BeforeValidator(_network)]
Networks = Annotated[
    tuple[Network, ...], Kind("a list of networks", 'Write `["10.0.0.0/8", "::1"]`', (list,))
]
RequestPaths = Annotated[
    tuple[Annotated[str, BeforeValidator(_request_path)], ...],
    Kind("a list of paths", 'Write `["/healthz", "/metrics"]`', (list,)),
]
