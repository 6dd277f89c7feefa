"""What Prometheus is told of tunnels and of the places to which they lead.

The rules are those of `metrics.py`: labels are bounded (who comes in is not one of them, the peers of the
settings are), and all is asked at the scrape. Must not know: tunnels.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector


@dataclass(frozen=True, slots=True)
class Carried:
    """What tunnels in one direction (`in`, `out`) of one peer carried, in bytes, and how many are open."""

    direction: str
    peer: str
    open: int = 0
    to_peer: int = 0
    from_peer: int = 0

    @property
    def of(self) -> tuple[str, str]:
        return self.direction, self.peer

    def __add__(self, other: "Carried") -> "Carried":
        return replace(
            self,
            open=self.open + other.open,
            to_peer=self.to_peer + other.to_peer,
            from_peer=self.from_peer + other.from_peer,
        )

    def closed(self) -> "Carried":
        return replace(self, open=0)


@dataclass(frozen=True, slots=True)
class Way:
    """How a place was reached so far; `failures` in a row until now."""

    direction: str
    peer: str
    connected: int
    failed: int
    failures: int


class TunnelMetrics(Collector):
    """Asks `carried`, `ended` (by direction and reason) and `ways` at each scrape."""

    def __init__(
        self,
        carried: Callable[[], Iterable[Carried]],
        ended: Callable[[], Mapping[tuple[str, str], int]],
        ways: Callable[[], Iterable[Way]],
    ) -> None:
        self._carried = carried
        self._ended = ended
        self._ways = ways

    def collect(self) -> Iterator[Metric]:
        yield from self._of_tunnels()
        yield from self._of_ways()

    def _of_tunnels(self) -> Iterator[Metric]:
        tunnels = GaugeMetricFamily(
            "rekeyd_tunnels", "Open tunnels between peers.", labels=["direction", "peer"]
        )
        carried = CounterMetricFamily(
            "rekeyd_tunnel_bytes",
            "Bytes that tunnels carried, without their encryption.",
            labels=["direction", "peer", "way"],
        )
        for each in self._carried():
            tunnels.add_metric(each.of, each.open)
            carried.add_metric((*each.of, "to_peer"), each.to_peer)
            carried.add_metric((*each.of, "from_peer"), each.from_peer)
        ended = CounterMetricFamily(
            "rekeyd_tunnels_ended", "Tunnels that ended, and why.", labels=["direction", "reason"]
        )
        for labels, count in self._ended().items():
            ended.add_metric(labels, count)
        yield from (tunnels, carried, ended)

    def _of_ways(self) -> Iterator[Metric]:
        attempts = CounterMetricFamily(
            "rekeyd_tunnel_connects",
            "Attempts to reach the other end of a tunnel: a peer, or for those that come in the service.",
            labels=["direction", "peer", "outcome"],
        )
        failing = GaugeMetricFamily(
            "rekeyd_tunnel_connect_failures",
            "Attempts that failed since the last one that went well.",
            labels=["direction", "peer"],
        )
        for way in self._ways():
            attempts.add_metric((way.direction, way.peer, "connected"), way.connected)
            attempts.add_metric((way.direction, way.peer, "failed"), way.failed)
            failing.add_metric((way.direction, way.peer), way.failures)
        yield from (attempts, failing)
