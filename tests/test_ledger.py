"""The ledger: who is open, who has to go and when, and that nothing stays behind of who went."""

import asyncio
import itertools
import time
from dataclasses import replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from rekeyd.access.admission import Ask
from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Limits, Right
from rekeyd.ledger import Entry, Ledger, Use
from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Generation
from rekeyd.trust.revocations import read_revocations
from support.generations import candidate_of, settings_of
from support.loops import Timers
from support.pki import Authority

GRACE = 0.2
CA, OTHER = Authority("client CA"), Authority("another CA")
SERVER = Authority().issue()
CLIENT, STRANGER = CA.issue("worker.test", client=True).der, OTHER.issue("other.test", client=True).der
KEY = Credential.of_secret("writer", Right.WRITE, "a secret")
WRITES, READS = Ask(b"PUT", b"/write"), Ask(b"GET", b"/read")


class Guest:
    """A connection that notes what is done to it, and when."""

    def __init__(self) -> None:
        self.retired: list[float] = []
        self.cuts: list[tuple[str, float]] = []
        self.over = asyncio.Event()

    def retire(self) -> None:
        self.retired.append(time.monotonic())

    def cut(self, why: str) -> None:
        self.cuts.append((why, time.monotonic()))
        self.over.set()


def generation(
    number: int,
    *,
    anchors: bytes = CA.pem,
    crl: bytes | None = None,
    keys: KeyRing | None = None,
    mode: bool | str = "optional",
    tls: dict[str, Any] | None = None,
    **connections: Any,
) -> Generation:
    settings = settings_of(
        service={"verify_https_client_certificate": mode},
        tls={"ca_cert": "/etc/rekeyd/ca.pem", **(tls or {})},
        connections=connections,
    )
    return candidate_of(
        SERVER,
        settings=settings,
        anchors=read_anchors(anchors),
        revocations=read_revocations(crl) if crl else None,
        ring=KeyRing([KEY]) if keys is None else keys,
    ).generation(number)


@pytest.fixture(autouse=True)
def short_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rekeyd.ledger.GRACE", GRACE)


def entered(
    ledger: Ledger,
    under: Generation,
    certificate: bytes | None = None,
    *,
    using: Credential | None = None,
    ask: Ask = WRITES,
) -> tuple[Guest, Entry]:
    guest = Guest()
    entry = ledger.enter(guest, under, certificate)
    if using is not None:
        entry.using.append(Use(ask, using))
    return guest, entry


def at_generation(first: Generation) -> Ledger:
    ledger = Ledger()
    ledger.rotated(first)
    return ledger


async def test_every_connection_is_counted_under_its_generation_until_it_leaves() -> None:
    first, second = generation(1), generation(2)
    ledger = at_generation(first)
    entries = [entered(ledger, first)[1] for _ in range(3)]
    ledger.rotated(second)
    entered(ledger, second)

    assert (len(ledger), ledger.per_generation()) == (4, {1: 3, 2: 1})
    for entry in entries:
        ledger.leave(entry)
    ledger.leave(entries[0])
    assert (len(ledger), ledger.per_generation()) == (1, {2: 1})


async def test_a_rotation_that_takes_nothing_away_leaves_everybody_alone() -> None:
    first = generation(1, crl=CA.crl(1))
    ledger = at_generation(first)
    known, key_user = entered(ledger, first, CLIENT), entered(ledger, first, using=KEY)
    more_keys = KeyRing([KEY, Credential.of_secret("reader", Right.READ, "another")])

    ledger.rotated(generation(2, anchors=OTHER.pem + CA.pem, crl=CA.crl(1), keys=more_keys))

    for guest, entry in (known, key_user):
        assert (guest.retired, guest.cuts, entry.timers) == ([], [], {})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"anchors": OTHER.pem}, "the authority of its client certificate is not believed any more"),
        ({"crl": CA.crl(CA.issue("x", client=True))}, None),
        ({"tls": {"allowed_clients": ["dns:else.test"]}}, "its client certificate is not among tls.all"),
        ({"tls": {"allowed_clients": ["dns:worker.test"]}}, None),
        ({"mode": True}, None),
    ],
)
async def test_who_showed_a_certificate_stays_while_it_is_good_enough(
    change: dict[str, Any], reason: str | None
) -> None:
    first = generation(1)
    ledger = at_generation(first)
    guest, entry = entered(ledger, first, CLIENT)

    ledger.rotated(generation(2, **change))

    if reason is None:
        assert (guest.retired, entry.timers) == ([], {})
        return
    assert len(guest.retired) == 1, "an idle connection closes at once, a busy one after the answer at hand"
    await asyncio.wait_for(guest.over.wait(), 2)
    assert guest.cuts[0][0].startswith(reason)


