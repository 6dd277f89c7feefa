from collections.abc import Iterable

import orjson
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from rekeyd.telemetry.totals import Totals, as_json, joined


def counter(**counts: float) -> Metric:
    family = CounterMetricFamily("rekeyd_handshakes", "TLS handshakes that succeeded.", labels=["listener"])
    for listener, count in counts.items():
        family.add_metric([listener], count)
    return family


def connections(count: float, generation: str = "1") -> Metric:
    family = GaugeMetricFamily("rekeyd_connections", "Open connections.", labels=["generation"])
    family.add_metric([generation], count)
    return family


def told(families: Iterable[Metric]) -> dict[tuple[str, tuple[str, ...]], float]:
    return {
        (sample.name, tuple(sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def passed_on(*families: Metric) -> list[dict[str, object]]:
    """As it comes from another process."""
    passed: list[dict[str, object]] = orjson.loads(orjson.dumps(as_json(families)))
    return passed


def test_counters_and_connections_are_added_up() -> None:
    totals = Totals()
    totals.tell(1, passed_on(counter(http=3), connections(2)))
    totals.tell(2, passed_on(counter(http=4, grpc=1), connections(5)))
    assert told(totals.collect()) == {
        ("rekeyd_handshakes_total", ("http",)): 7,
        ("rekeyd_handshakes_total", ("grpc",)): 1,
        ("rekeyd_connections", ("1",)): 7,
    }


def test_what_is_told_again_takes_the_place_of_what_was_told() -> None:
    totals = Totals()
    totals.tell(1, passed_on(counter(http=3), connections(2)))
    totals.tell(1, passed_on(counter(http=5), connections(1, "2")))
    assert told(totals.collect()) == {
        ("rekeyd_handshakes_total", ("http",)): 5,
        ("rekeyd_connections", ("2",)): 1,
    }


def test_no_counter_goes_back_when_a_process_is_gone_and_its_connections_are_gone_with_it() -> None:
    totals = Totals()
    totals.tell(1, passed_on(counter(http=3), connections(2)))
    totals.depart(1)
    totals.depart(1)
    totals.tell(2, passed_on(counter(http=1)))
    assert told(totals.collect()) == {("rekeyd_handshakes_total", ("http",)): 4}


def test_histograms_keep_their_form() -> None:
    family = HistogramMetricFamily("rekeyd_request_duration_seconds", "How long.", labels=["status"])
    family.add_metric(["2xx"], [("0.1", 1), ("+Inf", 2)], 0.75)
    totals = Totals()
    for process in (1, 2):
        totals.tell(process, passed_on(family))
    (sum_of_both,) = totals.collect()
    assert sum_of_both.type == "histogram"
    assert told([sum_of_both])["rekeyd_request_duration_seconds_sum", ("2xx",)] == 1.5
    assert told([sum_of_both])["rekeyd_request_duration_seconds_bucket", ("+Inf", "2xx")] == 4


def test_what_the_supervisor_alone_knows_is_not_taken_from_workers() -> None:
    generation = GaugeMetricFamily("rekeyd_generation", "Its number.", 7)
    assert as_json([generation]) == []


def test_the_supervisors_own_counts_are_added_and_each_family_is_told_once() -> None:
    totals = Totals()
    totals.tell(1, passed_on(counter(http=3), connections(2)))
    generation = GaugeMetricFamily("rekeyd_generation", "Its number.", 7)
    families = list(joined([generation, counter(admin=1)], totals.collect()))
    assert [family.name for family in families] == [
        "rekeyd_generation",
        "rekeyd_handshakes",
        "rekeyd_connections",
    ]
    assert told(families)["rekeyd_handshakes_total", ("admin",)] == 1
    assert told(families)["rekeyd_handshakes_total", ("http",)] == 3
