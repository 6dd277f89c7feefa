"""Who takes part, and the rounds: in each of them every server has its turn, and another one is first."""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from bench.cases import Case
from bench.measures import Turn
from bench.peers import SERVERS
from bench.report import UNITS, Row, number
from bench.servers import MissingError, RefusedError, Rekeyd, Server
from bench.stage import Contender, Stage


def contenders_of(programs: Sequence[Path], peers: Sequence[str]) -> list[Contender]:
    """Each rekeyd that is asked for, and those of the others that are to be had; the rest is named."""
    found = [
        Contender(f"rekeyd-{number}" if number > 1 else "rekeyd", Rekeyd, str(program.absolute()))
        for number, program in enumerate(programs or [Path(Rekeyd.find())], start=1)
    ]
    for name in peers:
        try:
            found.append(Contender(name, SERVERS[name], _program_of(SERVERS[name])))
        except MissingError as missing:
            say(f"without {name}: {missing}")
    return found


def _program_of(kind: type[Server]) -> str:
    """Its path; as root it is installed first where Debian has it. Raises MissingError."""
    try:
        return kind.find()
    except MissingError:
        if kind.debian is None or os.geteuid() != 0 or shutil.which("apt-get") is None:
            raise
        say(f"installing {kind.debian}")
        for words in (["update"], ["install", "-y", "--no-install-recommends", kind.debian]):
            subprocess.run(["apt-get", "-qq", *words], stdout=sys.stderr, check=False)
        return kind.find()


def measured(
    case: Case, contenders: Sequence[Contender], on: Stage, *, rounds: int, seconds: float
) -> list[Row]:
    """All rounds of a case."""
    alone = bool(case.variants)
    rows = [Row(case.letter, line, alone) for line in case.lines]
    if case.variants:
        contenders = _variants(case, contenders[0], on, rows)
    job = replace(case.job, seconds=seconds)
    names = [each.name for each in contenders]
    for numbers in [[each] for each in range(rounds)] if case.fresh else [range(rounds)]:
        with on.running(contenders, log=case.log, grpc=case.grpc) as servers:
            for name in (name for each in numbers for name in _turned(names, each)):
                _note(rows, name, case.measure(Turn(on, servers[name], job)))
    return rows


def _turned(names: Sequence[str], by: int) -> list[str]:
    """The names in order, from another one on."""
    first = by % max(1, len(names))
    return [*names[first:], *names[:first]]


def _variants(case: Case, rekeyd: Contender, on: Stage, rows: Sequence[Row]) -> list[Contender]:
    """Those that this rekeyd takes; for the others there will be no value in the rows."""
    for row in rows:
        row.values = {variant.title: [] for variant in case.variants}
    taken = []
    for variant in case.variants:
        contender = replace(rekeyd, name=variant.title, settings=variant.settings(on.folder))
        try:
            with on.running([contender]):
                taken.append(contender)
        except RefusedError:
            say(f"({case.letter}) {variant.title}: not in this version")
    return taken


def _note(rows: Sequence[Row], name: str, values: tuple[float, ...]) -> None:
    for row, value in zip(rows, values, strict=True):
        row.values.setdefault(name, []).append(value)
        say(f"({row.letter}) {row.line.title}: {name} {number(value * UNITS[row.line.unit])} {row.line.unit}")


def say(line: str) -> None:
    """How far it is."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - as it says
