"""Where peers are: the texts of `cluster.p2p.upstream` and `cluster.p2p.peers` as values.

Owns: the forms that they may take. Must not know: how a connection is made, or whether anything answers.

    host:port    [v6]:port    unix:/path
    {listen: ENDPOINT, connect: ENDPOINT, expect: dns:NAME}
"""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekeyd.settings.client_patterns import ClientPattern, parse_client_pattern
from rekeyd.settings.kinds import UnusableError
from rekeyd.settings.upstream_address import check_socket_path, is_host

PEER_FIX = (
    "Write `- {listen: 127.0.0.1:16336, connect: node-2.example.org:6335}`; `expect: dns:NAME` (or another "
    "form of `allowed_peers`) may stand beside them"
)
_FORM = re.compile(r"(?:\[(?P<v6>[^\[\]]+)\]|(?P<name>[^\[\]:]+)):(?P<port>[0-9]{1,5})", re.ASCII)
_HIGHEST_PORT = 65535
_MUST_HAVE = ("listen", "connect")
_MAY_HAVE = (*_MUST_HAVE, "expect")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One end of a connection: `host` (IPv6 without brackets) and `port`, or the `path` of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_name(self) -> bool:
        """Whether it is given by a name, which a certificate can have, and not by an address."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return bool(self.host)
        return False


@dataclass(frozen=True, slots=True)
class Peer:
    """One outbound tunnel: what comes in at `listen` leaves for `connect`, where `expect` must answer."""

    listen: Endpoint
    connect: Endpoint
    expect: ClientPattern

    def __str__(self) -> str:
        return str(self.connect)


def parse_endpoint(text: str, *, unix: bool) -> Endpoint:
    """Read one end; `unix`: it may be a socket file. Raises `UnusableError`."""
    forms = "Write `host:port` or `unix:/path`" if unix else "Write `host:port`"
    scheme, _, path = text.partition(":")
    if unix and scheme.lower() == "unix":
        if not path.startswith("/"):
            raise UnusableError("must name a socket by an absolute path", "Write `unix:/path/to/socket`")
        check_socket_path(path)
        return Endpoint(path=path)
    matched = _FORM.fullmatch(text)
    host = (matched["v6"] or matched["name"]) if matched else ""
    if matched is None or not is_host(host) or (matched["v6"] is not None) != (":" in host):
        raise UnusableError("must be a host and a port", f"{forms}; an IPv6 address goes in brackets")
    if int(matched["port"]) > _HIGHEST_PORT:
        raise UnusableError("has a port that is out of range", "Use a port from 1 to 65535")
    return Endpoint(host, int(matched["port"]))


def peer(value: Any) -> Peer:
    """One entry of `cluster.p2p.peers`. Raises `UnusableError`."""
    if isinstance(value, Peer):
        return value
    if not isinstance(value, Mapping) or not set(_MUST_HAVE) <= value.keys() <= set(_MAY_HAVE):
        raise UnusableError("must be a mapping with `listen` and `connect`", PEER_FIX)
    if not all(isinstance(text, str) for text in value.values()):
        raise UnusableError("must have strings for `listen`, `connect` and `expect`", PEER_FIX)
    listen, connect = (parse_endpoint(value[name], unix=False) for name in _MUST_HAVE)
    if connect.port == 0:
        raise UnusableError("has no port to connect to", PEER_FIX)
    return Peer(listen, connect, _expected(value.get("expect"), connect))


def _expected(text: str | None, connect: Endpoint) -> ClientPattern:
    if text is not None:
        return parse_client_pattern(text)
    if not connect.is_name:
        raise UnusableError(
            "is given by an address, which says nothing of who answers there", "Add `expect: dns:NAME`"
        )
    return parse_client_pattern(f"dns:{connect.host}")
