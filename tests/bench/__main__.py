"""`make bench ARGS=…`: see `--help`."""

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from bench.cases import CASES, Case, cpu_per_operation
from bench.report import Row, table
from bench.servers import SERVERS, MissingError, Rekeyd
from bench.stage import Contender, Stage, stage


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="two minutes: requests, beside two")
    parser.add_argument("--only", type=letters, metavar="a,e", help="these cases alone")
    parser.add_argument("--peers", type=letters, metavar="nginx,haproxy", help="beside these alone")
    parser.add_argument("--rounds", type=int, help="3; 7 shorter ones with --quick")
    parser.add_argument("--seconds", type=float, help="of load for each value: 3; 1 with --quick")
    parser.add_argument(
        "--rekeyd",
        type=Path,
        action="append",
        metavar="PATH",
        help="the program to measure, in the place of this checkout's; may be given again, to compare two",
    )
    options = parser.parse_args(given)
    quick = options.quick
    options.rounds = options.rounds or (7 if quick else 3)
    options.seconds = options.seconds or (1.0 if quick else 3.0)
    options.peers = options.peers or (["nginx", "haproxy"] if quick else list(SERVERS)[1:])
    return options


def letters(text: str) -> list[str]:
    return [each for each in text.split(",") if each]


def contenders_of(options: argparse.Namespace) -> list[Contender]:
    """Each rekeyd that is asked for, and the others that are to be had."""
    programs = options.rekeyd or [Path(Rekeyd.find())]
    found = [
        Contender("rekeyd" if not number else f"rekeyd-{number + 1}", Rekeyd, str(program.absolute()))
        for number, program in enumerate(programs)
    ]
    for name in options.peers:
        try:
            found.append(Contender(name, SERVERS[name], SERVERS[name].find()))
        except MissingError as missing:
            say(f"without {name}: {missing}")
    return found


def measured(case: Case, contenders: list[Contender], on: Stage, options: argparse.Namespace) -> Row:
    """All rounds of a case. In each round every server has its turn, and another one is first."""
    row = Row(case.letter, case.title, case.unit)
    with on.running(contenders, log=case.log) as servers:
        names = list(servers)
        for number in range(options.rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                value = cpu_per_operation(on, servers[name], replace(case.job, seconds=options.seconds))
                row.values.setdefault(name, []).append(value)
                say(f"({case.letter}) {case.title}: {name} {value:.1f} {case.unit}")
    return row


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)  # noqa: T201 - how far it is


def main() -> None:
    options = arguments()
    contenders = contenders_of(options)
    cases = [
        case
        for case in CASES
        if (options.only is None or case.letter in options.only) and (case.quick or not options.quick)
    ]
    with stage() as on:
        rows = [measured(case, contenders, on, options) for case in cases]
    print(table(rows, [each.name for each in contenders]))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
