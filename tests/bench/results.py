"""What is kept of a whole run: `results.md` and `results.svg`, beside this file."""

import datetime as dt
import os
import platform
import ssl
from collections.abc import Sequence
from pathlib import Path

from bench.plot import picture
from bench.report import Row, tables
from bench.stage import Contender

FOLDER = Path(__file__).parent


def save(
    rows: Sequence[Row],
    contenders: Sequence[Contender],
    *,
    rounds: int,
    seconds: float,
    folder: Path = FOLDER,
) -> None:
    names = [each.name for each in contenders]
    date = dt.datetime.now(dt.UTC).date().isoformat()
    versions = ", ".join(f"{each.name} {each.kind.version(each.program)}" for each in contenders)
    caption = f"Less is better. {date}: {versions}"
    (FOLDER / "results.svg").write_text(picture(rows, names, caption))
    (FOLDER / "results.md").write_text(
        (FOLDER / "conf" / "results.md")
        .read_text()
        .format(
            date=date,
            machine=f"{os.cpu_count()} cores of {_processor()}",
            system=f"Linux {platform.release().partition('-')[0]}",
            python=platform.python_version(),
            openssl=" ".join(ssl.OPENSSL_VERSION.split()[:2]),
            versions=versions,
            rounds=rounds,
            seconds=seconds,
            caption="The table below, as bars",
            tables=tables(rows, names),
        )
    )


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()
