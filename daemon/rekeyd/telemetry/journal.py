"""One event as an entry of the systemd journal, and such an entry as an event again.

The rules: what a person reads is `MESSAGE`, without the time, which the journal has. Every field of the event
is a field of the entry, so that it can be asked for (`journalctl EVENT=auth.denied REKEYD_KEY_ID=reader`):
`EVENT` and `GENERATION` by these names, all others as `REKEYD_…`. What is no text is JSON. A value with a
line break in it is told with its length, so that nothing in it can pass for a field of its own (the journal's
native protocol, systemd.io/JOURNAL_NATIVE_PROTOCOL). What people act on has a `MESSAGE_ID`.

Pure. Must not know: where the journal is.
"""

import re
from collections.abc import Iterator, Mapping
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
_NAMED = {"event": "EVENT", "generation": "GENERATION"}


def entry(event: Mapping[str, Any]) -> bytes:
    """The entry, as the journal takes it. Never raises."""
    return b"".join(_field(name, value) for name, value in _fields(event))


def event_of(told: Mapping[str, Any]) -> dict[str, Any] | None:
    """The event of an entry in the form of `journalctl -o json`; None where it is none of ours."""
    fields = {name: _text(value) for name, value in told.items()}
    name, stamp = fields.get("EVENT"), fields.get(f"{_OURS}TIMESTAMP")
    if name is None or stamp is None:
        return None
    head: dict[str, Any] = {"timestamp": stamp, "level": fields.get(f"{_OURS}LEVEL") or "info", "event": name}
    number = fields.get("GENERATION")
    head["generation"] = _value(number) if number else None
    rest = {
        key.removeprefix(_OURS).lower(): _value(value)
        for key, value in fields.items()
        if key.startswith(_OURS) and value is not None
    }
    return {**head, **{key: value for key, value in rest.items() if key not in head}}


def _fields(event: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    level, name = str(event.get("level", "info")), str(event.get("event", ""))
    yield "MESSAGE", console.message(event)
    yield "PRIORITY", str(PRIORITIES.get(level, PRIORITIES["info"]))
    yield "SYSLOG_IDENTIFIER", "rekeyd"
    if name in MESSAGE_IDS:
        yield "MESSAGE_ID", MESSAGE_IDS[name]
    for key, value in event.items():
        if value is not None:
            yield _NAMED.get(key) or _name(key), _told(value)


def _name(key: str) -> str:
    return (_OURS + _UNFIT.sub("_", str(key).upper()))[:_LONGEST_NAME]


def _told(value: object) -> str:
    if isinstance(value, str):
        return value
    return lines.to_json({"": value})[4:-2].decode("utf-8", "backslashreplace")


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
    """Numbers, lists and mappings as they were; what looks like one and was text is shown the same."""
    if text[:1] not in "-0123456789[{":
        return {"true": True, "false": False}.get(text, text)
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
