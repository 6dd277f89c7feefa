"""How often the clocks are looked at."""

from dataclasses import replace

import pytest

from rekeyd.listeners.grpc.host import Timeouts

USUAL = Timeouts(header=15, idle=75, stall=60, connect=5, read=60)


def test_clocks_are_looked_at_in_time_for_the_shortest() -> None:
    assert USUAL.looks == 1.25
    assert replace(USUAL, connect=100).looks == 3.75


@pytest.mark.parametrize("name", ["header", "idle", "stall", "connect", "read"])
def test_none_is_forgotten_and_none_is_looked_at_too_rarely(name: str) -> None:
    assert replace(USUAL, **{name: 0.4}).looks == 0.1
    assert Timeouts(header=900, idle=900, stall=900, connect=900, read=900).looks == 5