async def test_who_showed_none_has_to_go_where_one_is_required() -> None:
    first = generation(1)
    ledger = at_generation(first)
    (bare, _), (known, _) = entered(ledger, first), entered(ledger, first, CLIENT)

    with capture_logs() as told:
        ledger.rotated(generation(2, mode=True))
        began = time.monotonic()
        await asyncio.wait_for(bare.over.wait(), 2)

    ((why, when),) = bare.cuts
    assert why == "it has no client certificate, and one is required"
    assert GRACE * 0.9 <= when - began < 2
    assert known.cuts == []
    assert told == [
        {"event": "connection.cut", "log_level": "info", "reason": why, "connection_generation": 1}
    ]


async def test_what_is_trusted_again_within_the_grace_is_not_cut() -> None:
    first = generation(1)
    ledger = at_generation(first)
    (guest, entry), (user, rests) = entered(ledger, first, CLIENT), entered(ledger, first, using=KEY)
    ledger.rotated(generation(2, anchors=OTHER.pem, keys=KeyRing([])))
    assert entry.timers
    assert rests.timers

    ledger.rotated(generation(3))

    await asyncio.sleep(GRACE * 2)
    assert guest.cuts == user.cuts == []
    assert entry.timers == rests.timers == {}


EXPIRED = replace(KEY, expires=1.0)
ELSEWHERE = replace(KEY, limits=Limits(paths=(b"/elsewhere",)))


@pytest.mark.parametrize(
    ("left", "why"),
    [
        ([], "key writer was removed"),
        ([replace(KEY, right=Right.READ)], "key writer is not enough any more: right_too_small"),
        ([EXPIRED], "key writer is not enough any more: expired"),
        ([ELSEWHERE], "key writer is not enough any more: path_not_allowed"),
    ],
)
async def test_a_request_that_would_not_be_let_in_any_more_is_cut_after_the_grace(
    left: list[Credential], why: str
) -> None:
    first = generation(1)
    ledger = at_generation(first)
    other_key = Credential.of_secret("reader", Right.READ, "another")
    (running, _), (short, brief), (other, _) = (
        entered(ledger, first, using=KEY),
        entered(ledger, first, using=KEY),
        entered(ledger, first, using=other_key, ask=READS),
    )

    ledger.rotated(generation(2, keys=KeyRing([*left, other_key])))
    brief.using.clear()

    await asyncio.wait_for(running.over.wait(), 2)
    assert [told for told, _ in running.cuts] == [why]
    assert running.retired == [], "the connection itself is as good as before"
    await asyncio.sleep(GRACE / 2)
    assert short.cuts == other.cuts == [], (
        "what finishes within the grace isn't cut, nor are other keys' users"
    )


async def test_a_key_that_gets_another_name_or_a_greater_right_is_the_same_key() -> None:
    first = generation(1)
    ledger = at_generation(first)
    guest, entry = entered(ledger, first, using=KEY)

    ledger.rotated(generation(2, keys=KeyRing([replace(KEY, id="renamed", right=Right.MANAGE)])))

    assert (guest.retired, entry.timers) == ([], {})


