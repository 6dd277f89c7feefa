import datetime as dt
import re
import timeit
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Right
from rekeyd.telemetry.decisions import Decision
from rekeyd.telemetry.handshakes import KINDS
from rekeyd.telemetry.metrics import CAUSES, OUTCOMES, REASONS, TRIGGERS, Metrics
from rekeyd.telemetry.tallies import BUCKETS, KEY_IDS
from rekeyd.trust.generation import Generation
from support.generations import candidate_of, material_of
from support.pki import Authority

PROMETHEUS_SENDS = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
ALLOWED = Decision("allowed", "key", "api_key", Right.READ, status=200, duration=0.003)


@dataclass(frozen=True)
class Outcome:
    result: str
    trigger: str = "watch"


class Instance:
    """Metrics, and everything that they ask."""

    def __init__(self, generation: Generation | None = None) -> None:
        self.generation = generation
        self.connections: dict[int, int] = {}
        self.now = 1_800_000_000.0
        self.used: set[str] = set()
        self.metrics = Metrics(
            version="1.2.3",
            generation=lambda: self.generation,
            connections=lambda: self.connections,
            lost_lines=lambda: {"main": 2, "audit": 3},
            last_used=lambda key_id: self.now if key_id in self.used else None,
            now=lambda: self.now,
        )

    def scraped(self) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
        """Every sample by its name and labels, as Prometheus reads it."""
        body, _ = self.metrics.exposition()
        samples = [sample for family in parse_text(body.decode()) for sample in family.samples]
        found = {(sample.name, tuple(sorted(sample.labels.items()))): sample.value for sample in samples}
        assert len(found) == len(samples), "a sample is told twice"
        return found

    def value(self, name: str, **labels: str) -> float | None:
        return self.scraped().get((name, tuple(sorted(labels.items()))))

    def labels_of(self, name: str) -> list[dict[str, str]]:
        return [dict(labels) for sample, labels in self.scraped() if sample == name]


def generation_of(
    authority: Authority, *names: str, number: int = 1, keys: tuple[str, ...] = ()
) -> Generation:
    ring = KeyRing(Credential.of_secret(key, Right.READ, f"the secret of {key}") for key in keys)
    return candidate_of(authority.issue(*names) if names else None, ring=ring).generation(number)


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def everything(instance: Instance, authority: Authority) -> None:
    """Make every metric have a sample."""
    instance.generation = generation_of(authority, "example.org", keys=("api_key",))
    instance.connections = {1: 2}
    instance.used = {"api_key"}
    instance.metrics.reloaded(Outcome("applied"))
    instance.metrics.decided(ALLOWED)
    instance.metrics.handshake("http")
    instance.metrics.handshake_failed("http", "timeout")
    instance.metrics.upstream_failed("connect")


def test_the_expiry_of_what_is_served_now_is_asked_at_the_scrape(authority: Authority) -> None:
    instance = Instance()
    for names in (["one.example.org", "other.example.org"], ["two.example.org"]):
        leaf = authority.issue(*names)
        instance.generation = candidate_of(leaf).generation(1)
        ((_, labels, value),) = [
            (name, dict(labels), value)
            for (name, labels), value in instance.scraped().items()
            if name == "rekeyd_certificate_expiry_timestamp_seconds"
        ]
        assert labels == {"name": names[0], "serial": material_of(leaf).leaf.serial_hex}
        assert value == leaf.certificate.not_valid_after_utc.timestamp()


def test_a_certificate_that_is_served_twice_is_told_once(authority: Authority) -> None:
    generation = generation_of(authority, "example.org")
    twice = replace(generation, certificates=generation.certificates * 2)
    assert len(Instance(twice).labels_of("rekeyd_certificate_expiry_timestamp_seconds")) == 1


def test_connections_are_counted_by_generation_and_gone_with_the_last_one() -> None:
    instance = Instance()
    instance.connections = {3: 2, 10: 1}
    assert instance.value("rekeyd_connections", generation="3") == 2
    assert instance.value("rekeyd_connections", generation="10") == 1
    instance.connections = {10: 1}
    assert instance.labels_of("rekeyd_connections") == [{"generation": "10"}]


def test_reloads_are_counted_by_what_asked_and_what_came_of_it() -> None:
    instance = Instance()
    for outcome in (Outcome("applied", "start"), Outcome("unchanged", "ttl"), Outcome("unchanged", "ttl")):
        instance.metrics.reloaded(outcome)
    assert instance.value("rekeyd_reloads_total", trigger="start", outcome="applied") == 1
    assert instance.value("rekeyd_reloads_total", trigger="ttl", outcome="unchanged") == 2


