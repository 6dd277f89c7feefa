"""The decision with a memory, by made-up clocks: guessing, rates, and tokens that are costly to verify."""

import asyncio
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest

from rekeyd.access.admission import Ask, Presented
from rekeyd.access.keys import Credential, KeyRing, digest_of
from rekeyd.access.rights import Limits, Right
from rekeyd.access.tokens import TokenRules
from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from rekeyd.gatekeeper import PENALTY, WAITING, Gatekeeper
from rekeyd.trust.generation import Generation
from support.generations import candidate_of, settings_of

SECRET = "a-made-up-secret-of-the-reader"
READER = Credential.of_secret("reader", Right.READ, SECRET)
TOKEN = replace(READER, id="issuer", is_token=True)
HERE, ELSEWHERE = "192.0.2.1", "192.0.2.2"


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def asking(secret: str, client: str = HERE) -> Ask:
    return Ask(b"GET", b"/read", Presented((secret.encode(),)), client)


def generation(*credentials: Credential, per_minute: int = 3, tokens: TokenRules | None = None) -> Generation:
    settings = settings_of(access={"failures_per_minute": per_minute})
    made = candidate_of(settings=settings, ring=KeyRing(credentials or [READER])).generation(1)
    return replace(made, tokens=tokens) if tokens is not None else made


def reason(verdict: Allowed | Denied | Unverified) -> Reason:
    assert not isinstance(verdict, Unverified)
    return verdict.reason


@dataclass(frozen=True)
class Costly(TokenRules):
    """Every secret that begins with `token` is a token that takes `verify` to know."""

    verify: Callable[[], Credential | Denied] = lambda: TOKEN

    def read(self, token: bytes) -> Credential | Denied | Unverified | None:
        return Unverified(digest_of(token), self.verify) if token.startswith(b"token") else None

    def upholds(self, credential: Credential) -> bool:  # noqa: ARG002
        return True


# --- guessing


def test_a_network_that_guesses_has_to_wait_and_is_told_how_long() -> None:
    clock = Clock()
    keeper, rules = Gatekeeper(clock=clock), generation()
    for _ in range(3):
        assert reason(keeper.judge(asking("wrong"), rules)) is Reason.UNKNOWN_KEY
    for _ in range(100):
        denied = keeper.judge(asking("wrong"), rules)
        assert isinstance(denied, Denied)
        assert (denied.reason, denied.retry_after) == (Reason.TOO_MANY_FAILURES, 20.0)
    clock.now += 20
    assert reason(keeper.judge(asking("wrong"), rules)) is Reason.UNKNOWN_KEY


def test_a_known_key_is_never_locked_out_whoever_guesses_from_its_address() -> None:
    keeper, rules = Gatekeeper(clock=Clock()), generation()
    for _ in range(1000):
        keeper.judge(asking("wrong"), rules)
        assert reason(keeper.judge(asking(SECRET), rules)) is Reason.KEY


