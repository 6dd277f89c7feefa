"""The way to one place: attempts, the pauses between them, and what is known of it.

The rules. A connection is waited for `within()` seconds, however many attempts that takes; between two there
is a pause that doubles, up to `LONGEST`, less up to half of it, so that nodes that came up together don't go
on together. While the place fails one caller tries and the others wait for what comes of it. A certificate
that won't do is no matter of time: whoever meets it is told at once, and only the pause is kept. The place is
well again when it has `proved` to be: that a handshake is over says nothing yet (with TLS 1.3 a client has
finished before the server objects; RFC 8446, 2). Failures are told when their number is a power of two, the
recovery once.

Must not know: what connects, or what is said.
"""

import asyncio
import contextlib
import os
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import structlog

from rekeyd.errors import RekeydError
from rekeyd.system.tls_stream import HandshakeFailedError
from rekeyd.trust.peers import name_of

SHORTEST, LONGEST = 0.1, 5.0
"""Seconds between two attempts."""
T = TypeVar("T")

log = structlog.get_logger()


class UnreachableError(RekeydError):
    """No connection could be had; the text says why."""


class StrangerError(RekeydError):
    """Who answers is not who is expected; `certificate` is theirs (DER)."""

    def __init__(self, message: str, certificate: bytes | None) -> None:
        super().__init__(message)
        self.certificate = certificate


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed: `cause` is one word, `certificate` what the other end calls itself by it."""

    cause: str
    problem: str
    certificate: str | None = None

    @property
    def lasting(self) -> bool:
        """Whether another attempt would fail alike."""
        return self.cause == "certificate"


class Reach:
    """What is known of one place. For the log: `event` is what a failure is called, `told_as` which place."""

    def __init__(self, within: Callable[[], float], event: str, **told_as: str) -> None:
        self._within = within
        self._event = event
        self._told_as = told_as
        self._one_at_a_time = asyncio.Lock()
        self._retry_at = 0.0
        self.attempts = 0
        self.connected = 0
        self.failures = 0
        """Since it was last well."""
        self.failed = 0
        """Ever."""
        self.last: Failure | None = None

    async def __call__(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` gives once it succeeds.

        Raises:
            UnreachableError: it did not within the time, or never will.
        """
        try:
            async with asyncio.timeout(self._within()) as limit:
                while True:
                    async with self._turn():
                        await asyncio.sleep(max(0.0, self._retry_at - asyncio.get_running_loop().time()))
                        found = await self._try(attempt, limit)
                    if found is not None:
                        return found
        except TimeoutError:
            raise UnreachableError(self.last.problem if self.last else "no answer in time") from None

    def proved(self) -> None:
        """It is well."""
        if self.failures:
            log.info("peer.recovered", failures=self.failures, **self._told_as)
        self.failures, self.last, self._retry_at = 0, None, 0.0

    def failing(self, failure: Failure) -> None:
        """It is not."""
        self.failures += 1
        self.failed += 1
        self.last = failure
        pause = pause_after(self.failures, random.uniform(0.5, 1.0))  # noqa: S311 - spreads load, hides nothing
        self._retry_at = asyncio.get_running_loop().time() + pause
        if self.failures & (self.failures - 1) == 0:
            fields: dict[str, Any] = {**self._told_as, "cause": failure.cause, "problem": failure.problem}
            if failure.certificate is not None:
                fields["peer_certificate"] = failure.certificate
            log.warning(self._event, **fields, failures=self.failures, retry_in=round(pause, 3))

    def described(self) -> dict[str, Any]:
        """For the status."""
        wait = self._retry_at - asyncio.get_running_loop().time()
        return {
            "state": "failing" if self.failures else "reached" if self.connected else "untried",
            "attempts": self.attempts,
            "failures": self.failures,
            "problem": None if self.last is None else self.last.problem,
            "retry_in": round(wait, 3) if self.failures and wait > 0 else None,
        }

    @contextlib.asynccontextmanager
    async def _turn(self) -> AsyncIterator[None]:
        async with self._one_at_a_time if self.failures else contextlib.nullcontext():
            yield

    async def _try(self, attempt: Callable[[], Awaitable[T]], limit: asyncio.Timeout) -> T | None:
        """None where it is worth another try."""
        self.attempts += 1
        try:
            found = await attempt()
        except asyncio.CancelledError:
            if limit.expired():  # else nobody waits for it any more
                self.failing(Failure("timeout", "no answer in time"))
            raise
        except (OSError, StrangerError) as error:
            failure = failure_of(error)
            self.failing(failure)
            if failure.lasting:
                raise UnreachableError(failure.problem) from error
            return None
        self.connected += 1
        return found


def pause_after(failures: int, share: float) -> float:
    """Seconds until the next attempt after so many failures in a row; `share` of the whole pause."""
    return min(LONGEST, SHORTEST * 2.0 ** min(failures - 1, 16)) * share


def failure_of(error: Exception) -> Failure:
    """Why, in words for the log."""
    shown: bytes | None = None
    cause: Exception = error
    if isinstance(error, HandshakeFailedError):
        shown, cause = error.shown, error.cause
    match cause:
        case StrangerError():
            return Failure("certificate", str(cause), name_of(cause.certificate))
        case ssl.SSLCertVerificationError():
            return Failure(
                "certificate", f"its certificate is refused: {cause.verify_message}", name_of(shown)
            )
        case ssl.SSLError():
            reason = getattr(cause, "reason", None) or cause.strerror or str(cause)  # ours have none
            return Failure("tls", f"no TLS: {reason.lower()}", name_of(shown))
        case TimeoutError():
            return Failure("timeout", "no answer in time")
        case _:
            return Failure("connect", _why(cause))


def _why(error: Exception) -> str:
    """The system's own words: asyncio's say which address, and not what was wrong."""
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, socket.gaierror):
        return os.strerror(error.errno)
    return getattr(error, "strerror", None) or str(error)