def test_a_refusal_is_shown_until_what_is_on_disk_is_good_again() -> None:
    instance = Instance()
    shown = []
    for result in ("applied", "settling", "refused", "refused", "settling", "unchanged", "applied"):
        instance.now += 10
        instance.metrics.reloaded(Outcome(result))
        success, attempt = (
            instance.value(f"rekeyd_reload_last_{which}_timestamp_seconds") or 0
            for which in ("success", "attempt")
        )
        shown.append(
            (instance.value("rekeyd_reload_refused"), instance.now - success, instance.now - attempt)
        )
    assert shown == [(0, 0, 0), (0, 10, 0), (1, 20, 0), (1, 30, 0), (1, 40, 0), (0, 0, 0), (0, 0, 0)]


def test_decisions_are_counted_by_reason_right_and_key(authority: Authority) -> None:
    instance = Instance(generation_of(authority, keys=("api_key",)))
    instance.metrics.decided(ALLOWED)
    instance.metrics.decided(ALLOWED)
    instance.metrics.decided(Decision("denied", "unknown_key", status=401))
    counted = {
        tuple(labels.values()): instance.value("rekeyd_decisions_total", **labels)
        for labels in instance.labels_of("rekeyd_decisions_total")
    }
    assert counted == {("allowed", "api_key", "key", "read"): 2, ("denied", "", "unknown_key", ""): 1}


def test_when_a_key_was_last_used_is_told_of_a_bounded_number_of_those_that_are_served(
    authority: Authority,
) -> None:
    name = "rekeyd_key_last_used_timestamp_seconds"
    instance = Instance(generation_of(authority, keys=("a", "b")))
    instance.used = {"b", "of another generation"}
    assert instance.labels_of(name) == [{"key_id": "b"}]
    assert instance.value(name, key_id="b") == instance.now
    many = tuple(f"key-{number}" for number in range(KEY_IDS + 100))
    instance.generation, instance.used = generation_of(authority, keys=many), set(many)
    assert len(instance.labels_of(name)) == KEY_IDS


def test_a_key_that_is_gone_is_still_counted_by_its_name(authority: Authority) -> None:
    """Its last requests end after the reload that removed it."""
    instance = Instance(generation_of(authority, keys=("api_key",)))
    instance.metrics.decided(ALLOWED)
    instance.generation = generation_of(authority, keys=("another",), number=2)
    instance.metrics.decided(ALLOWED)
    assert [labels["key_id"] for labels in instance.labels_of("rekeyd_decisions_total")] == ["api_key"]


@pytest.mark.parametrize(
    ("status", "label"),
    [(101, "1xx"), (204, "2xx"), (404, "4xx"), (503, "5xx"), (None, "none"), (999, "5xx")],
)
def test_durations_are_told_by_the_class_of_the_status(status: int | None, label: str) -> None:
    instance = Instance()
    for duration in (0.0, 0.004, 1e9):
        instance.metrics.decided(Decision("allowed", "key", status=status, duration=duration))
    name = "rekeyd_request_duration_seconds"
    assert instance.value(f"{name}_count", status=label) == 3
    assert instance.value(f"{name}_sum", status=label) == 1e9 + 0.004
    assert instance.value(f"{name}_bucket", status=label, le=str(BUCKETS[0])) == 1
    assert instance.value(f"{name}_bucket", status=label, le="0.005") == 2
    assert instance.value(f"{name}_bucket", status=label, le="+Inf") == 3


@pytest.mark.parametrize(("grpc", "label"), [(0, "2xx"), (16, "4xx"), (8, "4xx"), (14, "5xx"), (2, "5xx")])
def test_calls_of_grpc_are_told_by_what_their_status_means(grpc: int, label: str) -> None:
    instance = Instance()
    instance.metrics.decided(Decision("allowed", "key", status=200, grpc_status=grpc, duration=0.1))
    assert instance.value("rekeyd_request_duration_seconds_count", status=label) == 1


def test_handshakes_and_failures_of_the_upstream_are_counted() -> None:
    instance = Instance()
    instance.metrics.handshake("http")
    instance.metrics.handshake_failed("http", "tlsv1_alert_unknown_ca")
    instance.metrics.upstream_failed("timeout")
    assert instance.value("rekeyd_handshakes_total", listener="http") == 1
    assert instance.value("rekeyd_handshake_failures_total", listener="http", reason="client_alert") == 1
    assert instance.value("rekeyd_upstream_failures_total", cause="timeout") == 1
    assert instance.value("rekeyd_upstream_failures_total", cause="tls") == 0


def test_lines_that_a_log_has_lost_are_counted_by_its_name() -> None:
    assert Instance().value("rekeyd_lost_lines_total", log="audit") == 3


def test_the_process_and_the_version_are_told() -> None:
    instance = Instance()
    assert instance.value("rekeyd_build_info", version="1.2.3") == 1
    assert instance.value("process_open_fds")
    assert instance.value("process_resident_memory_bytes")


def test_nothing_is_in_the_global_registry() -> None:
    Instance()
    Instance()
    names = [metric.name for metric in prometheus_client.REGISTRY.collect()]
    assert not [name for name in names if name.startswith("rekeyd")]


