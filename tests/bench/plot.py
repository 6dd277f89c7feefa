"""A picture of the table: one panel a row, one bar a server, as SVG."""

from collections.abc import Sequence
from html import escape

from bench.report import UNITS, Row, number

COLUMNS = 3
WIDTH, BAR, GAP = 290, 15, 5
NAMES, VALUES = 62, 62
"""Pixels left of the bars for names, and right of them for values."""
TITLE, MARGIN = 30, 20
OURS, OTHERS, INK = "#c2410c", "#94a3b8", "#1e293b"


def text(x: float, y: float, what: str, *, anchor: str = "start", weight: str = "normal") -> str:
    return f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-weight="{weight}">{escape(what)}</text>'


def panel(row: Row, names: Sequence[str], x: float, y: float) -> list[str]:
    """One row: less is better in all of them."""
    scale = UNITS[row.line.unit]
    medians = {name: row.median(name) * scale for name in names if name in row.values}
    most, room = max(medians.values()) or 1.0, WIDTH - NAMES - VALUES
    unit = f", {row.line.unit}" if row.line.unit else ""
    drawn = [text(x, y + 14, f"{row.line.title}{unit}", weight="bold")]
    for place, (name, value) in enumerate(medians.items()):
        top, length = y + TITLE - 6 + place * (BAR + GAP), value / most * room
        colour = OURS if name.startswith("rekeyd") else OTHERS
        drawn += [
            text(x + NAMES - 6, top + BAR - 3.5, name, anchor="end"),
            f'<rect x="{x + NAMES:g}" y="{top:g}" width="{length:.1f}" height="{BAR}" fill="{colour}"/>',
            text(x + NAMES + length + 5, top + BAR - 3.5, number(value)),
        ]
    return drawn


def picture(rows: Sequence[Row], names: Sequence[str], caption: str) -> str:
    """An SVG of the rows in which servers are compared."""
    shown = [row for row in rows if row.line.drawn and not row.alone]
    height = TITLE + len(names) * (BAR + GAP) + 10
    lines = -(-len(shown) // COLUMNS)
    size = (COLUMNS * (WIDTH + MARGIN) + MARGIN, lines * height + 2 * MARGIN + 16)
    box = f'width="{size[0]}" height="{size[1]}"'
    style = f'font-family="sans-serif" font-size="12" fill="{INK}"'
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {size[0]} {size[1]}" {box} {style}>',
        f'<rect {box} fill="#ffffff"/>',
    ]
    for place, row in enumerate(shown):
        line, column = divmod(place, COLUMNS)
        drawn += panel(row, names, MARGIN + column * (WIDTH + MARGIN), MARGIN + line * height)
    drawn += [text(MARGIN, size[1] - 12, caption), "</svg>"]
    return "\n".join(drawn) + "\n"
