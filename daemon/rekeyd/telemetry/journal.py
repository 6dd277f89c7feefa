"""One event as an entry of the systemd journal, and such an entry as an event again.

The rules: what a person reads is `MESSAGE`, without the time, which the journal has. Every field of the event
is a field of the entry, so that it can be asked for (`journalctl EVENT=auth.denied REKEYD_KEY_ID=reader`):
`EVENT` and `GENERATION` by these names, all others as `REKEYD_…`. What is no text is JSON. A value with a
line break in it is told with its length, so that nothing in it can pass for a field of its own (the journal's
native protocol, systemd.io/JOURNAL_NATIVE_PROTOCOL). What people act on has a `MESSAGE_ID`.

Pure. Must not know: where the journal is.
"""

import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Any

import orjson

from rekeyd.telemetry import console, lines

PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""Of syslog(3)."""
MESSAGE_IDS = {
    "reload.applied": "55ea4e75b69243399f608a08f93fb108",
    "reload.unchanged": "8f2b7af6367b44d38b4d2900df50b5d4",
    "reload.refused": "7eb9fc86ebb74795a81c1042e6db6fdb",
    "reload.settling": "2ce169c1988542ec8bb9e0233965a86c",
    "generation.restored": "b1defd37cde04b76bb3fe2b507f147f8",
    "daemon.started": "98a4afe7f59349178d6adf5eef093f6d",
    "daemon.stopping": "a26c6190a0484b588851b5f3300b5dc6",
    "cert.expiring": "e80eb8666e804332b3d5766feec7bdb7",
    "cert.expired": "61b19f0798b54289a10d5ae721bf5fe4",
}

_OURS = "REKEYD_"
_LONGEST_NAME = 64
_UNFIT = re.compile(r"[^A-Z0-9_]")
_NO_TEXT = {
    *("connection_generation", "count", "days_left", "duration", "grpc_status", "status"),
    *("exception", "findings", "listeners", "names", "parts", "restart_needed"),
}
"""Fields whose value is no text, where the human form makes a difference. All others come back as text: one
that looks like a number may be what a client calls itself."""
_NAMED = {"event": "EVENT", "generation": "GENERATION"}


def entry(event: Mapping[str, Any]) -> bytes:
    """The entry, as the journal takes it. Never raises."""
    fields = [("MESSAGE", console.message(event))]
    fields += [(_name(str(key)), _text_of(value)) for key, value in event.items() if value is not None]
    head = _head(str(event.get("level", "info")), str(event.get("event", "")))
    text = "".join([f"{name}={value}\n" for name, value in fields])
    if text.count("\n") == len(fields):
        return head + text.encode("utf-8", "backslashreplace")
    return head + b"".join([_field(name, value) for name, value in fields])


def event_of(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """The event of an entry in the form of `journalctl -o json`; None where it is none of ours."""
    fields = {name: _text(value) for name, value in told.items()}
    name, stamp = fields.get("EVENT"), fields.get(f"{_OURS}TIMESTAMP")
    if name is None or stamp is None:
        return None
    head: dict[str, Any] = {"timestamp": stamp, "level": fields.get(f"{_OURS}LEVEL") or "info", "event": name}
    number = fields.get("GENERATION")
    head["generation"] = _value(number) if number else None
    for key, value in fields.items():
        if key.startswith(_OURS) and value is not None:
            name = key.removeprefix(_OURS).lower()
            head.setdefault(name, _value(value) if name in _NO_TEXT else value)
    return head


@cache
def _head(level: str, name: str) -> bytes:
    priority = PRIORITIES.get(level, PRIORITIES["info"])
    known = f"MESSAGE_ID={MESSAGE_IDS[name]}\n" if name in MESSAGE_IDS else ""
    return f"PRIORITY={priority}\nSYSLOG_IDENTIFIER=rekeyd\n{known}".encode()


@lru_cache(1024)
def _name(key: str) -> str:
    return (_NAMED.get(key) or _OURS + _UNFIT.sub("_", key.upper()))[:_LONGEST_NAME]


def _text_of(value: object) -> str:
    if isinstance(value, str):
        return str(value)  # also one of an enumeration
    if type(value) is int or type(value) is float:
        return str(value)
    return lines.to_json({"": value})[4:-2].decode()


def _field(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return b"%b\n%b%b\n" % (name.encode(), len(data).to_bytes(8, "little"), data)
    return b"%b=%b\n" % (name.encode(), data)


def _text(value: object) -> str | None:
    """`journalctl` writes what is no text as a list of bytes, and what is there twice as a list of texts."""
    if isinstance(value, list):
        try:
            return bytes(value).decode("utf-8", "backslashreplace")
        except (TypeError, ValueError):
            return None
    return value if isinstance(value, str) else None


def _value(text: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