@pytest.mark.parametrize(
    ("accept", "content_type", "parse"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("*/*", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        ("text/plain;version=x;escaping=y", "text/plain; version=0.0.4; charset=utf-8", parse_text),
        (PROMETHEUS_SENDS, "application/openmetrics-text; version=1.0.0; charset=utf-8", parse_openmetrics),
        (
            "application/openmetrics-text;version=not-a-number",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            parse_openmetrics,
        ),
    ],
)
def test_a_scraper_gets_the_form_that_it_asks_for(
    accept: str, content_type: str, parse: Callable[[str], Any], authority: Authority
) -> None:
    instance = Instance()
    everything(instance, authority)
    body, told = instance.metrics.exposition(accept)
    assert told == content_type
    names = {sample.name for family in parse(body.decode()) for sample in family.samples}
    assert {"rekeyd_decisions_total", "rekeyd_request_duration_seconds_bucket", "rekeyd_build_info"} <= names


def test_names_and_units_follow_the_rules_of_prometheus(authority: Authority) -> None:
    """As `promtool check metrics` has them: help, base units, `_total` for counters and for nothing else."""
    instance = Instance()
    everything(instance, authority)
    families = [
        family
        for family in parse_text(instance.metrics.exposition()[0].decode())
        if family.name.startswith("rekeyd")
    ]
    assert len(families) == 15
    for family in families:
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", family.name)
        assert family.documentation.endswith(".")
        assert family.samples
        assert not re.search(
            r"milli|micro|nano|minutes|hours|percent|kilo|mega|gauge|counter|histogram", family.name
        )
        totals = [sample.name.endswith("_total") for sample in family.samples]
        assert all(totals) if family.type == "counter" else not any(totals)
        for label in {label for sample in family.samples for label in sample.labels}:
            assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", label)
            assert label not in family.name.split("_")
        if "timestamp" in family.name or "duration" in family.name:
            assert family.name.endswith("_seconds")


@given(
    words=st.lists(st.text(max_size=40), max_size=60),
    number=st.integers(min_value=-(10**6), max_value=10**6),
)
def test_whatever_comes_from_outside_the_labels_stay_the_same_few(words: list[str], number: int) -> None:
    instance = Instance(None)
    for word in words:
        instance.metrics.reloaded(Outcome(word, word))
        instance.metrics.handshake_failed("http", word)
        instance.metrics.upstream_failed(word)
        instance.metrics.decided(Decision("denied", word, word, client=word, path=word, status=number % 1000))
    scraped = instance.scraped()
    seen: dict[str, set[str]] = {}
    for name, labels in scraped:
        for label, value in labels:
            seen.setdefault(f"{name} {label}", set()).add(value)
    assert seen.get("rekeyd_reloads_total trigger", set()) <= TRIGGERS | {"other"}
    assert seen.get("rekeyd_reloads_total outcome", set()) <= OUTCOMES | {"other"}
    assert seen.get("rekeyd_handshake_failures_total reason", set()) <= set(KINDS)
    assert seen.get("rekeyd_upstream_failures_total cause", set()) <= CAUSES | {"other"}
    assert seen.get("rekeyd_decisions_total reason", set()) <= REASONS | {"other"}
    assert seen.get("rekeyd_decisions_total key_id", set()) <= {"other"}
    assert sum(value for (name, _), value in scraped.items() if name == "rekeyd_decisions_total") == len(
        words
    )


def test_names_in_certificates_can_not_break_the_exposition(authority: Authority) -> None:
    generation = generation_of(authority, "example.org")
    (material,) = generation.certificates
    odd = replace(material.leaf, dns_names=('a"b\\c\nrekeyd_generation 7\n\udc80',))
    instance = Instance(replace(generation, certificates=(replace(material, chain=(odd,)),)))
    (labels,) = instance.labels_of("rekeyd_certificate_expiry_timestamp_seconds")
    assert labels["name"] == 'a"b\\c\nrekeyd_generation 7\n\\udc80'
    assert instance.value("rekeyd_generation") == 1


def test_counting_a_request_costs_next_to_nothing(authority: Authority) -> None:
    """Far below what a request costs; the bound is for a busy machine, about 0.5 µs are measured."""
    instance = Instance(generation_of(authority, keys=("api_key",)))
    best = min(timeit.repeat(lambda: instance.metrics.decided(ALLOWED), number=2000, repeat=10)) / 2000
    assert best < 10e-6


def test_a_scrape_of_a_thousand_certificates_is_short(authority: Authority) -> None:
    generation = generation_of(authority, "example.org")
    (material,) = generation.certificates
    many = tuple(
        replace(material, chain=(replace(material.leaf, serial=number, not_after=dt.datetime.now(dt.UTC)),))
        for number in range(1000)
    )
    instance = Instance(replace(generation, certificates=many))
    assert min(timeit.repeat(instance.metrics.exposition, number=1, repeat=3)) < 0.25
    assert len(instance.labels_of("rekeyd_certificate_expiry_timestamp_seconds")) == 1000
