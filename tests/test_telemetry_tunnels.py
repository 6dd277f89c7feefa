"""What Prometheus is told of tunnels."""

from prometheus_client import CollectorRegistry, generate_latest

from rekeyd.telemetry.tunnels import Carried, TunnelMetrics, Way


def test_tunnels_and_ways_are_told_by_direction_and_peer() -> None:
    registry = CollectorRegistry()
    registry.register(
        TunnelMetrics(
            lambda: [Carried("out", "node-2:6335", 3, 100, 200), Carried("in", "", 1, 5, 6)],
            lambda: {("out", "idle"): 7},
            lambda: [Way("out", "node-2:6335", connected=4, failed=9, failures=2)],
        )
    )
    told = {line for line in generate_latest(registry).decode().splitlines() if not line.startswith("#")}
    assert told == {
        'rekeyd_tunnels{direction="out",peer="node-2:6335"} 3.0',
        'rekeyd_tunnels{direction="in",peer=""} 1.0',
        'rekeyd_tunnel_bytes_total{direction="out",peer="node-2:6335",way="to_peer"} 100.0',
        'rekeyd_tunnel_bytes_total{direction="out",peer="node-2:6335",way="from_peer"} 200.0',
        'rekeyd_tunnel_bytes_total{direction="in",peer="",way="to_peer"} 5.0',
        'rekeyd_tunnel_bytes_total{direction="in",peer="",way="from_peer"} 6.0',
        'rekeyd_tunnels_ended_total{direction="out",reason="idle"} 7.0',
        'rekeyd_tunnel_connects_total{direction="out",outcome="connected",peer="node-2:6335"} 4.0',
        'rekeyd_tunnel_connects_total{direction="out",outcome="failed",peer="node-2:6335"} 9.0',
        'rekeyd_tunnel_connect_failures{direction="out",peer="node-2:6335"} 2.0',
    }


def test_what_was_carried_adds_up() -> None:
    total = sum([Carried("in", "", 1, 2, 3)] * 2, Carried("in", ""))
    assert total == Carried("in", "", 2, 4, 6)
    assert total.closed() == Carried("in", "", 0, 4, 6)
    assert total.of == ("in", "")
