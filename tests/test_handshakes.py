from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.telemetry.handshakes import (
    KINDS,
    LINES,
    LINES_OF_A_NETWORK,
    Counted,
    Failure,
    HandshakeLog,
    Ration,
    kind_of,
)
from support.waiting import eventually


def failure(client: str = "192.0.2.1", reason: str = "timeout", listener: str = "http") -> Failure:
    return Failure(listener, client, reason, 3)


class Told(list[tuple[str, str, dict[str, Any]]]):
    """What `Logs.emit` would have written."""

    def __call__(self, level: str, event: str, fields: dict[str, Any]) -> None:
        self.append((level, event, fields))

    @property
    def total(self) -> int:
        return sum(fields.get("count", 1) for _, _, fields in self)


class Counts(Counter[tuple[str, str]]):
    """What `Metrics` would have counted."""

    def handshake(self, listener: str) -> None:
        self[listener, "good"] += 1

    def handshake_failed(self, listener: str, reason: str) -> None:
        self[listener, reason] += 1


def total(told: list[Counted]) -> int:
    return sum(count for _, count in told)


async def test_a_failure_is_one_line_that_says_who_and_why() -> None:
    told, counts = Told(), Counts()
    HandshakeLog(told, counts).failed("http", "192.0.2.1", "no_shared_cipher", 7)
    fields = {"listener": "http", "client": "192.0.2.1", "reason": "no_shared_cipher", "generation": 7}
    assert told == [("warning", "tls.handshake_failed", fields)]
    assert counts == {("http", "no_shared_cipher"): 1}


async def test_what_is_not_known_is_left_out() -> None:
    told = Told()
    HandshakeLog(told).failed("http", "192.0.2.1", "timeout", None)
    assert "generation" not in told[0][2]


async def test_a_flood_is_told_together_after_a_second_by_itself_and_counted_in_full() -> None:
    told, counts = Told(), Counts()
    failures = HandshakeLog(told, counts)
    for _ in range(500):
        failures.failed("http", "192.0.2.1", "timeout", 3)
    assert len(told) == LINES_OF_A_NETWORK
    await eventually(lambda: len(told) > LINES_OF_A_NETWORK)
    fields = {"listener": "http", "client": "192.0.2.1", "reason": "timeout", "generation": 3, "count": 495}
    assert told[LINES_OF_A_NETWORK:] == [("warning", "tls.handshake_failed", fields)]
    assert counts == {("http", "timeout"): 500}


async def test_closing_tells_what_still_waits() -> None:
    told = Told()
    failures = HandshakeLog(told)
    for _ in range(30):
        failures.failed("http", "192.0.2.1", "timeout", 3)
    failures.close()
    assert told.total == 30


def test_many_networks_share_what_a_listener_may_say_in_a_second() -> None:
    ration = Ration()
    told = [each for number in range(100) for each in ration.add(failure(f"192.0.2.{number}"), 0.0)]
    assert len(told) == LINES
    assert ration.add(failure(listener="grpc"), 0.0) == [(failure(listener="grpc"), 1)]
    left = ration.due(1.0)
    assert total(told + left) == 100
    assert len(left) == 10
    assert left[-1] == (Failure("http", None, "timeout", 3), 71)


def test_networks_and_reasons_do_not_share_a_line_and_a_whole_ipv6_network_has_one() -> None:
    ration = Ration()
    for number in range(10):
        ration.add(failure(f"2001:db8::{number:x}"), 0.0)
        ration.add(failure("192.0.2.1", "no_shared_cipher"), 0.0)
        ration.add(failure("192.0.2.1", "timeout"), 0.0)
    assert ration.due(1.0) == [
        (failure("192.0.2.1", "timeout"), 8),
        (failure("192.0.2.1", "no_shared_cipher"), 7),
        (failure("2001:db8::/64"), 5),
    ]


def test_what_is_told_late_is_part_of_the_second_in_which_it_is_told() -> None:
    ration = Ration()
    for _ in range(10):
        ration.add(failure(), 0.0)
    assert ration.add(failure(), 1.0) == [(failure(), 5), (failure(), 1)]
    assert [len(ration.add(failure(), 1.1)) for _ in range(5)] == [1, 1, 1, 0, 0]


def test_a_quiet_second_brings_every_line_back() -> None:
    ration = Ration()
    for _ in range(10):
        ration.add(failure(), 0.0)
    ration.due(1.0)
    assert ration.next_due() is None
    assert not ration.waiting
    assert [len(ration.add(failure(), 5.0)) for _ in range(6)] == [1, 1, 1, 1, 1, 0]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(
                ["192.0.2.1", "192.0.2.2", "2001:db8::1", "2001:db8::2", *"abcdefghijklmnopqrstuv"]
            ),
            st.sampled_from(["timeout", "no_shared_cipher", "closed_by_client"]),
            st.sampled_from(["http", "grpc"]),
            st.sampled_from([0.0, 0.0, 0.0, 0.01, 0.3, 1.0, 2.5]),
            st.booleans(),
        ),
        max_size=300,
    )
)
def test_the_counts_always_add_up_and_no_second_says_too_much(
    steps: list[tuple[str, str, str, float, bool]],
) -> None:
    ration, now = Ration(), 0.0
    sent, told = Counter[str](), Counter[str]()
    lines: list[tuple[str, float]] = []
    for client, reason, listener, pause, ring in steps:
        now += pause
        fresh = ration.due(now) if ring else []
        fresh += ration.add(failure(client, reason, listener), now)
        sent[listener] += 1
        lines += [(line.listener, now) for line, _ in fresh]
        for line, count in fresh:
            told[line.listener] += count
    for line, count in ration.flush():
        told[line.listener] += count
    assert told == sent
    assert not ration.waiting
    for listener, began in lines:
        # Seconds are counted from their first line, so any stretch of one touches two of them.
        within = [1 for other, when in lines if other == listener and began <= when < began + 1.0]
        assert len(within) <= 2 * LINES


@pytest.mark.parametrize(
    ("reason", "kind"),
    [
        ("timeout", "timeout"),
        ("closed_by_client", "closed_by_client"),
        ("unexpected_eof_while_reading", "closed_by_client"),
        ("client_certificate: certificate has expired", "client_certificate"),
        ("client_certificate: not allowed", "client_certificate"),
        ("peer_did_not_return_a_certificate", "no_client_certificate"),
        ("tlsv1_alert_unknown_ca", "client_alert"),
        ("sslv3_alert_certificate_unknown", "client_alert"),
        ("SSL/TLS_ALERT_BAD_CERTIFICATE", "client_alert"),
        ("tlsv1_alert_protocol_version", "unsupported_protocol"),
        ("unsupported_protocol", "unsupported_protocol"),
        ("no_shared_cipher", "no_shared_parameters"),
        ("no_suitable_key_share", "no_shared_parameters"),
        ("http_request", "not_tls"),
        ("wrong_version_number", "not_tls"),
        ("unrecognized_name", "unknown_name"),
        ("OSError", "other"),
        ("", "other"),
    ],
)
def test_reasons_are_of_a_few_kinds(reason: str, kind: str) -> None:
    assert kind_of(reason) == kind


@given(st.text())
def test_every_reason_is_of_a_kind(reason: str) -> None:
    assert kind_of(reason) in KINDS
