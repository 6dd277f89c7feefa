import asyncio
from collections.abc import Iterable

import pytest

from rekeyd.telemetry.floods import Telling, network_of
from support.waiting import eventually


class Later:
    """Withholds everything until `delay` seconds after the first that came."""

    def __init__(self, delay: float) -> None:
        self._delay = delay
        self._ends: float | None = None
        self._held: list[str] = []
        self.waiting = False

    def add(self, item: str, now: float) -> Iterable[tuple[str, int]]:
        self._held.append(item)
        self._ends = self._ends or now + self._delay
        self.waiting = True
        return ()

    def due(self, now: float) -> Iterable[tuple[str, int]]:
        return self.flush() if self._ends is not None and now >= self._ends else ()

    def next_due(self) -> float | None:
        return self._ends

    def flush(self) -> Iterable[tuple[str, int]]:
        held, self._held, self._ends, self.waiting = self._held, [], None, False
        return [(held[0], len(held))] if held else []


async def test_what_waits_is_told_when_its_time_has_come_though_nothing_more_comes() -> None:
    told: list[tuple[str, int]] = []
    telling = Telling(Later(0.05), lambda item, count: told.append((item, count)))
    telling.add("a")
    telling.add("b")
    assert not told
    await eventually(lambda: told)
    assert told == [("a", 2)]
    telling.add("c")
    await eventually(lambda: len(told) == 2)
    assert told[1] == ("c", 1)


async def test_at_the_end_what_waits_is_told_at_once_and_no_timer_is_left() -> None:
    told: list[tuple[str, int]] = []
    telling = Telling(Later(3600), lambda item, count: told.append((item, count)))
    telling.add("a")
    telling.close()
    assert told == [("a", 1)]
    assert telling._timer is None
    telling.close()
    await asyncio.sleep(0)
    assert told == [("a", 1)]


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("not:an:address", "not:an:address"),
        (None, ""),
    ],
)
def test_what_is_one_network(client: str | None, network: str) -> None:
    assert network_of(client) == network
