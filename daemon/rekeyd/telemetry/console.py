"""The human form of a log line: time, event, and what a person asks first.

The rules: one event is one line; nothing in it can end the line, steer the terminal or turn the direction of
text, because every character that isn't printable is written as an escape; and a field nobody thought of is
shown as `name=value`, so that nothing is hidden by surprise.

Pure: the time an expiry is counted from is the line's own. Must not know: where lines come from or go.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

Event = Mapping[str, Any]

_COLOURS = {"dim": "2", "bold": "1", "red": "31", "green": "32", "yellow": "33", "cyan": "36"}
_EVENT_WIDTH = 15
_LONGEST = 240
_WHOLE_SERIAL = 8
_MOST_OTHERS = 3
_HEAD = ("timestamp", "level", "event", "generation")
# Known from the event's name, or only for machines.
_UNSHOWN = {"decision", "request_id", "tls", "outcome"}
_IMPLIED = {"auth.denied": "warning", "reload.refused": "error"}
_LEVEL_COLOURS = {"debug": "dim", "warning": "yellow", "error": "red", "critical": "red"}
_EVENT_COLOURS = {
    "auth.allowed": "dim",
    "auth.denied": "yellow",
    "reload.applied": "green",
    "reload.refused": "red",
    "reload.settling": "yellow",
}


def render(event: Event, *, colour: bool = False) -> str:
    """The line, without a newline."""
    name, level = str(event.get("event", "")), str(event.get("level", "info"))
    told = _EVENT_COLOURS.get(name) or _LEVEL_COLOURS.get(level, "cyan")
    pieces = [
        _paint(_time(event), "dim", colour),
        _paint(safe(name).ljust(_EVENT_WIDTH), told, colour),
        *([_paint(safe(level), told, colour)] if _says_more(level, name) else []),
        *(safe(piece) for piece in _pieces(name, event) if piece),
    ]
    return "  ".join(pieces).rstrip()


def message(event: Event) -> str:
    """The line without time and level, for who keeps these beside it."""
    name = str(event.get("event", ""))
    if name == "auth.allowed":  # one for each request
        return safe("  ".join([name, *filter(None, _decision(event))]))
    return "  ".join([safe(name), *(safe(piece) for piece in _pieces(name, event) if piece)])


def read_lines(
    stream: Iterable[bytes],
    *,
    colour: bool = False,
    unpack: Callable[[Mapping[str, Any]], Event | None] = lambda _: None,
) -> Iterator[str]:
    """Lines of JSON in the human form, each without a newline; a new day gets a line of its own.

    Entries of the systemd journal, as `journalctl -o json` writes them, are lines of JSON as well: `unpack`
    makes an event of one that is ours, and None of any other.

    A line that is no event of ours passes through as it is, made safe for the terminal.
    """
    today = ""
    for line in stream:
        event = _parsed(line, unpack)
        if event is None:
            yield safe(line.rstrip(b"\r\n").decode("utf-8", "backslashreplace"), keep="\t")
            continue
        day = str(event["timestamp"])[:10]
        if today and day != today:
            yield _paint(safe(day), "bold", colour)
        today = day
        yield render(event, colour=colour)


def safe(text: str, *, keep: str = "") -> str:
    """`text` with an escape for each character that could do more than be seen."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() or char in keep else _escape(char) for char in text)


def _escape(char: str) -> str:
    return char.encode("unicode_escape").decode()


def _parsed(line: bytes, unpack: Callable[[Mapping[str, Any]], Event | None]) -> Event | None:
    try:
        event = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(event, dict):
        return None
    ours = isinstance(event.get("event"), str) and isinstance(event.get("timestamp"), str)
    return event if ours else unpack(event)


def _paint(text: str, style: str, colour: bool) -> str:
    return f"\x1b[{_COLOURS[style]}m{text}\x1b[0m" if colour else text


