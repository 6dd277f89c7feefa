"""How a place is reached: attempts, pauses, and what is told of it."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from rekeyd.listeners.tunnel.reach import (
    LONGEST,
    SHORTEST,
    Failure,
    Reach,
    StrangerError,
    UnreachableError,
    failure_of,
    pause_after,
)
from rekeyd.system.tls_stream import HandshakeFailedError
from support.pki import Authority

Told = list[Any]


@pytest.fixture
async def told() -> AsyncIterator[Told]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


def reach(within: float = 5.0) -> Reach:
    return Reach(lambda: within, "peer.failed", peer="node-2:6335")


def failing(times: int, error: Exception) -> Callable[[], Awaitable[str]]:
    """An attempt that fails so often before it succeeds."""
    left = [times]

    async def attempt() -> str:
        if left[0]:
            left[0] -= 1
            raise error
        return "there"

    return attempt


async def hang() -> str:
    await asyncio.sleep(60)
    return "late"


@given(failures=st.integers(1, 10_000), share=st.floats(0.5, 1.0))
def test_pauses_grow_and_have_a_bound(failures: int, share: float) -> None:
    pause = pause_after(failures, share)
    assert SHORTEST / 2 <= pause <= LONGEST
    assert pause_after(failures + 1, share) >= pause


async def test_what_succeeds_is_reached(told: Told) -> None:
    way = reach()
    assert way.described()["state"] == "untried"
    assert await way(failing(0, OSError())) == "there"
    assert (way.connected, way.failures, way.described()["state"]) == (1, 0, "reached")
    assert told == []


async def test_it_is_tried_again_until_it_is_there(told: Told) -> None:
    way = reach()
    assert await way(failing(3, ConnectionRefusedError(111, "Connect call failed"))) == "there"
    assert (way.attempts, way.connected, way.failed, way.failures) == (4, 1, 3, 3)
    assert [line["failures"] for line in told] == [1, 2]
    assert told[0] == {
        "event": "peer.failed",
        "log_level": "warning",
        "peer": "node-2:6335",
        "cause": "connect",
        "problem": "Connection refused",
        "failures": 1,
        "retry_in": told[0]["retry_in"],
    }
    assert way.described()["state"] == "failing"  # a handshake proves nothing yet
    way.proved()
    assert told[-1] == {
        "event": "peer.recovered",
        "log_level": "info",
        "peer": "node-2:6335",
        "failures": 3,
    }
    assert way.described()["state"] == "reached"
    way.proved()
    assert len(told) == 3


async def test_it_is_given_up_when_the_time_is_over(told: Told) -> None:
    way = reach(within=0.3)
    with pytest.raises(UnreachableError, match="Connection refused"):
        await way(failing(1000, ConnectionRefusedError(111, "")))
    assert way.attempts < 10
    described = way.described()
    assert (described["state"], described["problem"]) == ("failing", "Connection refused")


async def test_an_attempt_that_hangs_is_a_failure(told: Told) -> None:
    way = reach(within=0.1)
    with pytest.raises(UnreachableError, match="no answer in time"):
        await way(hang)
    assert (way.failed, told[0]["cause"]) == (1, "timeout")


async def test_who_no_longer_waits_is_no_failure(told: Told) -> None:
    way = reach()
    waiting = asyncio.create_task(way(hang))
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert (way.failed, told) == (0, [])


async def test_a_certificate_that_will_not_do_is_no_matter_of_time(told: Told) -> None:
    way = reach()
    stranger = Authority().issue("mallory.test")
    with pytest.raises(UnreachableError, match="it is not dns:two"):
        await way(failing(1, StrangerError("it is not dns:two", stranger.der)))
    assert way.attempts == 1
    assert (told[0]["cause"], told[0]["peer_certificate"]) == ("certificate", "dns:mallory.test")


async def test_while_it_fails_one_tries_and_the_others_wait(told: Told) -> None:
    way = reach()
    way.failing(Failure("connect", "Connection refused"))
    at_once, most = 0, 0

    async def attempt() -> str:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        await asyncio.sleep(0.01)
        at_once -= 1
        way.proved()
        return "there"

    assert await asyncio.gather(*(way(attempt) for _ in range(5))) == ["there"] * 5
    assert most == 1


@pytest.mark.parametrize(
    ("error", "cause", "problem"),
    [
        (ConnectionRefusedError(111, "Connect call failed ('::1', 1)"), "connect", "Connection refused"),
        (TimeoutError(), "timeout", "no answer in time"),
        (OSError("Multiple exceptions: …"), "connect", "Multiple exceptions: …"),
        (ssl.SSLError(1, "[SSL: WRONG_VERSION_NUMBER] wrong"), "tls", "no TLS: "),
        (HandshakeFailedError(ssl.SSLEOFError(8, "it ended"), None), "tls", "no TLS: "),
        (HandshakeFailedError(ConnectionResetError(104, ""), None), "connect", "Connection reset by peer"),
        (StrangerError("it is not dns:two", None), "certificate", "it is not dns:two"),
    ],
)
def test_failures_are_told_in_the_words_of_the_system(error: Exception, cause: str, problem: str) -> None:
    failure = failure_of(error)
    assert failure.cause == cause
    assert failure.problem.startswith(problem)
    assert failure.lasting == (cause == "certificate")
