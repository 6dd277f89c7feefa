import re
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.rights import Right
from rekeyd.telemetry.decisions import FLOOD, Coalescer, Decision, DecisionLog
from rekeyd.telemetry.hub import Hub
from support.waiting import eventually

ALLOWED = Decision(
    "allowed",
    reason="key",
    key_id="api_key",
    right_needed=Right.WRITE,
    method="PUT",
    path="/collections/x",
    status=200,
    client="192.0.2.1",
    request_id="a1",
    duration=0.00123456789,
    tls="TLSv1.3",
    generation=3,
)


def denial(**fields: Any) -> Decision:
    whole: dict[str, Any] = {
        "reason": "unknown_key",
        "status": 401,
        "client": "192.0.2.1",
        "path": "/x",
    } | fields
    return Decision("denied", **whole)


class Told(list[tuple[str, str, dict[str, Any], bool]]):
    """What `Logs.emit` would have written; `heard` is what it would have had for listeners alone."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[str] = []
        self.audited = 0

    def __call__(
        self,
        level: str,
        event: str,
        fields: dict[str, Any],
        *,
        dispensable: bool = False,
        logged: bool = True,
        audited: bool = False,
    ) -> None:
        self.audited += audited
        if logged:
            self.append((level, event, fields, dispensable))
        else:
            self.heard.append(event)

    @property
    def counts(self) -> list[int]:
        return [fields.get("count", 1) for _, _, fields, _ in self]


def test_an_allowed_request_is_one_dispensable_line() -> None:
    told = Told()
    DecisionLog(told).record(ALLOWED)
    fields = {
        "decision": "allowed",
        "reason": "key",
        "key_id": "api_key",
        "right_needed": "write",
        "method": "PUT",
        "path": "/collections/x",
        "status": 200,
        "client": "192.0.2.1",
        "request_id": "a1",
        "duration": 0.001234,
        "tls": "TLSv1.3",
        "generation": 3,
    }
    assert told == [("info", "auth.allowed", fields, True)]


def test_what_is_not_known_is_left_out() -> None:
    assert Decision("denied", reason="no_credential").fields() == {
        "decision": "denied",
        "reason": "no_credential",
    }


async def test_allowed_decisions_can_be_left_out_and_denials_can_not() -> None:
    told = Told()
    decisions = DecisionLog(told, decisions="denied")
    decisions.record(ALLOWED)
    decisions.record(denial())
    decisions.decisions = "all"
    decisions.record(ALLOWED)
    assert [event for _, event, _, _ in told] == ["auth.denied", "auth.allowed"]
    assert told[0][0] == "warning"
    assert told[0][3] is False


async def test_what_is_left_out_of_the_log_is_made_only_for_those_who_listen() -> None:
    told, hub = Told(), Hub()
    decisions = DecisionLog(told, hub=hub, decisions="denied")
    decisions.record(ALLOWED)
    assert not told.heard
    async with hub.subscribe():
        decisions.record(ALLOWED)
    assert told.heard == ["auth.allowed"]
    assert not told


async def test_the_audit_has_what_the_log_leaves_out_from_the_same_call() -> None:
    told = Told()
    decisions = DecisionLog(told, decisions="denied", audited=True)
    decisions.record(ALLOWED)
    decisions.record(denial())
    assert (told.heard, [event for _, event, _, _ in told]) == (["auth.allowed"], ["auth.denied"])
    assert told.audited == 2


def test_the_readme_has_every_field_of_a_line() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    table = readme.partition("### Decisions")[2].partition("## Settings")[0]
    rows = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
    named = [name for row in rows for name in re.findall("`([a-z_]+)`", row)]
    head = ["timestamp", "level", "event"]
    assert Counter(named) == Counter([*head, *Decision._fields, "count"])


class Counts(list[Decision]):
    """What `Metrics` would have counted."""

    def decided(self, decision: Decision) -> None:
        self.append(decision)


async def test_every_decision_is_counted_once_whatever_the_log_leaves_out_or_tells_together() -> None:
    told, counts, others = Told(), Counts(), Counts()
    decisions = DecisionLog(told, counts=[counts, others], decisions="denied")
    made = [ALLOWED, *(denial(request_id=f"r{number}") for number in range(200))]
    for decision in made:
        decisions.record(decision)
    decisions.close()
    assert counts == others == made
    assert sum(told.counts) == 200


def test_a_client_s_certificate_and_the_generation_of_its_connection_are_told_where_known() -> None:
    told = Decision("allowed", client_certificate="cn:backup", connection_generation=2, generation=3).fields()
    assert told == {
        "decision": "allowed",
        "generation": 3,
        "client_certificate": "cn:backup",
        "connection_generation": 2,
    }


async def test_fifty_denials_in_a_second_have_a_line_each() -> None:
    told = Told()
    decisions = DecisionLog(told)
    for _ in range(FLOOD):
        decisions.record(denial())
    decisions.close()
    assert told.counts == [1] * FLOOD


async def test_a_flood_is_told_together_after_a_second_by_itself() -> None:
    told = Told()
    decisions = DecisionLog(told)
    for number in range(500):
        decisions.record(denial(request_id=f"r{number}", path=f"/{number}"))
    assert len(told) == FLOOD
    await eventually(lambda: len(told) > FLOOD)
    _, event, fields, _ = told[-1]
    assert event == "auth.denied"
    assert fields == {
        "decision": "denied",
        "reason": "unknown_key",
        "status": 401,
        "client": "192.0.2.1",
        "count": 450,
    }
    assert decisions._denials._timer is None


async def test_closing_tells_what_still_waits() -> None:
    told = Told()
    decisions = DecisionLog(told)
    for _ in range(80):
        decisions.record(denial())
    decisions.close()
    assert sum(told.counts) == 80
    assert decisions._denials._timer is None


def test_a_flood_lasts_until_a_second_is_quiet() -> None:
    coalescer = Coalescer()
    alone = [sum(len(coalescer.add(denial(), second + n / 1000)) for n in range(60)) for second in (0.0, 1.1)]
    assert alone == [50, 1]  # in the second second only the line that stands for the first one's rest
    assert [count for _, count in coalescer.due(2.2)] == [60]
    assert coalescer.add(denial(), 2.3) == []  # follows a flood
    assert [count for _, count in coalescer.add(denial(), 3.4)] == [1, 1]  # followed a quiet second


def test_networks_do_not_share_a_count_and_reasons_do_not_share_a_line() -> None:
    coalescer = Coalescer()
    for _ in range(60):
        coalescer.add(denial(), 0.0)
        coalescer.add(denial(reason="no_credential"), 0.0)
    assert coalescer.add(denial(client="192.0.2.2"), 0.0) == [(denial(client="192.0.2.2"), 1)]
    assert Counter({held.reason: count for held, count in coalescer.due(1.0)}) == {
        "unknown_key": 35,
        "no_credential": 35,
    }


def test_a_whole_ipv6_network_floods_as_one_and_is_named() -> None:
    coalescer = Coalescer()
    for number in range(60):
        coalescer.add(denial(client=f"2001:db8::{number:x}"), 0.0)
    assert coalescer.due(1.0) == [(denial(client="2001:db8::/64"), 10)]


def test_many_networks_at_once_are_bounded_and_none_is_lost() -> None:
    coalescer = Coalescer(flood=1, networks=10)
    told = [each for n in range(100) for _ in range(3) for each in coalescer.add(denial(client=f"c{n}"), 0.0)]
    assert len(coalescer._networks) == 10
    assert sum(count for _, count in told + coalescer.flush()) == 300


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["a", "b", "c", "d"]),
            st.sampled_from(["no_credential", "unknown_key"]),
            st.sampled_from([0.0, 0.01, 0.4, 1.0, 2.5]),
            st.booleans(),
        ),
        max_size=200,
    )
)
def test_the_counts_always_add_up(steps: list[tuple[str, str, float, bool]]) -> None:
    coalescer = Coalescer(flood=3, networks=3)
    sent, told, now = Counter[tuple[str, str]](), Counter[tuple[str, str]](), 0.0
    for client, reason, pause, ring in steps:
        now += pause
        lines = coalescer.due(now) if ring else []
        lines += coalescer.add(denial(client=client, reason=reason), now)
        sent[client, reason] += 1
        for line, count in lines:
            told[line.client or "", line.reason or ""] += count
    for line, count in coalescer.flush():
        told[line.client or "", line.reason or ""] += count
    assert told == sent
    assert not coalescer.waiting
