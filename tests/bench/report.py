"""Rounds in, a table out."""

# ruff: noqa: RUF001 - a ratio is told with a times sign

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(slots=True)
class Row:
    """What came of one case: for each server one value a round."""

    letter: str
    title: str
    unit: str
    values: dict[str, list[float]] = field(default_factory=dict)

    def median(self, name: str) -> float:
        return statistics.median(self.values[name])

    def spread(self, name: str) -> float:
        """Half of the distance from the lowest to the highest."""
        return (max(self.values[name]) - min(self.values[name])) / 2

    def ratio(self, name: str, base: str) -> float:
        """Of rekeyd's: how many times this one's rekeyd spends, as the median over rounds side by side."""
        return statistics.median(
            ours / theirs for ours, theirs in zip(self.values[base], self.values[name], strict=True)
        )


def cell(row: Row, name: str, base: str) -> str:
    """Median, spread, and what rekeyd spends beside it."""
    if name not in row.values:
        return "–"
    told = f"{row.median(name):.3g} ± {row.spread(name):.2g}"
    return told if name == base else f"{told} ({row.ratio(name, base):.2f}×)"


def table(rows: Sequence[Row], names: Sequence[str]) -> str:
    """Markdown. The first of `names` is the one that all others are compared with."""
    lines = [["", "unit", *names]]
    for row in rows:
        cells = (cell(row, name, names[0]) for name in names)
        lines.append([f"({row.letter}) {row.title}", row.unit, *cells])
    widths = [max(len(line[n]) for line in lines) for n in range(len(lines[0]))]
    told = [[text.ljust(width) for text, width in zip(line, widths, strict=True)] for line in lines]
    told.insert(1, ["-" * width for width in widths])
    return "\n".join(f"| {' | '.join(line)} |" for line in told)
