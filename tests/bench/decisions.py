"""What a decision costs, and whether how long it takes tells anything. In tests:
`python -m bench.decisions`.

Prints microseconds of CPU per decision for rings of 1, 1,000 and 100,000 keys, in turns, so that the moods
of the machine hit all alike; and the median time of a wrong key by the length of its common prefix with a
right one, with a sign test of whether that makes a difference. Nothing is asserted: a number on a shared
machine proves nothing.
"""

# ruff: noqa: T201 - what it prints is what it is for

import hashlib
import importlib.resources
import math
import random
import statistics
import time
from collections.abc import Callable

from rekeyd.access.admission import Ask, Presented, decide
from rekeyd.access.key_form import make_key
from rekeyd.access.keys import Credential, KeyRing, digest_of
from rekeyd.access.policy import Policy
from rekeyd.access.policy_file import parse_policy
from rekeyd.access.rights import Right
from support.grounds import Believed

ROUNDS, TIMES, GUESSES = 15, 2_000, 20_000
SIZES = (1, 1_000, 100_000)
PREFIXES = (0, 4, 16, 40, 58)


def policy() -> Policy:
    source = importlib.resources.files("rekeyd") / "policies" / "qdrant.yaml"
    return parse_policy(source.read_bytes(), file="qdrant")


def secret(number: int) -> str:
    return make_key(f"key-{number}", hashlib.sha256(str(number).encode()).digest())


def ring(size: int) -> KeyRing:
    return KeyRing(
        Credential(f"key-{n}", Right.READ, digest_of(secret(n).encode()), named=True) for n in range(size)
    )


def asking(presented: bytes) -> Ask:
    return Ask(b"POST", b"/collections/books/points/search", Presented((presented,)), "192.0.2.1")


def cost(decides: Callable[[], object]) -> float:
    """Microseconds of CPU for one."""
    began = time.process_time_ns()
    for _ in range(TIMES):
        decides()
    return (time.process_time_ns() - began) / TIMES / 1000


def by_size() -> None:
    rules = {size: Believed(ring(size), policy()) for size in SIZES}
    asks = {"right key": asking(secret(0).encode()), "wrong key": asking(secret(-1).encode())}
    seen: dict[tuple[str, int], list[float]] = {}
    for _ in range(ROUNDS):
        for size, grounds in rules.items():
            for name, ask in asks.items():
                took = cost(lambda ask=ask, grounds=grounds: decide(ask, grounds, 0.0, {}))  # type: ignore[misc]
                seen.setdefault((name, size), []).append(took)
    for (name, size), times in sorted(seen.items()):
        alone, median = statistics.median(seen[name, SIZES[0]]), statistics.median(times)
        print(f"{name}, {size:>7} keys: {median:6.2f} us of CPU, {median / alone:.2f} of one key's")


def by_prefix() -> None:
    """A rank test: does a guess with a common prefix take longer than one without?

    All guesses are made beforehand, each with a tail of its own, and tried in an order drawn by lot: where a
    string lies in memory makes a difference of nanoseconds, too.
    """
    grounds, right = Believed(ring(1_000), policy()), secret(7)
    guesses = [
        (n, asking((right[:n] + secret(-1 - len(PREFIXES) * number - place)[n:]).encode()))
        for number in range(GUESSES)
        for place, n in enumerate(PREFIXES)
    ]
    random.Random(1).shuffle(guesses)  # noqa: S311 - decides an order
    took: dict[int, list[int]] = {n: [] for n in PREFIXES}
    for n, guess in guesses:
        began = time.perf_counter_ns()
        decide(guess, grounds, 0.0, {})
        took[n].append(time.perf_counter_ns() - began)
    print("wrong key, by the length of its common prefix with a right one:")
    for n in PREFIXES:
        told = f"{sigmas(took[n], took[0]):+.1f} sigma from one without" if n else ""
        print(f"  {n:>2} characters: median {statistics.median(took[n]):.0f} ns  {told}")


def sigmas(one: list[int], other: list[int]) -> float:
    """How far the ranks of `one` among both lie from chance (Mann and Whitney's U, for large samples)."""
    ranked = sorted([(value, 0) for value in one] + [(value, 1) for value in other])
    ranks: dict[int, list[int]] = {}
    for rank, (value, _) in enumerate(ranked, start=1):
        ranks.setdefault(value, []).append(rank)
    mean_rank = {value: statistics.fmean(each) for value, each in ranks.items()}
    u = sum(mean_rank[value] for value in one) - len(one) * (len(one) + 1) / 2
    expected = len(one) * len(other) / 2
    return (u - expected) / math.sqrt(len(one) * len(other) * (len(ranked) + 1) / 12)


if __name__ == "__main__":
    by_size()
    by_prefix()
