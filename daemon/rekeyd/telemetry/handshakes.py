"""Failed TLS handshakes: counted all, told each, and in a flood told together.

The rule: in a second at most `LINES` lines are told of one listener, and at most `LINES_OF_A_NETWORK` of them
of one network. The rest of the second is told at its end in a few lines, which are part of the next second's:
each stands for failures of one network and reason, the last for all others, and says how many in `count`. It
carries the fields on which all of them agree. None is dropped: the counts add up, and equal the metric.

Where scanners knock all day this is what keeps the log readable. Must not know: how a handshake is done.
"""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

from rekeyd.telemetry.floods import SECOND, Telling, network_of

LINES = 20
LINES_OF_A_NETWORK = 5
_GROUPS = 10  # the lines that tell what waited leave room for fresh ones

KINDS = (
    "timeout",
    "closed_by_client",
    "client_alert",
    "client_certificate",
    "no_client_certificate",
    "unknown_name",
    "unsupported_protocol",
    "no_shared_parameters",
    "not_tls",
    "other",
)
"""What a metric calls the reasons. `client_alert`: the client refused us, as it does when it does not believe
our certificate."""

# By what stands in OpenSSL's words, the first that fits; they differ between its versions.
_SIGNS = (
    ("client_certificate", "client_certificate"),
    ("peer_did_not_return_a_certificate", "no_client_certificate"),
    ("unrecognized_name", "unknown_name"),
    ("protocol_version", "unsupported_protocol"),
    ("unsupported_protocol", "unsupported_protocol"),
    ("version_too_low", "unsupported_protocol"),
    ("inappropriate_fallback", "unsupported_protocol"),
    ("alert", "client_alert"),
    ("no_shared", "no_shared_parameters"),
    ("no_suitable", "no_shared_parameters"),
    ("timeout", "timeout"),
    ("closed_by_client", "closed_by_client"),
    ("eof", "closed_by_client"),
    ("http", "not_tls"),
    ("wrong_version_number", "not_tls"),
    ("packet_length", "not_tls"),
    ("unknown_protocol", "unsupported_protocol"),
)


def kind_of(reason: str) -> str:
    """The one of `KINDS` that a reason is, in whatever words."""
    words = reason.lower().replace(" ", "_")
    return next((kind for sign, kind in _SIGNS if sign in words), "other")


class Failure(NamedTuple):
    """One handshake that failed, or what several have in common."""

    listener: str
    client: str | None
    reason: str | None
    generation: int | None = None
    peer: str | None = None
    """What it calls itself by the certificate that it showed; not verified."""

    def fields(self) -> dict[str, Any]:
        """What is known, as the line has it."""
        return {name: value for name, value in self._asdict().items() if value is not None}


Counted = tuple[Failure, int]


class Ration:
    """Which failures are told alone and which together. Sans I/O: `now` is passed in in monotonic seconds."""

    def __init__(self, *, lines: int = LINES, of_a_network: int = LINES_OF_A_NETWORK) -> None:
        self._lines = lines
        self._of_a_network = of_a_network
        self._seconds: dict[str, _Second] = {}
        self.waiting = False
        """Whether something waits to be told: ask `next_due`."""

    def add(self, failure: Failure, now: float) -> list[Counted]:
        """The lines to write now; empty where the failure waits to be told together with others."""
        second = self._seconds.get(failure.listener)
        told: list[Counted] = []
        if second is None or now >= second.ends:
            told = self._turn(failure.listener, now)
            second = self._seconds[failure.listener]
        network = network_of(failure.client)
        if second.told.total() < self._lines and second.told[network] < self._of_a_network:
            second.told[network] += 1
            told.append((failure, 1))
        else:
            second.hold(network, failure)
            self.waiting = True
        return told

    def due(self, now: float) -> list[Counted]:
        """The lines that have waited long enough."""
        over = [name for name, second in self._seconds.items() if second.held and now >= second.ends]
        return [each for name in over for each in self._turn(name, now)]

    def next_due(self) -> float | None:
        """When `due` will have something to tell; None: nothing waits."""
        due = min((second.ends for second in self._seconds.values() if second.held), default=None)
        self.waiting = due is not None
        return due

    def flush(self) -> list[Counted]:
        """All that waits, and forget everything."""
        told = [each for second in self._seconds.values() for each in second.release()]
        self._seconds.clear()
        self.waiting = False
        return told

    def _turn(self, listener: str, now: float) -> list[Counted]:
        """Begin a new second with the lines that the old one left to be told."""
        old = self._seconds.get(listener)
        left = [] if old is None else list(old.release())
        new = self._seconds[listener] = _Second(now + SECOND)
        new.told.update(network_of(failure.client) for failure, _ in left)
        return left


class _Second:
    """One listener in one second: how many lines are told of each network, and what waits for its end."""

    __slots__ = ("ends", "held", "told")

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.told: Counter[str] = Counter()
        self.held: dict[tuple[str, str | None] | None, Counted] = {}

    def hold(self, network: str, failure: Failure) -> None:
        group: tuple[str, str | None] | None = (network, failure.reason)
        if group not in self.held and len(self.held) >= _GROUPS - 1:
            group = None
        together, count = self.held.get(group, (failure, 0))
        self.held[group] = _agreed(together, failure), count + 1

    def release(self) -> Iterator[Counted]:
        held, self.held = self.held, {}
        for group, (failure, count) in held.items():
            of_a_network = group is not None and failure.client is None
            yield (failure._replace(client=group[0] or None) if of_a_network and group else failure), count


def _agreed(one: Failure, other: Failure) -> Failure:
    return Failure._make(mine if mine == its else None for mine, its in zip(one, other, strict=True))


class Emit(Protocol):
    """`Logs.emit`."""

    def __call__(self, level: str, event: str, fields: dict[str, Any]) -> None: ...


class Counts(Protocol):
    """`Metrics`, as far as handshakes are concerned."""

    def handshake(self, listener: str) -> None: ...

    def handshake_failed(self, listener: str, reason: str) -> None: ...


class HandshakeLog:
    """Tells failed handshakes through `emit`, and counts each. To be used in a running event loop."""

    def __init__(
        self, emit: Emit, counts: Counts | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._emit = emit
        self._counts = counts
        self._failures = Telling(Ration(), self._tell, clock=clock)

    def succeeded(self, listener: str) -> None:
        """Count one that went well."""
        if self._counts is not None:
            self._counts.handshake(listener)

    def failed(  # what a line says, in its order
        self, listener: str, client: str, reason: str, generation: int | None, peer: str | None = None
    ) -> None:
        """Tell of one handshake that failed: why, in a few words; `client` is an address without its port,
        `peer` what it calls itself."""
        if self._counts is not None:
            self._counts.handshake_failed(listener, reason)
        self._failures.add(Failure(listener, client, reason, generation, peer))

    def close(self) -> None:
        """Tell what still waits."""
        self._failures.close()

    def _tell(self, failure: Failure, count: int) -> None:
        fields = failure.fields()
        if count > 1:
            fields["count"] = count
        self._emit("warning", "tls.handshake_failed", fields)
