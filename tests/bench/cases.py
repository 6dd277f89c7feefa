"""What is measured: each case is a row of the table."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from bench.job import Job
from bench.servers import KEY, Server
from bench.stage import Load, Stage, settle


@dataclass(frozen=True, slots=True)
class Case:
    """One row. `letter` is the one of `--only`."""

    letter: str
    title: str
    job: Job
    log: bool = False
    unit: str = "µs"
    """Of the value that is measured; µs are those of CPU for one operation."""
    quick: bool = False
    """Whether `--quick` has it."""


def head(target: str = "/collections/books?size=300", *, method: str = "GET", key: str = KEY) -> str:
    """Of a request, as clients of such services send it."""
    return (
        f"{method} {target} HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\nAccept-Encoding: gzip, deflate\r\n"
        f"User-Agent: bench/1\r\napi-key: {key}\r\n\r\n"
    )


REQUEST = Job("requests", 0, "", head())

CASES = [
    Case("a", "Request, kept-alive TLS, log off", REQUEST, quick=True),
    Case("a", "Request, kept-alive TLS, JSON log", REQUEST, log=True, quick=True),
]


def cpu_per_operation(stage: Stage, server: Server, job: Job) -> float:
    """Microseconds that the server's processes spend for one operation."""
    aimed = replace(job, port=server.port, authority=str(stage.authority_file))
    with Load.of(aimed) as load:
        settle()
        before = server.cpu()
        result = load.run()
        settle()
        return (server.cpu() - before) / result.operations * 1e6


Measure = Callable[[Stage, Server, Job], float]
