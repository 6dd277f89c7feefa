import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.telemetry.console import read_lines, render, safe

COLOURS = re.compile(r"\x1b\[[0-9]+m")
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=8,
)
names = st.sampled_from(["auth.allowed", "auth.denied", "reload.applied", "daemon.started", "x"]) | st.text()
known = dict.fromkeys(
    ("timestamp", "level", "generation", "status", "path", "parts", "findings", "listeners", "exception"),
    json_values,
)
events = st.fixed_dictionaries({"event": names}, optional=known)

APPLIED = {
    "timestamp": "2026-11-23T12:00:01.123456Z",
    "level": "info",
    "event": "reload.applied",
    "generation": 4,
    "outcome": "applied",
    "trigger": "watch",
    "duration": 0.0123,
    "parts": {
        "server_certificate": {
            "old": {"serial": "0A1B2C3D4E5F", "not_after": "2026-11-24T00:00:00+00:00"},
            "new": {"serial": "7F3C00112233", "not_after": "2027-02-20T12:00:01+00:00"},
        }
    },
}
DENIED = {
    "timestamp": "2026-11-23T12:00:02.000001Z",
    "level": "warning",
    "event": "auth.denied",
    "generation": 4,
    "decision": "denied",
    "reason": "right_too_small",
    "key_id": "read_only_api_key",
    "right_needed": "write",
    "method": "POST",
    "path": "/collections/x/points",
    "status": 403,
    "request_id": "a1",
}


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (
            DENIED | {"subject": "alice", "token_id": "4f2a"},
            (
                "12:00:02  auth.denied      403 POST /collections/x/points  read_only_api_key (alice)  "
                "right too small (needs write)"
            ),
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:02.000001Z",
                "level": "info",
                "event": "auth.allowed",
                "reason": "token",
                "key_id": "ci",
                "token_id": "4f2a",
                "path": "/x",
            },
            "12:00:02  auth.allowed     /x  ci (4f2a)",
        ),
        (
            APPLIED,
            (
                "12:00:01  reload.applied   #4  watch  server_certificate serial 0A1B… → 7F3C…  "
                "expires in 89d  12.3 ms"
            ),
        ),
        (
            DENIED,
            (
                "12:00:02  auth.denied      403 POST /collections/x/points  read_only_api_key  "
                "right too small (needs write)"
            ),
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:00.5Z",
                "level": "warning",
                "event": "cert.expiring",
                "generation": 4,
                "names": ["db.example.org", "db.local"],
                "serial": "7F3C00112233",
                "not_after": "2026-11-30T12:00:00+00:00",
                "days_left": 6.9,
            },
            "12:00:00  cert.expiring    warning  #4  db.example.org, db.local  serial 7F3C…  expires in 7d",
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:00.5Z",
                "level": "error",
                "event": "cert.expired",
                "generation": 4,
                "names": ["db.example.org"],
                "serial": "0A",
                "not_after": "2026-11-23T12:00:00+00:00",
                "days_left": -0.1,
            },
            "12:00:00  cert.expired     error  #4  db.example.org  serial 0A  expired",
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:00.5Z",
                "level": "warning",
                "event": "setup.doubtful",
                "generation": 1,
                "rule": "pinned_file",
                "part": "server_certificate",
                "message": "tls.cert: it is pinned",
                "fix": "Mount the folder",
            },
            "12:00:00  setup.doubtful   warning  #1  tls.cert: it is pinned. Mount the folder",
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:00.5Z",
                "level": "info",
                "event": "reload.settling",
                "generation": 4,
                "outcome": "settling",
                "trigger": "watch",
                "duration": 0.001,
                "findings": [{"rule": "key_mismatch", "part": "server_certificate", "message": "no pair"}],
            },
            "12:00:00  reload.settling  #4  watch  server_certificate: no pair  1.0 ms",
        ),
        (
            APPLIED
            | {
                "parts": {
                    "server_certificate": {
                        "more": [
                            {"name": f"{name}.example.org", "old": None, "new": {"serial": f"0{number}"}}
                            for number, name in enumerate("abcde")
                        ]
                    }
                }
            },
            (
                "12:00:01  reload.applied   #4  watch  a.example.org serial 00  b.example.org serial 01  "
                "c.example.org serial 02  and 2 more  12.3 ms"
            ),
        ),
        (
            DENIED | {"count": 120, "client": "192.0.2.1", "key_id": None, "path": None, "method": None},
            "12:00:02  auth.denied      403  right too small (needs write)  120 times  192.0.2.1",
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:00.5Z",
                "level": "info",
                "event": "daemon.started",
                "generation": 1,
                "version": "0.1.0",
                "pid": 7,
                "listeners": [{"name": "http", "host": "127.0.0.1", "port": 6333, "tls": True}],
                "admin": None,
                "upstream": "demo",
            },
            (
                "12:00:00  daemon.started   #1  rekeyd 0.1.0  http on 127.0.0.1:6333 with TLS  "
                "upstream demo  pid 7"
            ),
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:03Z",
                "level": "error",
                "event": "reload.refused",
                "generation": 4,
                "outcome": "refused",
                "trigger": "signal",
                "findings": [
                    {
                        "rule": "pair",
                        "part": "server_certificate",
                        "message": "the key is another's",
                        "fix": "Wait",
                    }
                ],
                "restart_needed": ["service.http_port"],
            },
            (
                "12:00:03  reload.refused   #4  signal  server_certificate: the key is another's. Wait  "
                "restart_needed=service.http_port"
            ),
        ),
        (
            {
                "timestamp": "2026-11-23T12:00:03Z",
                "level": "error",
                "event": "library.message",
                "generation": None,
                "logger": "asyncio",
                "message": "Task exception was never retrieved",
                "exception": {"type": "OSError", "message": "gone", "frames": ["a.py:1", "b.py:2"]},
            },
            (
                "12:00:03  library.message  error  Task exception was never retrieved  "
                "OSError: gone (b.py:2)  logger=asyncio"
            ),
        ),
    ],
)
def test_a_line_says_what_a_person_asks_first(event: dict[str, Any], line: str) -> None:
    assert render(event) == line


