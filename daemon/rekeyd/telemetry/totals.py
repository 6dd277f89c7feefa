"""What several processes have counted, as one set of metrics.

The rules: counters and histograms are added up, and stay when the process that counted them is gone, so that
none goes backwards. Of gauges those are added that count what is there (`_ADDED`); of the others the
supervisor's own is told, and none of a worker's. Pure. Must not know: who asks, and how it came here.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

_COUNTED = frozenset({"counter", "histogram"})
_ADDED = frozenset(
    {
        "rekeyd_connections",
        "rekeyd_tunnels",
        "rekeyd_tunnel_connect_failures",
        "process_open_fds",
        "process_resident_memory_bytes",
        "process_virtual_memory_bytes",
    }
)

_Labels = tuple[tuple[str, str], ...]
_Samples = dict[tuple[str, _Labels], float]


def as_json(families: Iterable[Metric]) -> list[dict[str, Any]]:
    """Of a worker's metrics what is added up, as JSON-able values."""
    return [
        {
            "name": family.name,
            "help": family.documentation,
            "type": family.type,
            "samples": _samples_of(family),
        }
        for family in families
        if family.type in _COUNTED or family.name in _ADDED
    ]


class Totals(Collector):
    """The sum of what each process told last, by the number of the process."""

    def __init__(self) -> None:
        self._told: dict[int, list[Metric]] = {}
        self._kinds: dict[str, tuple[str, str]] = {}
        self._departed: dict[str, _Samples] = {}

    def tell(self, process: int, families: list[dict[str, Any]]) -> None:
        """What a process has counted until now, from `as_json`.

        Raises AttributeError, KeyError, TypeError or ValueError for what is none of that, and leaves it out.
        """
        told = [_family_in(family) for family in families]
        self._told[process] = told
        self._kinds.update((family.name, (family.documentation, family.type)) for family in told)

    def depart(self, process: int) -> None:
        """It is gone: what it counted stays, and what it had is had no more."""
        for family in self._told.pop(process, ()):
            if family.type in _COUNTED:
                _add(self._departed.setdefault(family.name, {}), _samples_of(family))

    def collect(self) -> Iterator[Metric]:
        """One family of each name."""
        sums: dict[str, _Samples] = {name: dict(samples) for name, samples in self._departed.items()}
        for families in self._told.values():
            for family in families:
                _add(sums.setdefault(family.name, {}), _samples_of(family))
        for name, samples in sums.items():
            yield _family(name, *self._kinds[name], samples)


def joined(own: Iterable[Metric], totals: Iterable[Metric]) -> Iterator[Metric]:
    """The supervisor's own metrics, with those of `totals` added where they are of one name."""
    more = {family.name: family for family in totals}
    for family in own:
        other = more.pop(family.name, None)
        if other is None:
            yield family
        else:
            samples: _Samples = {}
            for each in family, other:
                _add(samples, _samples_of(each))
            yield _family(family.name, family.documentation, family.type, samples)
    yield from more.values()


def _samples_of(family: Metric) -> list[tuple[str, Mapping[str, str], float]]:
    return [(sample.name, sample.labels, sample.value) for sample in family.samples]


def _add(sums: _Samples, samples: Iterable[tuple[str, Mapping[str, str], float]]) -> None:
    for name, labels, value in samples:
        key = (name, tuple(sorted(labels.items())))
        sums[key] = sums.get(key, 0.0) + value


def _family_in(told: Mapping[str, Any]) -> Metric:
    family = Metric(told["name"], told["help"], told["type"])
    for name, labels, value in told["samples"]:
        family.add_sample(str(name), {str(label): str(of) for label, of in labels.items()}, float(value))
    return family


def _family(name: str, documentation: str, kind: str, samples: _Samples) -> Metric:
    family = Metric(name, documentation, kind)
    for (sample, labels), value in samples.items():
        family.add_sample(sample, dict(labels), value)
    return family
