"""One line for each access decision, and in a flood of denials one line for several.

The rules (README, "Logs"): each request has exactly one `auth.*` line. Where more than `FLOOD` denials
come from one network within a second, one line stands for those that differ neither in reason nor in status,
and says how many in `count`; it carries the fields on which all of them agree. None is dropped: the counts
add up. A flood lasts until a second brings no more than `FLOOD`.

Line, event, metric and evidence come from one call of `record`, so that they can't disagree:
`logging.decisions` keeps a line out of the log, but not out of the counts or the audit, and not from those
who listen.

Must not know: how a decision was made, or where lines go.
"""

import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import itemgetter
from typing import Any, Literal, NamedTuple, Protocol

from rekeyd.access.rights import Right
from rekeyd.telemetry.floods import NETWORKS, SECOND, Telling, network_of
from rekeyd.telemetry.hub import Hub

FLOOD = 50
_GROUPS = 16


class Decision(NamedTuple):
    """What is told of one request once its response is finished. Holds no secret.

    `path` is without the query (a credential may stand there). `duration` is in seconds, `tls` the version
    (`TLSv1.3`), `client` an address without its port, `client_certificate` the identity that it proved.
    `generation` is the one that decided (None: the one in force when the line is written),
    `connection_generation` the one under which the connection was accepted, where that is another. `subject`
    and `token_id` are a token's `sub` and `jti`.
    `status` is HTTP's, `grpc_status` gRPC's.
    A tuple, because one is made for every request.
    """

    decision: Literal["allowed", "denied"]
    reason: str | None = None
    key_id: str | None = None
    right_needed: Right | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    client: str | None = None
    request_id: str | None = None
    duration: float | None = None
    tls: str | None = None
    generation: int | None = None
    failure: str | None = None
    client_certificate: str | None = None
    connection_generation: int | None = None
    subject: str | None = None
    token_id: str | None = None
    grpc_status: int | None = None

    def fields(self) -> dict[str, Any]:
        """What is known, as the line has it."""
        told = {name: value for name, value in zip(_NAMES, self, strict=False) if value is not None}
        if (right := self.right_needed) is not None:
            told["right_needed"] = _RIGHTS[right]
        if (duration := self.duration) is not None:
            told["duration"] = int(duration * 1e6) / 1e6
        return told


_NAMES = Decision._fields
_RIGHTS = {right: str(right) for right in Right}
Counted = tuple[Decision, int]


class Coalescer:
    """Which denials are told alone and which together. Sans I/O: `now` is passed in in monotonic seconds."""

    def __init__(self, *, flood: int = FLOOD, networks: int = NETWORKS) -> None:
        self._flood = flood
        self._most = networks
        self._networks: OrderedDict[str, _Network] = OrderedDict()  # by the beginning of their present second
        self.waiting = False
        """Whether something may wait to be told: ask `next_due`."""

    def add(self, denial: Decision, now: float) -> list[Counted]:
        """The lines to write now; empty where the denial waits to be told together with others.

        Where more networks deny at once than are remembered, the oldest is told early and forgotten.
        """
        name = network_of(denial.client)
        network = self._networks.get(name)
        told: list[Counted] = []
        if network is None or now >= network.ends:
            if network is not None:
                told.extend(network.release())
            network = _Network(name, now, flooded=self._floods(network, now))
            self._networks[name] = network
            self._networks.move_to_end(name)
            told.extend(self._forget_the_oldest())
        network.seen += 1
        if network.flooded or network.seen > self._flood:
            network.hold(denial)
            self.waiting = True
        else:
            told.append((denial, 1))
        return told

    def due(self, now: float) -> list[Counted]:
        """The lines that have waited long enough."""
        told: list[Counted] = []
        for name, network in list(self._networks.items()):
            if now < network.ends:
                break
            told.extend(network.release())
            if now >= network.ends + SECOND:
                del self._networks[name]
        return told

    def next_due(self) -> float | None:
        """When `due` will have something to tell; None: nothing waits."""
        due = next((network.ends for network in self._networks.values() if network.held), None)
        self.waiting = due is not None
        return due

    def flush(self) -> list[Counted]:
        """All that waits, and forget everything."""
        told = [each for network in self._networks.values() for each in network.release()]
        self._networks.clear()
        self.waiting = False
        return told

    def _floods(self, network: "_Network | None", now: float) -> bool:
        return network is not None and network.seen > self._flood and now < network.ends + SECOND

    def _forget_the_oldest(self) -> Iterable[Counted]:
        if len(self._networks) <= self._most:
            return ()
        _, oldest = self._networks.popitem(last=False)
        return oldest.release()