def _time(event: Event) -> str:
    return safe(str(event.get("timestamp", ""))[11:19]).ljust(8)


def _says_more(level: str, name: str) -> bool:
    return level != "info" and _IMPLIED.get(name) != level


def _pieces(name: str, event: Event) -> Iterator[str]:
    family = name.partition(".")[0]
    if family == "auth":
        shown, pieces = _AUTH, _decision(event)
    elif family == "reload":
        shown, pieces = _RELOAD, _reload(event)
    elif family == "cert":
        shown, pieces = _CERT, _certificate(event)
    elif name == "setup.doubtful":
        shown, pieces = _DOUBT, _doubt(event)
    elif name == "daemon.started":
        shown, pieces = _STARTED, _started(event)
    else:
        shown, pieces = {"message", "exception"}, _generic(event)
    yield from pieces
    for key, value in event.items():
        if key not in shown and key not in _HEAD and key not in _UNSHOWN and value not in (None, [], {}, ""):
            yield f"{key}={_brief(value)}"


_WHO = {"key_id", "subject", "token_id"}
_AUTH = {
    "status",
    "grpc_status",
    "method",
    "path",
    "reason",
    "right_needed",
    "client",
    "duration",
    "count",
} | _WHO


def _decision(event: Event) -> Iterator[str]:
    asked = ("status", "method", "path")
    if event.get("grpc_status") is not None:
        yield f"grpc {_brief(event['grpc_status'])} {_brief(event.get('path', ''))}"
    else:
        yield " ".join(_brief(event[key]) for key in asked if event.get(key) is not None)
    yield _who(event)
    denied = event.get("event") == "auth.denied"
    if event.get("reason") and (denied or not event.get("key_id")):
        needs = f" (needs {_brief(event['right_needed'])})" if denied and event.get("right_needed") else ""
        yield _brief(event["reason"]).replace("_", " ") + needs
    if event.get("count"):
        yield f"{_brief(event['count'])} times"
    if event.get("client"):
        yield _brief(event["client"])
    if event.get("duration") is not None:
        yield _duration(event["duration"])


def _who(event: Event) -> str:
    """The key; behind it, of a token that it vouches for, the subject or else the token's own id."""
    key, token = event.get("key_id"), event.get("subject") or event.get("token_id")
    return " ".join([*([_brief(key)] if key else []), *([f"({_brief(token)})"] if token else [])])


_RELOAD = {"trigger", "parts", "findings", "duration"}


def _reload(event: Event) -> Iterator[str]:
    yield _generation(event)
    if event.get("trigger"):
        yield _brief(event["trigger"])
    parts = event.get("parts")
    for part, detail in parts.items() if isinstance(parts, Mapping) else ():
        yield from _change(_brief(part), detail, event)
    for finding in _listed(event.get("findings")):
        yield _finding(finding)
    if event.get("duration") is not None:
        yield _duration(event["duration"])


def _change(part: str, detail: object, event: Event) -> Iterator[str]:
    """A part, then the others of its kind that come under `more`, the first few by name."""
    if not isinstance(detail, Mapping):
        yield f"{part} {_brief(detail)}" if detail else part
        return
    yield from _changed(part, {key: value for key, value in detail.items() if key != "more"}, event)
    others = [other for other in _listed(detail.get("more")) if isinstance(other, Mapping)]
    for other in others[:_MOST_OTHERS]:
        yield from _changed(_brief(other.get("name", "")), other, event)
    if len(others) > _MOST_OTHERS:
        yield f"and {len(others) - _MOST_OTHERS} more"


def _changed(what: str, detail: Event, event: Event) -> Iterator[str]:
    old, new = detail.get("old"), detail.get("new")
    if isinstance(new, Mapping) and "serial" in new:
        before = f"{_shortened(old['serial'])} → " if isinstance(old, Mapping) and old.get("serial") else ""
        yield f"{what} serial {before}{_shortened(new['serial'])}"
        yield _expiry(new.get("not_after"), event)
    elif "old" in detail or "new" in detail:
        yield f"{what} {_brief(_serial(old) or 'none')} → {_brief(_serial(new) or 'none')}"
    elif detail:
        yield f"{what} " + " ".join(f"{word} {_brief(value)}" for word, value in detail.items())


