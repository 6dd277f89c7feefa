"""Entries of the journal: what they hold, and that nobody can put a field into one."""

import datetime as dt
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.verdict import Reason
from rekeyd.telemetry.journal import MESSAGE_IDS, entry, event_of

DENIED = {
    "timestamp": "2026-11-25T18:14:13.000001Z",
    "level": "warning",
    "event": "auth.denied",
    "generation": 4,
    "reason": "right_too_small",
    "key_id": "reader",
    "method": "DELETE",
    "path": "/collections/books",
    "status": 403,
    "duration": 0.0012,
    "client": "192.0.2.7",
}


def fields_of(data: bytes) -> list[tuple[str, bytes]]:
    """As journald reads an entry (systemd.io/JOURNAL_NATIVE_PROTOCOL)."""
    fields = []
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            size = int.from_bytes(rest[:8], "little")
            value, rest = rest[8 : 8 + size], rest[8 + size :]
            assert rest[:1] == b"\n"
            rest = rest[1:]
        fields.append((name.decode("ascii"), value))
        data = rest
    return fields


def told_by_journalctl(event: dict[str, Any]) -> dict[str, Any]:
    """As `journalctl -o json` writes it: what is no printable text as numbers."""
    told: dict[str, Any] = {"__REALTIME_TIMESTAMP": "1", "_PID": "2"}
    for name, value in fields_of(entry(event)):
        text = value.decode("utf-8", "replace")
        told[name] = text if text.isprintable() else list(value)
    return dict(orjson.loads(orjson.dumps(told)))


def test_every_field_can_be_asked_for() -> None:
    fields = dict(fields_of(entry(DENIED)))
    assert fields["EVENT"] == b"auth.denied"
    assert fields["GENERATION"] == b"4"
    assert fields["REKEYD_KEY_ID"] == b"reader"
    assert fields["REKEYD_STATUS"] == b"403"
    assert fields["PRIORITY"] == b"4"
    assert fields["SYSLOG_IDENTIFIER"] == b"rekeyd"
    assert fields["MESSAGE"].startswith(b"auth.denied  403 DELETE /collections/books  reader")
    assert b"18:14" not in fields["MESSAGE"]
    assert "MESSAGE_ID" not in fields


@pytest.mark.parametrize("name", MESSAGE_IDS)
def test_what_people_act_on_has_an_id_of_its_own(name: str) -> None:
    fields = dict(fields_of(entry({**DENIED, "event": name})))
    assert fields["MESSAGE_ID"].decode() == MESSAGE_IDS[name]


def test_ids_are_ids_and_none_is_there_twice() -> None:
    assert len(set(MESSAGE_IDS.values())) == len(MESSAGE_IDS)
    assert all(len(bytes.fromhex(each)) == 16 for each in MESSAGE_IDS.values())


def test_a_line_break_in_a_value_begins_no_field() -> None:
    evil = "/x\nEVENT=auth.allowed\nREKEYD_KEY_ID=admin\n"
    fields = fields_of(entry({**DENIED, "path": evil}))
    assert [value for name, value in fields if name == "EVENT"] == [b"auth.denied"]
    assert dict(fields)["REKEYD_PATH"] == evil.encode()


def test_an_event_comes_back_the_same() -> None:
    event = {**DENIED, "parts": {"keys": {"added": ["a", "b"]}}, "tls": None, "path": "/a\nb"}
    back = event_of(told_by_journalctl(event))
    assert back == {key: value for key, value in event.items() if value is not None}


def test_what_is_one_of_an_enumeration_is_told_as_its_text() -> None:
    fields = dict(fields_of(entry({**DENIED, "reason": Reason.RIGHT_TOO_SMALL})))
    assert fields["REKEYD_REASON"] == b"right_too_small"


@pytest.mark.parametrize("subject", ["1.10", "1e3", "true", "12345678901234567890123", '{"a":1}'])
def test_what_a_client_calls_itself_stays_what_it_is(subject: str) -> None:
    back = event_of(told_by_journalctl({**DENIED, "subject": subject}))
    assert back is not None
    assert back["subject"] == subject


def test_entries_of_others_are_none_of_ours() -> None:
    assert event_of({"MESSAGE": "hello", "PRIORITY": "6"}) is None


TEXT = st.text(st.characters(codec="utf-8"))
VALUE = TEXT | st.integers(-(2**53), 2**53) | st.booleans() | st.dictionaries(TEXT, TEXT) | st.datetimes()


@given(st.dictionaries(TEXT, VALUE))
def test_whatever_is_told_every_name_is_one_and_every_value_is_whole(told: dict[str, Any]) -> None:
    event = {**DENIED, **told, "event": "any", "level": "info"}
    fields = fields_of(entry(event))
    for name, _ in fields:
        assert name[0].isalpha()
        assert len(name) <= 64
        assert set(name) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
    texts = {value.encode() for value in event.values() if isinstance(value, str)}
    assert texts <= {value for _, value in fields}


def test_what_has_no_form_of_its_own_is_told_as_text() -> None:
    event = {**DENIED, "moment": dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "surrogate": "\udcff"}
    fields = dict(fields_of(entry(event)))
    assert fields["REKEYD_SURROGATE"] == b"\\udcff"
    assert fields["REKEYD_MOMENT"].startswith(b'"2026-01-01')