class _Network:
    """One network in one second."""

    __slots__ = ("ends", "flooded", "held", "name", "seen")

    def __init__(self, name: str, now: float, *, flooded: bool) -> None:
        self.name = name
        self.ends = now + SECOND
        self.flooded = flooded
        self.seen = 0
        self.held: dict[tuple[str | None, int | None], _Together] = {}

    def hold(self, denial: Decision) -> None:
        kind = (denial.reason, denial.status)
        if kind not in self.held and len(self.held) >= _GROUPS:
            kind = (None, None)
        together = self.held.get(kind)
        if together is None:
            self.held[kind] = _Together(denial)
        else:
            together.add(denial)

    def release(self) -> Iterator[Counted]:
        held, self.held = self.held, {}
        for together in held.values():
            denial = together.agreed
            yield (denial if denial.client else denial._replace(client=self.name)), together.count


class _Together:
    """Denials that are told as one: `agreed` has the fields on which all of them agree.

    In a flood they soon agree on the same fields; so those alone are compared, at once.
    """

    __slots__ = ("_pick", "_picked", "agreed", "count")

    def __init__(self, first: Decision) -> None:
        self.count = 1
        self._agree_on(first)

    def add(self, denial: Decision) -> None:
        self.count += 1
        if self._pick(denial) != self._picked:
            self._agree_on(
                Decision._make(
                    [mine if mine == its else None for mine, its in zip(self.agreed, denial, strict=True)]
                )
            )

    def _agree_on(self, agreed: Decision) -> None:
        self.agreed = agreed
        self._pick = itemgetter(*[place for place, value in enumerate(agreed) if value is not None])
        self._picked = self._pick(agreed)


class Emit(Protocol):
    """`Logs.emit`."""

    def __call__(
        self,
        level: str,
        event: str,
        fields: dict[str, Any],
        *,
        dispensable: bool = ...,
        logged: bool = ...,
        audited: bool = ...,
    ) -> None: ...


class Counts(Protocol):
    """`Metrics` and `Evidence`, as far as decisions are concerned."""

    def decided(self, decision: Decision) -> None: ...


class DecisionLog:
    """Tells decisions through `emit`, and has each counted by all `counts`. For a running event loop.

    `decisions` is the setting `logging.decisions`, and may be set at any time. `hub` is asked whether anybody
    listens for what the setting leaves out. `audited`: there is an audit, which leaves nothing out.
    """

    def __init__(
        self,
        emit: Emit,
        *,
        counts: Sequence[Counts] = (),
        hub: Hub | None = None,
        decisions: Literal["all", "denied"] = "all",
        audited: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.decisions = decisions
        self._emit = emit
        self._audited = audited
        self._counts = counts
        self._hub = hub if hub is not None else Hub()
        self._denials = Telling(Coalescer(), self._tell, clock=clock)

    def record(self, decision: Decision) -> None:
        """Tell of one finished request."""
        for counts in self._counts:
            counts.decided(decision)
        if decision.decision == "denied":
            self._denials.add(decision)
            return
        logged = self.decisions == "all"
        if logged or self._audited or self._hub.wanted:
            self._emit(
                "info", "auth.allowed", decision.fields(), dispensable=True, logged=logged, audited=True
            )

    def close(self) -> None:
        """Tell what still waits."""
        self._denials.close()

    def _tell(self, denial: Decision, count: int) -> None:
        fields = denial.fields()
        if count > 1:
            fields["count"] = count
        self._emit("warning", "auth.denied", fields, audited=True)
