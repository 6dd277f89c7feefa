"""What is kept of a whole run: `results.md` and `results.svg` beside this file, and a table in the README."""

import datetime as dt
import os
import platform
import ssl
from collections.abc import Sequence
from pathlib import Path

from bench.plot import picture
from bench.report import Row, core, tables
from bench.stage import Contender

FOLDER = Path(__file__).parent
README = FOLDER.parents[1] / "README.md"
BEGIN, END = "<!-- make bench writes this -->\n", "<!-- to here -->\n"


def save(rows: Sequence[Row], contenders: Sequence[Contender], *, rounds: int, seconds: float) -> None:
    names = [each.name for each in contenders]
    date = dt.datetime.now(dt.UTC).date().isoformat()
    versions = ", ".join(f"{each.name} {each.kind.version(each.program)}" for each in contenders)
    machine = f"{os.cpu_count()} cores of {_processor()}"
    text = (FOLDER / "conf" / "results.md").read_text()
    text = text.format(
        date=date,
        machine=machine,
        system=f"Linux {platform.release().partition('-')[0]}",
        python=platform.python_version(),
        openssl=" ".join(ssl.OPENSSL_VERSION.split()[:2]),
        versions=versions,
        rounds=rounds,
        seconds=seconds,
        tables=tables(rows, names),
    )
    (FOLDER / "results.md").write_text(text)
    (FOLDER / "results.svg").write_text(picture(rows, names, f"Less is better. {date}: {versions}"))
    README.write_text(keep(README.read_text(), f"{core(rows, names)}\n\n{date}, {machine}: {versions}."))


def keep(text: str, made: str) -> str:
    """`text` with what stands between the marks replaced, if it has them."""
    before, begun, rest = text.partition(BEGIN)
    _, ended, after = rest.partition(END)
    if not (begun and ended):
        return text
    return f"{before}{BEGIN}{made}\n{END}{after}"


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