@pytest.mark.parametrize(
    ("one", "other", "together"),
    [
        ("192.0.2.1", "192.0.2.2", False),
        ("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True),
        ("2001:db8:1:2::1", "2001:db8:1:3::1", False),
        ("::ffff:192.0.2.1", "192.0.2.1", True),
    ],
)
def test_failures_are_counted_by_network(one: str, other: str, together: bool) -> None:
    keeper, rules = Gatekeeper(clock=Clock()), generation()
    for _ in range(4):
        keeper.judge(asking("wrong", one), rules)
    limited = reason(keeper.judge(asking("wrong", other), rules)) is Reason.TOO_MANY_FAILURES
    assert limited is together


async def test_who_has_failed_too_often_is_held_back_and_nobody_else(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr("rekeyd.gatekeeper.asyncio.sleep", sleep)
    for reason in (Reason.UNKNOWN_KEY, Reason.RATE_LIMITED, Reason.TOO_MANY_FAILURES):
        await Gatekeeper().penalty(Denied(reason, "No"))
    assert slept == [PENALTY]


def test_who_presents_nothing_or_has_too_small_a_right_does_not_guess() -> None:
    keeper, rules = Gatekeeper(clock=Clock()), generation()
    writes = replace(asking(SECRET), method=b"PUT", path=b"/write")
    for _ in range(10):
        assert reason(keeper.judge(Ask(b"GET", b"/read", client=HERE), rules)) is Reason.NO_CREDENTIAL
        assert reason(keeper.judge(writes, rules)) is Reason.RIGHT_TOO_SMALL
    assert reason(keeper.judge(asking("wrong"), rules)) is Reason.UNKNOWN_KEY


def test_another_limit_holds_from_the_next_request_on() -> None:
    clock = Clock()
    keeper = Gatekeeper(clock=clock)
    for _ in range(5):
        keeper.judge(asking("wrong"), generation())
    clock.now += 1
    assert reason(keeper.judge(asking("wrong"), generation())) is Reason.TOO_MANY_FAILURES
    assert reason(keeper.judge(asking("wrong"), generation(per_minute=1000))) is Reason.UNKNOWN_KEY


# --- validity and rates


def test_the_clock_on_the_wall_says_when_a_key_is_good() -> None:
    now = Clock()
    keeper = Gatekeeper(now=now)
    rules = generation(replace(READER, not_before=1010.0, expires=1020.0))
    said = []
    for moment in (1000.0, 1010.0, 1019.9, 1020.0):
        now.now = moment
        said.append(reason(keeper.judge(asking(SECRET), rules)))
    assert said == [Reason.NOT_YET_VALID, Reason.KEY, Reason.KEY, Reason.EXPIRED]


def test_a_key_with_a_rate_is_held_to_it_and_told_what_is_left() -> None:
    clock = Clock()
    keeper, rules = Gatekeeper(clock=clock), generation(replace(READER, limits=Limits(rate=2)))
    first = keeper.judge(asking(SECRET), rules)
    assert isinstance(first, Allowed)
    assert first.quota is not None
    assert (first.quota.limit, first.quota.remaining) == (2, 1)
    assert reason(keeper.judge(asking(SECRET, ELSEWHERE), rules)) is Reason.KEY
    denied = keeper.judge(asking(SECRET), rules)
    assert isinstance(denied, Denied)
    assert (denied.reason, denied.retry_after, denied.key_id) == (Reason.RATE_LIMITED, 0.5, "reader")
    clock.now += 0.5
    assert reason(keeper.judge(asking(SECRET), rules)) is Reason.KEY


def test_a_key_without_a_rate_has_no_quota() -> None:
    allowed = Gatekeeper().judge(asking(SECRET), generation())
    assert isinstance(allowed, Allowed)
    assert allowed.quota is None


# --- tokens


async def verdict_of(keeper: Gatekeeper, ask: Ask, rules: Generation) -> Allowed | Denied:
    verdict = keeper.judge(ask, rules)
    assert isinstance(verdict, Unverified)
    return await keeper.verified(verdict, ask, rules)


async def test_a_costly_token_is_verified_once_in_a_thread_and_then_remembered() -> None:
    threads = []

    def verify() -> Credential:
        threads.append(threading.current_thread())
        return TOKEN

    keeper, rules = Gatekeeper(), generation(tokens=Costly(verify=verify))
    assert reason(await verdict_of(keeper, asking("token-1"), rules)) is Reason.TOKEN
    for _ in range(5):
        assert reason(keeper.judge(asking("token-1"), rules)) is Reason.TOKEN
    assert len(threads) == 1
    assert threads[0] is not threading.main_thread()


async def test_those_who_wait_for_the_same_token_share_what_comes_of_it() -> None:
    verified = []

    def verify() -> Credential:
        verified.append(1)
        return TOKEN

    keeper, rules = Gatekeeper(), generation(tokens=Costly(verify=verify))
    said = await asyncio.gather(*(verdict_of(keeper, asking("token-1"), rules) for _ in range(20)))
    assert {reason(verdict) for verdict in said} == {Reason.TOKEN}
    assert len(verified) <= 2, "as many as run at once"


async def test_what_was_remembered_ends_with_the_rules_it_rests_on() -> None:
    keeper = Gatekeeper()
    await verdict_of(keeper, asking("token-1"), generation(tokens=Costly()))
    later = generation(tokens=Costly(verify=lambda: Denied(Reason.BAD_SIGNATURE, "No")))
    assert reason(await verdict_of(keeper, asking("token-1"), later)) is Reason.BAD_SIGNATURE


async def test_a_bad_token_is_a_guess_and_a_network_that_guesses_is_not_verified() -> None:
    keeper, rules = (
        Gatekeeper(clock=Clock()),
        generation(
            tokens=Costly(verify=lambda: Denied(Reason.BAD_SIGNATURE, "The token's signature is wrong"))
        ),
    )
    for number in range(3):
        said = await verdict_of(keeper, asking(f"token-{number}"), rules)
        assert reason(said) is Reason.BAD_SIGNATURE
    assert reason(keeper.judge(asking("token-9"), rules)) is Reason.TOO_MANY_FAILURES
    assert isinstance(keeper.judge(asking("token-9", ELSEWHERE), rules), Unverified)


async def test_no_more_than_so_many_wait_for_their_turn() -> None:
    go = threading.Event()

    def verify() -> Credential:
        go.wait(10)
        return TOKEN

    keeper, rules = Gatekeeper(), generation(tokens=Costly(verify=verify))
    waiting = [
        asyncio.create_task(verdict_of(keeper, asking(f"token-{number}"), rules)) for number in range(WAITING)
    ]
    await asyncio.sleep(0)
    too_many = await verdict_of(keeper, asking("token-x"), rules)
    go.set()
    assert (too_many.reason, isinstance(too_many, Denied)) == (Reason.TOO_MANY_WAITING, True)
    assert {reason(verdict) for verdict in await asyncio.gather(*waiting)} == {Reason.TOKEN}


async def test_a_token_that_was_verified_still_needs_a_right() -> None:
    keeper, rules = Gatekeeper(), generation(tokens=Costly())
    ask = replace(asking("token-1"), method=b"PUT", path=b"/write")
    assert reason(await verdict_of(keeper, ask, rules)) is Reason.RIGHT_TOO_SMALL


async def test_the_last_word_is_by_the_generation_that_is_current_when_it_is_known() -> None:
    later = generation(tokens=Costly(verify=lambda: Denied(Reason.BAD_SIGNATURE, "No")))
    current: list[Generation] = []

    def rotates() -> Credential:
        current.append(later)
        return TOKEN

    keeper, rules = Gatekeeper(), generation(tokens=Costly(verify=rotates))
    current.append(rules)
    asked: list[Generation] = []

    def ask_by(by: Generation) -> Ask:
        asked.append(by)
        return asking("token")

    first = keeper.judge(asking("token"), rules)
    assert isinstance(first, Unverified)
    verdict, _, by = await keeper.settled(first, rules, ask_by, lambda: current[-1])
    assert (reason(verdict), by, asked) == (Reason.BAD_SIGNATURE, later, [rules, later])
