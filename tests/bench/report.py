"""Rounds in, tables out."""

# ruff: noqa: RUF001 - a ratio is told with a times sign

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

UNITS = {"µs": 1e6, "ms": 1e3, "KiB": 1 / 1024, "%": 100.0, "": 1.0}
"""How many of a unit are one second, one byte, or one."""


@dataclass(frozen=True, slots=True)
class Line:
    """What a row says, and in which unit."""

    title: str
    unit: str = "µs"
    compared: bool = True
    """Whether it tells how many times that rekeyd spends."""
    drawn: bool = True
    """Whether the picture has it. Less must be better."""
    core: bool = False
    """Whether the README has it."""


@dataclass(slots=True)
class Row:
    """What came of one line of a case: for each server one value a round, in seconds or bytes."""

    letter: str
    line: Line
    alone: bool = False
    """Whether the columns are not servers, but rekeyd's variants."""
    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def spread(self, name: str) -> float:
        """Half of the distance from the lowest to the highest."""
        return (max(self.values[name]) - min(self.values[name])) / 2

    def ratio(self, name: str, to: str) -> float:
        """How many times what `to` spends: the median over rounds, each compared with its own."""
        pairs = zip(self.values[name], self.values[to], strict=True)
        return statistics.median(one / other for one, other in pairs)


def number(value: float) -> str:
    """Three digits that count."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(row: Row, name: str, base: str) -> str:
    """Median and spread, and how many times that rekeyd spends."""
    if name not in row.values:
        return "not measured"
    scale = UNITS[row.line.unit]
    told = f"{number(row.median(name) * scale)} ± {number(row.spread(name) * scale)}"
    return f"{told} ({row.ratio(base, name):.2f}×)" if row.line.compared and name != base else told


def core(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Medians, and no more, of the rows that say most."""
    lines = [["", *names]]
    for row in rows:
        if row.line.core:
            scale = UNITS[row.line.unit]
            unit = f", {row.line.unit}" if row.line.unit else ""
            medians = [number(row.median(each) * scale) if each in row.values else "" for each in names]
            lines.append([f"{row.line.title}{unit}", *medians])
    return markdown(lines)


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Each row a case, each column a server. The first one is what all others are compared with."""
    lines = [["", "unit", *names]]
    for row in rows:
        cells = (cell(row, name, names[0]) for name in names)
        lines.append([f"({row.letter}) {row.line.title}", row.line.unit, *cells])
    return markdown(lines)


def alone(rows: Iterable[Row]) -> str:
    """Each variant of rekeyd on a line of its own, compared with the first of its case."""
    lines = [["rekeyd alone", "unit", "", "of the first"]]
    for row in rows:
        first = next((name for name, values in row.values.items() if values), "")
        for name, values in row.values.items():
            if not values:
                lines.append([f"({row.letter}) {name}", row.line.unit, "not in this version", ""])
                continue
            told = cell(row, name, name)
            lines.append([f"({row.letter}) {name}", row.line.unit, told, f"{row.ratio(name, first):.2f}×"])
    return markdown(lines)


def markdown(lines: list[list[str]]) -> str:
    """The first line is the head; every column but the first is flush right."""
    widths = [max(3, *(len(line[place]) for line in lines)) for place in range(len(lines[0]))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    told = [
        [first.ljust(widths[0]), *(each.rjust(width) for each, width in zip(rest, widths[1:], strict=True))]
        for first, *rest in lines
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in told)


def tables(rows: Sequence[Row], names: Sequence[str]) -> str:
    beside, by_itself = [row for row in rows if not row.alone], [row for row in rows if row.alone]
    made = [table(beside, names)] if beside else []
    return "\n\n".join([*made, *([alone(by_itself)] if by_itself else [])])