def _serial(value: object) -> object:
    return _shortened(value["serial"]) if isinstance(value, Mapping) and "serial" in value else value


def _finding(finding: object) -> str:
    if not isinstance(finding, Mapping):
        return _brief(finding)
    what = ". ".join(_brief(finding[key]) for key in ("message", "fix") if finding.get(key))
    return f"{_brief(finding['part'])}: {what}" if finding.get("part") else what


_CERT = {"names", "serial", "not_after", "days_left"}


def _certificate(event: Event) -> Iterator[str]:
    yield _generation(event)
    yield _brief(event.get("names") or "")
    if event.get("serial"):
        yield f"serial {_shortened(event['serial'])}"
    yield _expiry(event.get("not_after"), event)


_DOUBT = {"rule", "part", "message", "fix"}


def _doubt(event: Event) -> Iterator[str]:
    yield _generation(event)
    yield _finding({key: event[key] for key in ("message", "fix") if event.get(key)})


_STARTED = {"version", "listeners", "upstream", "pid", "admin"}


def _started(event: Event) -> Iterator[str]:
    yield _generation(event)
    if event.get("version"):
        yield f"rekeyd {_brief(event['version'])}"
    for each in _listed(event.get("listeners")):
        if isinstance(each, Mapping):
            secure = " with TLS" if each.get("tls") else ""
            name, host, port = (_brief(each.get(key, "?")) for key in ("name", "host", "port"))
            yield f"{name} on {host}:{port}{secure}"
    for key in ("upstream", "admin", "pid"):
        if event.get(key):
            yield f"{key} {_brief(event[key])}"


def _generic(event: Event) -> Iterator[str]:
    yield _generation(event)
    if event.get("message"):
        yield _brief(event["message"])
    raised = event.get("exception")
    if isinstance(raised, Mapping):
        frames = _listed(raised.get("frames"))
        where = f" ({_brief(frames[-1])})" if frames else ""
        yield f"{_brief(raised.get('type', ''))}: {_brief(raised.get('message', ''))}{where}"
    elif raised:
        yield _brief(raised)


def _generation(event: Event) -> str:
    number = event.get("generation")
    return "" if number is None else f"#{_brief(number)}"


def _listed(value: object) -> list[Any]:
    return value if isinstance(value, list) else list(value) if isinstance(value, tuple) else []


def _shortened(serial: object) -> str:
    text = _brief(serial)
    return text if len(text) <= _WHOLE_SERIAL else f"{text[:4]}…"


def _expiry(not_after: object, event: Event) -> str:
    """Counted from the line's own time; empty where either isn't a time."""
    try:
        left = _instant(not_after) - _instant(event.get("timestamp"))
    except (TypeError, ValueError, OverflowError):
        return ""
    seconds = left.total_seconds()
    if seconds < 0:
        return "expired"
    for unit, length in (("d", 86_400), ("h", 3_600)):
        if seconds >= 2 * length:
            return f"expires in {seconds / length:.0f}{unit}"
    return f"expires in {seconds / 60:.0f}min"


def _instant(value: object) -> datetime:
    instant = datetime.fromisoformat(str(value))
    return instant if instant.tzinfo else instant.replace(tzinfo=UTC)


def _duration(value: object) -> str:
    if not isinstance(value, int | float):
        return _brief(value)
    return f"{value:.1f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def _brief(value: object) -> str:
    """Any value as a short piece of text."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, Mapping):
        text = " ".join(f"{key}={_brief(each)}" for key, each in value.items())
    elif isinstance(value, list | tuple):
        text = ", ".join(map(_brief, value))
    else:
        text = str(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