@pytest.mark.parametrize(
    ("not_after", "words"),
    [
        ("2026-11-23T12:30:00Z", "expires in 30min"),
        ("2026-11-23T22:00:00+00:00", "expires in 10h"),
        ("2026-11-25T13:00:00", "expires in 2d"),
        ("2026-11-23T11:00:00Z", "expired"),
    ],
)
def test_an_expiry_is_counted_from_the_lines_own_time(not_after: str, words: str) -> None:
    parts = {"server_certificate": {"old": None, "new": {"serial": "1", "not_after": not_after}}}
    event = APPLIED | {"timestamp": "2026-11-23T12:00:00Z", "parts": parts}
    assert f"server_certificate serial 1  {words}" in render(event)


def test_a_field_that_nobody_thought_of_is_shown() -> None:
    assert "surprise=a=1, b" in render(DENIED | {"surprise": [{"a": 1}, "b"]})


def test_colour_adds_only_colour() -> None:
    for event in (APPLIED, DENIED):
        coloured = render(event, colour=True)
        assert coloured != render(event)
        assert COLOURS.sub("", coloured) == render(event)


@given(events)
def test_whatever_an_event_holds_the_line_holds_only_what_can_be_seen(event: dict[str, Any]) -> None:
    assert render(event).isprintable()
    assert COLOURS.sub("", render(event, colour=True)).isprintable()


@given(st.text())
def test_safe_text_is_printable_and_what_was_printable_stays(text: str) -> None:
    assert safe(text).isprintable()
    assert safe(text) == text or not text.isprintable()


@given(st.binary())
def test_any_bytes_pass_the_reader_and_stay_on_their_lines(junk: bytes) -> None:
    lines = junk.split(b"\n")
    shown = list(read_lines(line + b"\n" for line in lines))
    assert len(shown) == len(lines)
    assert all(line.replace("\t", "").isprintable() for line in shown)


def test_lines_that_are_no_events_pass_unharmed_but_harmless() -> None:
    stream = [
        b"Traceback (most recent call last):\n",
        b"\tat x\r\n",
        b'{"some": "other json"}\n',
        b"[1, 2]\n",
        b"\x1b[2Jcleared \xff\xe2\x80\xa8\n",
        json.dumps(DENIED).encode(),
    ]
    assert list(read_lines(stream)) == [
        "Traceback (most recent call last):",
        "\tat x",
        '{"some": "other json"}',
        "[1, 2]",
        "\\x1b[2Jcleared \\xff\\u2028",
        render(DENIED),
    ]


def test_a_new_day_gets_a_line_of_its_own() -> None:
    days = ["2026-11-23T23:59:59Z", "2026-11-24T00:00:01Z", "2026-11-24T00:00:02Z"]
    shown = list(read_lines(json.dumps(DENIED | {"timestamp": day}).encode() for day in days))
    assert [line[:10].strip() for line in shown] == ["23:59:59", "2026-11-24", "00:00:01", "00:00:02"]


def test_a_call_of_grpc_is_told_by_its_own_status() -> None:
    event = DENIED | {"method": "POST", "path": "/a.B/C", "status": 200, "grpc_status": 16}
    assert "grpc 16 /a.B/C" in render(event)
    assert "200" not in render(event)
