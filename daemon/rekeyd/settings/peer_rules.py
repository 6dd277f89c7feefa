"""How the settings of peers bear on one another and on the rest. See `rules`, whose kind these are.

Must not know: where a value was written, or what is on the disk.
"""

from collections.abc import Iterator

from rekeyd.errors import Problem
from rekeyd.settings.rules import Rule, is_here, is_loopback, is_wildcard
from rekeyd.settings.schema import Settings

_P2P_TLS = "cluster.p2p.enable_tls"


def _problem(key: str, message: str, fix: str) -> Problem:
    return Problem("", key, message, fix)


# --- refused


def _peers_are_known(settings: Settings) -> Iterator[Problem]:
    p2p = settings.cluster.p2p
    if not p2p.enable_tls:
        return
    if settings.tls.ca_cert is None:
        yield _problem(
            "cluster.p2p.enable_tls",
            "needs `tls.ca_cert`, which is not set: there is nobody to vouch for a peer",
            "Name the file of the cluster's authority",
        )
    if not (p2p.allowed_peers or p2p.peers):
        yield _problem(
            "cluster.p2p.allowed_peers",
            "is empty, and so is `cluster.p2p.peers`: nobody could be a peer",
            'Name the peers, for example with `["dns:*.cluster.example.org"]`',
        )


def _peers_lead_somewhere(settings: Settings) -> Iterator[Problem]:
    p2p = settings.cluster.p2p
    if not p2p.enable_tls:
        return
    if p2p.upstream is None:
        yield _problem(
            "cluster.p2p.upstream",
            "is not set, and `cluster.p2p.enable_tls` needs it",
            "Set it to the cluster port of the service: `host:port` or `unix:/path`",
        )
    elif p2p.port and p2p.upstream.port == p2p.port and is_here(p2p.upstream.host, peer_host(settings)):
        yield _problem(
            "cluster.p2p.upstream",
            "is the address on which rekeyd itself listens for peers",
            "Give the service's cluster port another number, or change `cluster.p2p.port`",
        )


def _peers_have_ports_of_their_own(settings: Settings) -> Iterator[Problem]:
    p2p, service = settings.cluster.p2p, settings.service
    if not p2p.enable_tls:
        return
    taken = [(service.host, service.http_port), (service.host, service.grpc_port)]
    taken.append(("127.0.0.1", settings.metrics.port))
    own = (peer_host(settings), p2p.port)
    if _is_taken(own, taken):
        yield _problem("cluster.p2p.port", "is a port that rekeyd serves on already", "Choose another one")
    taken.append(own)
    for number, each in enumerate(p2p.peers, start=1):
        at = (each.listen.host, each.listen.port)
        if _is_taken(at, taken):
            yield _problem(
                "cluster.p2p.peers",
                f"entry {number} listens on a port that is taken already",
                "Give each peer a port of its own",
            )
        taken.append(at)


def _is_taken(at: tuple[str, int], taken: list[tuple[str, int | None]]) -> bool:
    """Port 0 is any free one; a wildcard takes a port on every address."""
    host, port = at
    return port != 0 and any(
        port == other and (host == its or is_wildcard(host) or is_wildcard(its)) for its, other in taken
    )


PEER_RULES: tuple[Rule, ...] = (
    Rule((_P2P_TLS, "tls.ca_cert", "cluster.p2p.allowed_peers", "cluster.p2p.peers"), _peers_are_known),
    Rule(
        (_P2P_TLS, "cluster.p2p.upstream", "cluster.p2p.port", "cluster.p2p.host", "service.host"),
        _peers_lead_somewhere,
    ),
    Rule(
        (
            _P2P_TLS,
            "cluster.p2p.port",
            "cluster.p2p.peers",
            "cluster.p2p.host",
            "service.host",
            "service.http_port",
            "service.grpc_port",
            "metrics.port",
        ),
        _peers_have_ports_of_their_own,
    ),
)


# --- worth saying


def _peers_without_tls(settings: Settings) -> Iterator[Problem]:
    p2p = settings.cluster.p2p
    for key in ("upstream", "peers", "allowed_peers"):
        if getattr(p2p, key) and not p2p.enable_tls:
            yield _problem(
                f"cluster.p2p.{key}",
                "has no effect without `cluster.p2p.enable_tls`: nothing listens there",
                "Set `cluster.p2p.enable_tls: true`, or remove it",
            )


def _the_cluster_in_the_open(settings: Settings) -> Iterator[Problem]:
    p2p = settings.cluster.p2p
    if not p2p.enable_tls:
        return
    if p2p.upstream is not None and p2p.upstream.host and not is_loopback(p2p.upstream.host):
        yield _problem(
            "cluster.p2p.upstream",
            "is not on this machine, so what peers say crosses the network in the clear",
            "Put rekeyd beside the service, or see that nobody else is on that network",
        )
    if any(not is_loopback(each.listen.host) for each in p2p.peers):
        yield _problem(
            "cluster.p2p.peers",
            "has a `listen` beyond this machine: whoever reaches it speaks to the peer in this node's name",
            "Listen on 127.0.0.1, or see that nobody else is on that network",
        )


PEER_WARNINGS: tuple[Rule, ...] = (
    Rule(
        (_P2P_TLS, "cluster.p2p.upstream", "cluster.p2p.peers", "cluster.p2p.allowed_peers"),
        _peers_without_tls,
    ),
    Rule((_P2P_TLS, "cluster.p2p.upstream", "cluster.p2p.peers"), _the_cluster_in_the_open),
)


# --- what the rules ask


def peer_host(settings: Settings) -> str:
    """Where peers are listened for."""
    return settings.cluster.p2p.host or settings.service.host