async def test_a_request_ends_when_its_key_expires(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rekeyd.ledger.LOOKS", 0.02)
    clock = [1000.0]
    ending = replace(KEY, expires=1001.0)
    ledger, rules = Ledger(now=lambda: clock[0]), generation(1, keys=KeyRing([ending]))
    ledger.rotated(rules)
    (guest, entry), (other, brief) = entered(ledger, rules), entered(ledger, rules)

    with ledger.resting(entry, Use(WRITES, ending)):
        with ledger.resting(brief, Use(WRITES, ending)):
            await asyncio.sleep(0.1)
            assert guest.cuts == [], "it has not expired yet"
        clock[0] = 1001.0
        await asyncio.wait_for(guest.over.wait(), 2)

    assert [why for why, _ in guest.cuts] == ["key writer is not enough any more: expired"]
    assert other.cuts == [], "its request was over by then"
    await asyncio.sleep(0.1)
    assert ledger._looks is None, "nothing is looked at that nobody uses"


async def test_a_token_lasts_as_long_as_its_signer() -> None:
    first = generation(1)
    ledger = at_generation(first)
    token = replace(KEY, is_token=True, subject="somebody")
    guest, _ = entered(ledger, first, using=token)

    ledger.rotated(generation(2))

    await asyncio.wait_for(guest.over.wait(), 2)
    assert [why for why, _ in guest.cuts] == ["token of writer is not accepted any more"]


async def test_what_was_let_in_without_a_key_ends_where_one_is_needed_now() -> None:
    first = generation(1)
    ledger = at_generation(first)
    guest, entry = entered(ledger, first)
    entry.using.append(Use(WRITES, None))

    ledger.rotated(generation(2))

    await asyncio.wait_for(guest.over.wait(), 2)
    assert [why for why, _ in guest.cuts] == ["a key is needed now"]


async def test_who_came_in_during_a_rotation_is_judged_by_the_later_generation() -> None:
    first, second = generation(1), generation(2, anchors=OTHER.pem, after_rotation="drain", drain=0.2)
    ledger = at_generation(second)
    guest, _ = entered(ledger, first, CLIENT)

    assert guest.retired
    await asyncio.wait_for(guest.over.wait(), 2)


async def test_who_came_in_under_a_generation_that_is_not_told_yet_is_not_judged_by_the_one_before() -> None:
    ledger = at_generation(generation(1))
    second = generation(2, anchors=CA.pem + OTHER.pem)
    guest, entry = entered(ledger, second, STRANGER)
    assert (guest.retired, entry.timers) == ([], {})

    ledger.rotated(second)

    assert (guest.retired, entry.timers) == ([], {})


async def test_a_drain_spreads_the_ends_of_idle_connections_and_cuts_what_is_left() -> None:
    first = generation(1)
    ledger = at_generation(first)
    guests = [entered(ledger, first)[0] for _ in range(100)]
    began = time.monotonic()

    ledger.rotated(generation(2, after_rotation="drain", drain=0.5))
    newcomer, _ = entered(ledger, generation(2))

    await asyncio.wait_for(asyncio.gather(*(guest.over.wait() for guest in guests)), 3)
    moments = sorted(guest.retired[0] - began for guest in guests)
    assert moments[0] < 0.1
    assert 0.25 < moments[-1] < 0.5
    widest = max(later - earlier for earlier, later in itertools.pairwise(moments))
    assert widest < 0.15, "not in bursts"
    assert all(len(guest.cuts) == 1 and guest.cuts[0][0] == "rotation" for guest in guests)
    assert min(guest.cuts[0][1] for guest in guests) - began >= 0.45
    assert newcomer.retired == []


async def test_rotations_in_a_row_put_no_end_off_and_pile_up_no_timers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = generation(1)
    ledger = at_generation(first)
    guest, entry = entered(ledger, first, using=KEY)
    began = time.monotonic()
    monkeypatch.setattr("rekeyd.ledger.GRACE", 0.25)
    for number in range(2, 12):
        ledger.rotated(generation(number, keys=KeyRing([]), after_rotation="drain", drain=0.4))
        assert len(entry.timers) <= 3
        await asyncio.sleep(0.05)
        if guest.over.is_set():
            break

    ((_, when),) = guest.cuts
    assert when - began < 0.4
    assert entry.timers == {}, "what else was to happen to it"


async def test_max_age_retires_a_tenth_earlier_or_later_and_cuts_after_the_drain() -> None:
    rules = generation(1, max_age=1, drain=0.3)
    ledger = at_generation(rules)
    began = time.monotonic()
    guests = [entered(ledger, rules)[0] for _ in range(50)]

    await asyncio.wait_for(asyncio.gather(*(guest.over.wait() for guest in guests)), 4)

    ages = [guest.retired[0] - began for guest in guests]
    assert 0.85 < min(ages) < 0.97
    assert 1.03 < max(ages) < 1.3
    for guest in guests:
        ((why, when),) = guest.cuts
        assert why == "max_age"
        assert 0.25 < when - guest.retired[0] < 0.6


async def test_another_max_age_is_for_new_connections() -> None:
    first, second = generation(1, max_age=100), generation(2)
    ledger = at_generation(first)
    _, old = entered(ledger, first)
    before = {what: timer.when() for what, timer in old.timers.items()}
    ledger.rotated(second)
    _, new = entered(ledger, second)

    assert {what: timer.when() for what, timer in old.timers.items()} == before
    assert new.timers == {}


async def test_no_timer_outlives_its_connection() -> None:
    timers = Timers(asyncio.get_running_loop())
    rules = generation(1, max_age=1000, drain=1000)
    ledger = at_generation(rules)
    for _ in range(1000):
        _, entry = entered(ledger, rules)
        ledger.leave(entry)
        assert entry.timers == {}
    assert len(ledger) == 0
    assert timers.waiting == []
    await asyncio.sleep(0)
    assert len(timers.kept) < 200, "cancelled ones go, too"


async def test_five_thousand_connections_are_judged_without_a_stall_where_nothing_was_taken_away() -> None:
    first = generation(1)
    ledger = at_generation(first)
    for number in range(5000):
        entered(
            ledger, first, CLIENT + number.to_bytes(2, "big")
        )  # unreadable: looked at, it would have to go
    began = time.monotonic()
    ledger.rotated(generation(2, anchors=CA.pem + OTHER.pem))
    assert time.monotonic() - began < 0.1
    assert not any(entry.timers for entry in ledger._open)


async def test_a_tunnel_that_lost_trust_is_not_retired_before_it_is_cut() -> None:
    """To retire it is to end it, and the end is to say why."""
    ledger, tunnel, other = Ledger(), Guest(), Guest()
    first = generation(1)
    ledger.rotated(first)
    ledger.enter(tunnel, first, CLIENT, opaque=True)
    ledger.enter(other, first, CLIENT)
    ledger.rotated(generation(2, anchors=OTHER.pem))
    async with asyncio.timeout(5):
        await asyncio.gather(tunnel.over.wait(), other.over.wait())
    assert (len(tunnel.retired), len(other.retired)) == (0, 1)
    assert tunnel.cuts[0][0] == other.cuts[0][0]


async def test_after_a_rotation_a_tunnel_is_retired_as_others_are() -> None:
    ledger, tunnel = Ledger(), Guest()
    first = generation(1)
    ledger.rotated(first)
    ledger.enter(tunnel, first, opaque=True)
    ledger.rotated(generation(2, after_rotation="drain", drain=0.2))
    async with asyncio.timeout(2):
        await tunnel.over.wait()
    assert (len(tunnel.retired), tunnel.cuts[0][0]) == (1, "rotation")


async def test_each_is_judged_anew_by_what_let_it_in() -> None:
    ledger, guest = Ledger(), Guest()
    first = generation(1)
    ledger.rotated(first)
    asked: list[tuple[int, bytes | None, int | None]] = []

    def admission(current: Generation, der: bytes | None, before: Generation | None = None) -> str | None:
        asked.append((current.number, der, before.number if before else None))
        return None

    ledger.enter(guest, first, CLIENT, admission=admission)
    ledger.rotated(generation(2, anchors=OTHER.pem))
    assert asked == [(2, CLIENT, 1)]
    assert guest.cuts == []
