"""The decision with a memory: who failed how often, who asked how often, which tokens were verified.

The rules. A key is looked for first, which costs next to nothing; only what fails is counted, by network
(`access.failures_per_minute`), so that a key that is known is never locked out, whoever guesses from the same
address. A token whose verification is costly comes after all cheap checks, waits its turn (`AT_ONCE`), and
from a network that has failed too often is not looked at; what came of it is remembered for as long as the
rules for tokens are the same. A key that has a rate of its own is held to it. Who has failed too often is
answered after `PENALTY`: a flood of guesses, each of which waits for its answer, is slowed and not the
service.

Must not know: what is spoken (`Ask` is all), or how a decision is told.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from rekeyd.access.admission import Ask, decide
from rekeyd.access.keys import Credential
from rekeyd.access.limiter import Buckets, Pace, quota
from rekeyd.access.verdict import GUESSES, Allowed, Denied, Reason, Unverified
from rekeyd.telemetry.floods import network_of
from rekeyd.trust.generation import Generation

AT_ONCE = 2
"""Costly verifications that run beside one another."""
PENALTY = 0.02
"""Seconds by which an answer is held back that says that a network has failed too often."""
WAITING = 256
"""Costly verifications that may wait for their turn."""
REMEMBERED = 10_000
"""Tokens whose verification is remembered."""
_PATIENCE = 1.0
"""Seconds after which who finds too many waiting may come again."""


class Gatekeeper:
    """Judges for every listener. `now` is in seconds of the epoch, `clock` in monotonic seconds."""

    def __init__(
        self, *, now: Callable[[], float] = time.time, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._now = now
        self._clock = clock
        self._failures = Buckets()
        self._requests = Buckets()
        self._verified: OrderedDict[bytes, Credential | Denied] = OrderedDict()
        self._rules: object = None
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._waiting = 0

    def judge(self, ask: Ask, generation: Generation) -> Allowed | Denied | Unverified:
        """The verdict; `Unverified` where it takes `verified` to know."""
        if generation.tokens is not self._rules:
            if generation.tokens != self._rules:
                self._verified.clear()
            self._rules = generation.tokens
        verdict = decide(ask, generation, self._now(), self._verified)
        if isinstance(verdict, Allowed):
            return self._allowed(verdict)
        if isinstance(verdict, Denied):
            return self._denied(verdict, ask, generation)
        return self._before_verifying(ask, generation) or verdict

    async def verified(self, unverified: Unverified, ask: Ask, generation: Generation) -> Allowed | Denied:
        """The verdict once the token's signature is verified, in a thread."""
        if self._waiting >= WAITING:
            return Denied(Reason.TOO_MANY_WAITING, "Too many tokens to verify", retry_after=_PATIENCE)
        self._waiting += 1
        try:
            async with self._turns:
                found = self._verified.get(unverified.digest)
                if found is None:
                    found = await asyncio.to_thread(unverified.verify)
        finally:
            self._waiting -= 1
        if generation.tokens == self._rules:
            self._remember(unverified.digest, found)
        verdict = decide(ask, generation, self._now(), {unverified.digest: found})
        match verdict:
            case Allowed():
                return self._allowed(verdict)
            case Denied():
                return self._denied(verdict, ask, generation)
            case Unverified():
                raise TypeError("a token that was verified is not verified")

    async def settled(
        self,
        verdict: Allowed | Denied | Unverified,
        generation: Generation,
        ask_by: Callable[[Generation], Ask],
        current: Callable[[], Generation | None],
    ) -> tuple[Allowed | Denied, Ask, Generation]:
        """The last word, and what was asked of which generation.

        It is by the generation that is `current` when it is known: verifying a token may outlast one.
        """
        ask = ask_by(generation)
        while isinstance(verdict, Unverified):
            verdict = await self.verified(verdict, ask, generation)
            now = current()
            if now is not None and now is not generation:
                generation, ask = now, ask_by(now)
                verdict = self.judge(ask, now)
        return verdict, ask, generation

    async def penalty(self, denied: Denied) -> None:
        """To be awaited before a denial is answered."""
        if wait := self.penalty_for(denied):
            await asyncio.sleep(wait)

    def penalty_for(self, denied: Denied) -> float:
        """Seconds for which a denial is held back."""
        return PENALTY if denied.reason is Reason.TOO_MANY_FAILURES else 0.0

    def _before_verifying(self, ask: Ask, generation: Generation) -> Denied | None:
        wait = self._failures.wait(network_of(ask.client), _pace(generation), self._clock())
        return _too_many_failures(wait) if wait else None

    def _denied(self, verdict: Denied, ask: Ask, generation: Generation) -> Denied:
        if verdict.reason not in GUESSES:
            return verdict
        taken = self._failures.take(network_of(ask.client), _pace(generation), self._clock())
        return _too_many_failures(taken.wait) if taken.wait else verdict

    def _allowed(self, verdict: Allowed) -> Allowed | Denied:
        credential = verdict.credential
        rate = credential.limits.rate if credential is not None else None
        if credential is None or rate is None:
            return verdict
        taken = self._requests.take(credential.id, Pace.per_second(rate), self._clock())
        left = quota(rate, taken)
        if not taken.wait:
            return verdict._replace(quota=left)
        message = "Too many requests with this API key"
        return Denied(
            Reason.RATE_LIMITED, message, credential, verdict.needed, retry_after=taken.wait, quota=left
        )

    def _remember(self, digest: bytes, found: Credential | Denied) -> None:
        self._verified[digest] = found
        if len(self._verified) > REMEMBERED:
            self._verified.popitem(last=False)


def _pace(generation: Generation) -> Pace:
    return Pace.per_minute(generation.settings.access.failures_per_minute)


def _too_many_failures(wait: float) -> Denied:
    return Denied(Reason.TOO_MANY_FAILURES, "Too many failed attempts from this network", retry_after=wait)
