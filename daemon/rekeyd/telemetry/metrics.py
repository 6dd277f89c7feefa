"""What Prometheus is told: counts of what happened, and answers to how things are at the moment of a scrape.

The rules: names and units follow Prometheus' (base units, `_total` for counters). Labels are bounded: no
path, no client address; what comes from outside is folded into a fixed set, and a key id is one that a
generation knows. What can be asked is asked at the scrape and never kept, so that it can't be stale: a
certificate that is no longer served, or a generation without an open connection, is gone from the answer.

Counting is done with plain numbers, for it is done at every request: everything here, `exposition` included,
belongs to the event loop's thread. Nothing is registered in prometheus-client's global registry.

Must not know: where metrics are served.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Protocol

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from rekeyd.access.rights import Right
from rekeyd.access.verdict import Reason
from rekeyd.telemetry.decisions import Decision
from rekeyd.telemetry.handshakes import kind_of
from rekeyd.telemetry.tallies import KEY_IDS, OTHER, Durations, KeyIds
from rekeyd.telemetry.totals import Totals, joined
from rekeyd.trust.generation import Generation

TRIGGERS = frozenset({"start", "watch", "ttl", "retry", "not_before", "sighup", "admin"})
OUTCOMES = frozenset({"applied", "unchanged", "refused", "settling"})
REASONS = frozenset({*map(str, Reason), "health", "preflight", "malformed", "upstream_changed"})
CAUSES = frozenset({"connect", "connection", "tls", "timeout", "protocol", "application", "none"})

_STATUS_CLASSES = ("none", "1xx", "2xx", "3xx", "4xx", "5xx")
_FAULTS_OF_SERVERS = frozenset({2, 4, 12, 13, 14, 15})
"""UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and DATA_LOSS of gRPC."""
_OPENMETRICS = "application/openmetrics-text"


class Outcome(Protocol):
    """What came of a reload: `rekeyd.reload.outcome.Outcome`."""

    @property
    def result(self) -> str: ...

    @property
    def trigger(self) -> str: ...


class Metrics(Collector):
    """Everything that is counted in this process, and what is asked when somebody wants to know.

    `generation` is the one that is served now; `connections` how many are open, by the number of the
    generation under which they were accepted; `last_used` when a key was, by its id; `lost_lines` how many a
    log has lost, by its name; times are in seconds of the epoch.
    """

    def __init__(
        self,
        *,
        version: str,
        generation: Callable[[], Generation | None],
        connections: Callable[[], Mapping[int, int]],
        last_used: Callable[[str], float | None] = lambda _: None,
        lost_lines: Callable[[], Mapping[str, int]] = dict,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._version = version
        self._generation = generation
        self._connections = connections
        self._last_used = last_used
        self._lost_lines = lost_lines
        self._now = now
        self._reloads: Counter[tuple[str, ...]] = Counter()
        self._last_attempt = self._last_success = 0.0
        self._refused = False
        self._handshakes: Counter[tuple[str, ...]] = Counter()
        self._handshake_failures: Counter[tuple[str, ...]] = Counter()
        self._decisions: dict[_Kind, int] = {}
        self._keys = KeyIds(generation)
        self._durations = [Durations() for _ in _STATUS_CLASSES]
        self._upstream_failures: Counter[tuple[str, ...]] = Counter({(cause,): 0 for cause in sorted(CAUSES)})
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    def register(self, more: Collector) -> None:
        """What else is to be told at a scrape."""
        self._registry.register(more)

    # What happens.

    def reloaded(self, outcome: Outcome) -> None:
        """An attempt to reload ended. One that settles has neither succeeded nor been refused yet."""
        result = _folded(outcome.result, OUTCOMES)
        self._reloads[_folded(outcome.trigger, TRIGGERS), result] += 1
        self._last_attempt = self._now()
        if result in {"applied", "unchanged"}:
            self._last_success, self._refused = self._last_attempt, False
        elif result == "refused":
            self._refused = True

    def decided(self, decision: Decision) -> None:
        """A request was answered, or given up."""
        kind = decision.decision, decision.reason, decision.right_needed, decision.key_id
        try:
            self._decisions[kind] += 1
        except KeyError:
            self._decided_for_the_first_time(*kind)
        if decision.duration is not None:
            self._durations[_class_of(decision)].observe(decision.duration)

    def handshake(self, listener: str) -> None:
        """A TLS handshake succeeded."""
        self._handshakes[listener,] += 1

    def handshake_failed(self, listener: str, reason: str) -> None:
        """A TLS handshake failed; `reason` in any words."""
        self._handshake_failures[listener, kind_of(reason)] += 1

    def upstream_failed(self, cause: str) -> None:
        """The upstream could not be reached, broke off or was too slow."""
        self._upstream_failures[_folded(cause, CAUSES),] += 1

    def _decided_for_the_first_time(
        self, decision: str, reason: str | None, right: Right | None, key_id: str | None
    ) -> None:
        label = None if key_id is None else self._keys.label_for(key_id, self._forget_keys)
        kind = (decision, None if reason is None else _folded(reason, REASONS), right, label)
        self._decisions[kind] = self._decisions.get(kind, 0) + 1

    def _forget_keys(self, gone: frozenset[str]) -> None:
        self._decisions = {kind: count for kind, count in self._decisions.items() if kind[3] not in gone}

    # What is told.

    def exposition(self, accept: str = "", totals: Totals | None = None) -> tuple[bytes, str]:
        """All of it, and its content type: OpenMetrics where the `Accept` field names it, else plain text.

        `totals` is what other processes have counted.
        """
        # Only its name: what else a client writes there would be parsed, and repeated in the content type.
        encode, content_type = choose_encoder(_OPENMETRICS if _OPENMETRICS in accept else "")
        told = self._registry if totals is None else _Joined(self._registry, totals)
        return encode(told), content_type

    def families(self) -> Iterator[Metric]:
        """All of it, for another process."""
        yield from self._registry.collect()

    def collect(self) -> Iterator[Metric]:
        """Asked by the registry at each scrape."""
        yield InfoMetricFamily("rekeyd_build", "Which rekeyd this is.", {"version": self._version})
        yield from self._of_what_is_served()
        yield from self._of_reloads()
        yield _counter("rekeyd_handshakes", "TLS handshakes that succeeded.", ["listener"], self._handshakes)
        yield _counter(
            "rekeyd_handshake_failures",
            "TLS handshakes that failed.",
            ["listener", "reason"],
            self._handshake_failures,
        )
        yield from self._of_requests()
        yield _gauge(
            "rekeyd_key_last_used_timestamp_seconds",
            f"When a key last let a request in; of the first {KEY_IDS} keys that are served.",
            ["key_id"],
            self._uses(),
        )
        yield _counter(
            "rekeyd_lost_lines",
            "Lines that could not be written: of the log (`main`), and of the audit.",
            ["log"],
            {(log,): count for log, count in self._lost_lines().items()},
        )
        yield _counter(
            "rekeyd_upstream_failures",
            "Requests whose upstream could not be reached, broke off or was too slow.",
            ["cause"],
            self._upstream_failures,
        )

    def _uses(self) -> dict[tuple[str, ...], float]:
        """Always of the same keys, those first that may do most, so that no label comes and goes."""
        generation = self._generation()
        ids = generation.ring.ids if generation is not None else ()
        uses = {(key_id,): self._last_used(key_id) for key_id in islice(ids, KEY_IDS)}
        return {labels: use for labels, use in uses.items() if use is not None}

    def _of_what_is_served(self) -> Iterator[Metric]:
        generation = self._generation()
        number = generation.number if generation is not None else 0
        yield GaugeMetricFamily("rekeyd_generation", "The number of the generation that is served.", number)
        yield _gauge(
            "rekeyd_certificate_expiry_timestamp_seconds",
            "When a certificate that is served expires.",
            ["name", "serial"],
            _expiries(generation),
        )
        yield _gauge(
            "rekeyd_connections",
            "Open connections, by the generation under which they were accepted.",
            ["generation"],
            {(str(number),): count for number, count in sorted(self._connections().items())},
        )

    def _of_reloads(self) -> Iterator[Metric]:
        yield _counter(
            "rekeyd_reloads",
            "Attempts to reload, by what asked for them and what came of them.",
            ["trigger", "outcome"],
            self._reloads,
        )
        for name, documentation, value in (
            ("last_success", "When what is on disk was last found to be what is served.", self._last_success),
            ("last_attempt", "When what is on disk was last looked at.", self._last_attempt),
        ):
            yield GaugeMetricFamily(f"rekeyd_reload_{name}_timestamp_seconds", documentation, value)
        yield GaugeMetricFamily(
            "rekeyd_reload_refused",
            "1 while what is on disk is refused, and what was served before goes on.",
            float(self._refused),
        )

    def _of_requests(self) -> Iterator[Metric]:
        yield _counter(
            "rekeyd_decisions",
            "Requests that were let in or not, and why. `right` is what the request needs.",
            ["decision", "reason", "right", "key_id"],
            {
                (decision, reason or "", "" if right is None else str(right), key_id or ""): count
                for (decision, reason, right, key_id), count in self._decisions.items()
            },
        )
        durations = HistogramMetricFamily(
            "rekeyd_request_duration_seconds",
            "From a request's head to the end of its answer, by the class of the status.",
            labels=["status"],
        )
        for status, each in zip(_STATUS_CLASSES, self._durations, strict=True):
            durations.add_metric([status], each.buckets(), each.sum)
        yield durations


@dataclass(frozen=True, slots=True)
class _Joined:
    own: CollectorRegistry
    totals: Totals

    def collect(self) -> Iterator[Metric]:
        yield from joined(self.own.collect(), self.totals.collect())


_Kind = tuple[str, str | None, Right | None, str | None]
"""The decision, its reason, the right that was needed and the id of the key."""


def _class_of(decision: Decision) -> int:
    """The place among `_STATUS_CLASSES`; of gRPC's statuses, as HTTP would say it."""
    if decision.grpc_status is not None:
        return 2 if decision.grpc_status == 0 else 5 if decision.grpc_status in _FAULTS_OF_SERVERS else 4
    return min((decision.status or 0) // 100, 5)


def _expiries(generation: Generation | None) -> dict[tuple[str, ...], float]:
    leaves = [material.leaf for material in generation.certificates] if generation is not None else []
    return {((*leaf.names, leaf.subject)[0], leaf.serial_hex): leaf.not_after.timestamp() for leaf in leaves}


def _folded(value: str, known: frozenset[str]) -> str:
    return str(value) if value in known else OTHER


def _counter(
    name: str, documentation: str, labels: Sequence[str], counts: Mapping[tuple[str, ...], float]
) -> Metric:
    family = CounterMetricFamily(name, documentation, labels=labels)
    return _filled(family, counts)


def _gauge(
    name: str, documentation: str, labels: Sequence[str], values: Mapping[tuple[str, ...], float]
) -> Metric:
    family = GaugeMetricFamily(name, documentation, labels=labels)
    return _filled(family, values)


def _filled(
    family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[tuple[str, ...], float]
) -> Metric:
    for labels, value in values.items():
        family.add_metric([label.encode("utf-8", "backslashreplace").decode() for label in labels], value)
    return family
