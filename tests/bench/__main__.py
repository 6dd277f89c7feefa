"""CPU for one operation, beside other servers. A whole run is kept in tests/bench/results.md."""

import argparse
import os
import resource
from collections.abc import Callable, Iterable
from pathlib import Path

from bench.cases import CASES
from bench.contest import contenders_of, measured
from bench.peers import SERVERS
from bench.report import Row, tables
from bench.results import save
from bench.stage import stage


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="two minutes: requests, beside nginx and HAProxy alone"
    )
    parser.add_argument(
        "--only", type=some_of(case.letter for case in CASES), metavar="a,e", help="these cases alone"
    )
    parser.add_argument(
        "--peers", type=some_of(list(SERVERS)[1:]), metavar="nginx,haproxy", help="beside these alone"
    )
    parser.add_argument("--rounds", type=int, help="3; 7 shorter ones with --quick")
    parser.add_argument("--seconds", type=float, help="of load for each value: 2; 1 with --quick")
    parser.add_argument(
        "--rekeyd",
        type=program,
        action="append",
        metavar="PATH",
        help="the program to measure, in the place of this checkout's; may be given again, to compare two",
    )
    options = parser.parse_args(given)
    quick = options.quick
    options.whole = not (quick or options.only or options.peers or options.rekeyd)
    options.rounds = options.rounds or (7 if quick else 3)
    options.seconds = options.seconds or (1.0 if quick else 2.0)
    options.peers = options.peers or (["nginx", "haproxy"] if quick else list(SERVERS)[1:])
    return options


def some_of(known: Iterable[str]) -> Callable[[str], list[str]]:
    """What reads a list of them."""
    names = sorted(set(known))

    def read(text: str) -> list[str]:
        chosen = text.split(",")
        if strange := [each for each in chosen if each not in names]:
            raise argparse.ArgumentTypeError(f"{strange[0]!r} is none of {', '.join(names)}")
        return chosen

    return read


def program(text: str) -> Path:
    if not os.access(text, os.X_OK):
        raise argparse.ArgumentTypeError(f"{text!r} can't be started")
    return Path(text)


def main() -> None:
    options = arguments()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # for all that is started from here
    contenders = contenders_of(options.rekeyd or [], options.peers)
    rows: list[Row] = []
    with stage() as on:
        for case in CASES:
            if case.letter in options.only if options.only else case.quick or not options.quick:
                rows += measured(case, contenders, on, rounds=options.rounds, seconds=options.seconds)
    if options.whole:
        save(rows, contenders, rounds=options.rounds, seconds=options.seconds)
    print(tables(rows, [each.name for each in contenders]))  # noqa: T201 - what it is for


if __name__ == "__main__":
    main()
