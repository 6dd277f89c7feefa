"""How a value is come by. Everything is in seconds and bytes; what is told in other units is the report's."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.job import Job, Result
from bench.servers import Server
from bench.stage import Load, Stage, settle

EVERY = 1.0
"""Seconds from one certificate to the next."""
ROTATIONS = 5


@dataclass(frozen=True, slots=True)
class Turn:
    """One server's turn in one round."""

    stage: Stage
    server: Server
    job: Job

    def load(self, job: Job | None = None) -> Job:
        """The job, aimed at the server."""
        return replace(job or self.job, port=self.server.port, authority=str(self.stage.authority_file))


def cpu_per_operation(turn: Turn) -> tuple[float, ...]:
    """Seconds that the server's processes spend for one operation."""
    with Load.of(turn.load()) as load:
        return (_watched(turn.server, load).cpu,)


def memory_per_connection(turn: Turn) -> tuple[float, ...]:
    """Bytes of memory for each of very many connections that are open and idle."""
    with Load.of(turn.load()) as load:
        settle()
        before = turn.server.memory()
        opened = load.run().operations
        settle()
        return ((turn.server.memory() - before) / opened,)


def under_rotation(turn: Turn) -> tuple[float, ...]:
    """CPU of a request while certificates change, and of one change while nobody asks; the 99th percentile of
    the time for an answer, without changes and with; requests without an answer; certificates shown.

    What a change costs is not taken from the load with and without: it is too small beside what they vary by.
    It is what the server spends more than in a time without changes.
    """

    def rotate() -> None:
        for _ in range(ROTATIONS):
            turn.server.rotate(turn.stage.authority.issue())
            time.sleep(EVERY)  # noqa: TID251 - it is the pace that is measured

    job = turn.load(replace(turn.job, seconds=ROTATIONS * EVERY))
    with Load.of(job) as load:
        quiet = _watched(turn.server, load)
    with Load.of(job) as load:
        busy = _watched(turn.server, load, rotate)
    idle = _spent(turn.server, lambda: time.sleep(ROTATIONS * EVERY))  # noqa: TID251 - as long as what follows
    alone = (_spent(turn.server, rotate) - idle) / ROTATIONS
    told = busy.result
    return (
        busy.cpu,
        alone,
        quiet.result.p99,
        told.p99,
        told.failures,
        told.certificates,
    )


def _spent(server: Server, meanwhile: Callable[[], None]) -> float:
    """Seconds of CPU."""
    before = server.cpu()
    meanwhile()
    return server.cpu() - before


@dataclass(frozen=True, slots=True)
class Watched:
    """What clients saw, and the seconds of CPU that each operation took."""

    result: Result
    cpu: float


def _watched(server: Server, load: Load, meanwhile: Callable[[], None] = lambda: None) -> Watched:
    settle()
    before = server.cpu()
    load.start()
    meanwhile()
    result = load.result()
    settle()
    if not result.operations:
        raise RuntimeError("no request got an answer")
    return Watched(result, (server.cpu() - before) / result.operations)
