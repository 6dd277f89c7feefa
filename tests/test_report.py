from rekeyd.telemetry.report import Listener, Report


def test_a_listener_is_told_by_what_a_client_needs() -> None:
    listener = Listener("http", "127.0.0.1", 6333, tls=True)
    assert listener.fields() == {"name": "http", "host": "127.0.0.1", "port": 6333, "tls": True}


def test_what_is_not_served_is_not_told() -> None:
    report = Report({"upstream": True})
    assert (report.cluster, report.grpc_health, report.connections, report.in_use) == (None, None, {}, {})
