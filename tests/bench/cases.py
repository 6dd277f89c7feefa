"""What is measured. Each case gives one or more rows of a table."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.job import Job
from bench.measures import Turn, cpu_per_operation, memory_per_connection, under_rotation
from bench.report import Line
from bench.servers import KEY
from support.key_files import entry, secret_of

Settings = Mapping[str, dict[str, Any]]
KIB, MIB = 1024, 1024 * 1024


@dataclass(frozen=True, slots=True)
class Variant:
    """rekeyd with other settings; they are made when they are needed, with a folder for what they name."""

    title: str
    settings: Callable[[Path], Settings]


@dataclass(frozen=True, slots=True)
class Case:
    """`measure` gives one value for each of `lines`. `letter` is the one of `--only`."""

    letter: str
    lines: tuple[Line, ...]
    job: Job
    measure: Callable[[Turn], tuple[float, ...]] = cpu_per_operation
    log: bool = False
    """Whether each request is logged."""
    grpc: bool = False
    fresh: bool = False
    """Whether the servers are started anew for every round."""
    quick: bool = False
    """Whether `--quick` has it."""
    variants: tuple[Variant, ...] = ()
    """With any, rekeyd alone is measured."""


def head(target: str, *, method: str = "GET", key: str = KEY, body: int = 0) -> str:
    """Of a request, as clients of such services send it."""
    fields = {
        "Host": "localhost",
        "Accept": "*/*",
        "Accept-Encoding": "gzip, deflate",
        "User-Agent": "bench/1",
        "api-key": key,
        **({"Content-Length": str(body)} if body else {}),
    }
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
    return "\r\n".join([*lines, "", ""])


def asking(kind: str, *, key: str = KEY, status: int = 200, connections: int = 16, visits: int = 0) -> Job:
    """A small read."""
    request = head("/collections/books?size=300", key=key)
    return Job(kind, 0, "", request, status=status, connections=connections, per_connection=visits)


def sending(size: int) -> Job:
    request = head("/collections/books/points", method="PUT", body=size)
    return Job("bodies", 0, "", request, body=size, connections=2)


def fetching(size: int) -> Job:
    return Job("bodies", 0, "", head(f"/collections/books?size={size}"), connections=2)


def with_workers(count: int) -> Variant:
    return Variant(f"service.workers: {count}", lambda _: {"service": {"workers": count}})


def with_keys(count: int) -> Variant:
    def settings(folder: Path) -> Settings:
        file = folder / f"{count}.json"
        file.write_text(json.dumps({"keys": [entry(f"key-{number}") for number in range(count)]}))
        file.chmod(0o600)
        return {"access": {"keys_file": str(file)}}

    return Variant("1 key" if count == 1 else f"{count:,} keys", settings)


ROTATING = (
    Line("Request, new certificate each second", core=True),
    Line("A new certificate", "ms"),
    Line("p99 without", "ms", compared=False, drawn=False),
    Line("p99, new certificate each second", "ms", compared=False),
    Line("Unanswered, new certificate each second", "", compared=False, core=True),
    Line("certificates shown", "", compared=False, drawn=False),
)

CASES = (
    Case("a", (Line("Request, no log", core=True),), asking("requests"), quick=True),
    Case("a", (Line("Request, JSON log", core=True),), asking("requests"), log=True, quick=True),
    Case("b", (Line("Full handshake and a request", core=True),), asking("handshakes", connections=4)),
    Case("c", (Line("64 KiB to the upstream"),), sending(64 * KIB)),
    Case("c", (Line("64 KiB from the upstream"),), fetching(64 * KIB)),
    Case("c", (Line("16 MiB to the upstream", "ms"),), sending(16 * MIB)),
    Case("c", (Line("16 MiB from the upstream", "ms"),), fetching(16 * MIB)),
    Case(
        "d",
        (Line("Memory of an idle connection", "KiB", core=True),),
        asking("idle", connections=2000),
        memory_per_connection,
        fresh=True,
    ),
    Case("e", (Line("Denied request, no log", core=True),), asking("requests", key="wrong", status=401)),
    Case(
        "e",
        (Line("Denied request, JSON log"),),
        asking("requests", key="wrong", status=401),
        log=True,
    ),
    Case("f", ROTATING, asking("visits", connections=8, visits=100), under_rotation),
    Case(
        "g", (Line("Unary gRPC call, no log", core=True),), Job("calls", 0, "", KEY, connections=4), grpc=True
    ),
    Case(
        "h",
        (Line("Request, no log"),),
        asking("requests"),
        variants=(with_workers(1), with_workers(2)),
    ),
    Case(
        "i",
        (Line("Request, no log"),),
        asking("requests", key=secret_of("key-0")),
        variants=(with_keys(1), with_keys(1_000), with_keys(100_000)),
    ),
)
