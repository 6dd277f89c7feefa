"""Where the protected service is: the text of `upstream.http` and `upstream.grpc` as a value.

Owns: the forms an address may take. Must not know: how a connection is made, or whether anything answers.

    http://host[:port]    https://host[:port]    unix:/path    app:module:factory    demo

An address is an origin: it has no path, query or fragment (a request's target is forwarded byte for byte,
with nothing in front of it) and no user or password (`upstream.api_key` is the place for a credential).
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Literal

from rekeyd.settings.kinds import UnusableError

UNIX_PATH_LIMIT = 107
"""Bytes in the path of a unix socket: `sun_path` in unix(7) has 108, the last is NUL."""

_FORMS = "Write `http://host:port`, `https://host:port`, `unix:/path`, `app:module:factory` or `demo`"
_GRPC_FORMS = "Write `host:port`, `http://host:port`, `https://host:port` or `unix:/path`"
_AUTHORITY = re.compile(r"(?:\[(?P<v6>[^\[\]]*)\]|(?P<name>[^\[\]:]*))(?::(?P<port>[0-9]{1,5}))?", re.ASCII)
_HOST_NAME = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?", re.ASCII)
_APP = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*:[A-Za-z_]\w*", re.ASCII)
_DEFAULT_PORTS: dict[str, int] = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class UpstreamAddress:
    """A parsed upstream address.

    `host` and `port` are for `http` and `https` (an IPv6 host without brackets), else empty and 0. `path` is
    the socket of `unix` and the `module:factory` of `app`. `authority` is what a Host header says.
    """

    scheme: Literal["http", "https", "unix", "app", "demo"]
    host: str = ""
    port: int = 0
    path: str = ""
    authority: str = "localhost"

    def __str__(self) -> str:
        if self.scheme in _DEFAULT_PORTS:
            return f"{self.scheme}://{self.authority}"
        return f"{self.scheme}:{self.path}" if self.path else self.scheme


def parse_upstream(text: str) -> UpstreamAddress:
    """Read an address for HTTP. Raises `UnusableError`, a ValueError that carries a fix."""
    scheme, _, rest = text.partition(":")
    match scheme.lower():
        case "http" | "https" as web:
            return _parse_web(web, rest, _FORMS)
        case "unix":
            return _parse_unix(rest)
        case "app":
            return _parse_app(rest)
        case "demo" if text.lower() == "demo":
            return UpstreamAddress("demo")
        case _:
            raise UnusableError("must be an address", _FORMS)


def parse_grpc_upstream(text: str) -> UpstreamAddress:
    """Read an address for gRPC, where a bare `host:port` is plaintext. Raises `UnusableError`."""
    scheme, _, rest = text.partition(":")
    match scheme.lower():
        case "http" | "https" as web if rest.startswith("//"):
            return _parse_web(web, rest, _GRPC_FORMS)
        case "unix":
            return _parse_unix(rest)
        case _:
            return _parse_web("http", "//" + text, _GRPC_FORMS)


def is_host(text: str) -> bool:
    """Whether this is a host name, an IPv4 address or an IPv6 address without brackets and zone."""
    return _is_ipv6(text) if ":" in text else _HOST_NAME.fullmatch(text) is not None


def _is_ipv6(text: str) -> bool:
    try:
        return ipaddress.IPv6Address(text).scope_id is None
    except ValueError:
        return False


def _parse_web(scheme: Literal["http", "https"], rest: str, forms: str) -> UpstreamAddress:
    if not rest.startswith("//"):
        raise UnusableError("must be an address", forms)
    authority = rest[2:].removesuffix("/")
    if "@" in authority:
        raise UnusableError(
            "must not hold a user or password", "Put the upstream's credential in `upstream.api_key`"
        )
    if any(mark in authority for mark in "/?#"):
        raise UnusableError(
            "must have no path, query or fragment: a request keeps the target that it came with",
            "End it after the host and port",
        )
    matched = _AUTHORITY.fullmatch(authority)
    host = (matched["v6"] or matched["name"] or "") if matched else ""
    if matched is None or not is_host(host) or (matched["v6"] is not None) != (":" in host):
        raise UnusableError("has no valid host and port", f"{forms}; an IPv6 address goes in brackets")
    port = int(matched["port"] or _DEFAULT_PORTS[scheme])
    if not 1 <= port <= 65535:  # noqa: PLR2004 - the range of TCP ports
        raise UnusableError("has a port that is out of range", "Use a port from 1 to 65535")
    return UpstreamAddress(scheme, host=host, port=port, authority=authority)


def _parse_unix(path: str) -> UpstreamAddress:
    if not path.startswith("/"):
        raise UnusableError("must name a socket by an absolute path", "Write `unix:/path/to/socket`")
    check_socket_path(path)
    return UpstreamAddress("unix", path=path)


def check_socket_path(path: str) -> None:
    """Raises `UnusableError` for a path that no unix socket can have."""
    if len(path.encode(errors="surrogateescape")) > UNIX_PATH_LIMIT:
        raise UnusableError(
            f"is longer than {UNIX_PATH_LIMIT} bytes, the limit for a unix socket", "Use a shorter path"
        )
    if not path.isprintable():
        raise UnusableError("has a control character in its path", "Remove it")


def _parse_app(path: str) -> UpstreamAddress:
    if not _APP.fullmatch(path):
        raise UnusableError(
            "must name a module and a factory in it", "Write `app:package.module:make_app`, a callable in it"
        )
    return UpstreamAddress("app", path=path)
