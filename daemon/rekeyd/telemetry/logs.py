"""Log lines: what every line carries, and that everything said in this process becomes one.

Owns: the head of a line (`timestamp`, `level`, `event`, `generation`, in this order on every line), the level
filter, and the routes into the sink: structlog, the standard library's logging (aiohttp, asyncio), warnings
and exceptions that nobody caught. Nothing is printed on stderr, and no traceback. Whoever listens at the hub
hears the very events that are written, from one place; and the audit, a file of its own with the decisions
alone, has the very lines, always as JSON.

Must not know: what events mean.
"""

import contextlib
import logging
import os
import re
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import structlog

from rekeyd.errors import SettingsError
from rekeyd.settings import Parsed
from rekeyd.telemetry import console, journal, lines
from rekeyd.telemetry.destinations import Journal, Stream, leads_to_journal
from rekeyd.telemetry.hub import Hub
from rekeyd.telemetry.sink import MIB, Lost, Sink

SEVERITY = {"debug": 10, "info": 20, "warning": 30, "error": 40, "critical": 50}
_HEARD = SEVERITY["info"]
_LAST_WORDS = 5.0  # seconds for the audit to be written at the end
_METHODS = {"exception": "error", "warn": "warning", "fatal": "critical", "msg": "info"}

# "Exception in callback f(b'…')": asyncio quotes arguments, which may be bytes that a client sent.
_ARGUMENTS = re.compile(r"\(.+\)")

_INDISCREET = ("hpack",)
"""Libraries that tell what they read, in which there are keys: never heard, not at level debug either."""


class Logs:
    """Turns events into lines for one sink. `level` may be set at any time.

    `hub` has every event from level info upwards, whatever `level` keeps out of the log. `audit` has what is
    `audited`, whatever `level` says; what is wrong with it is told in the log.
    """

    def __init__(
        self,
        *,
        render: Callable[[Mapping[str, Any]], bytes],
        level: str,
        generation: Callable[[], int | None],
        sink: Sink,
        audit: Sink | None = None,
    ) -> None:
        self._render = render
        self._generation = generation
        self._sink = sink
        self._audit = audit
        self.hub = Hub()
        self._least = SEVERITY[level]
        self._undo = contextlib.ExitStack()
        sink.tell = self._dropped
        if audit is not None:
            audit.tell = self._missing_in_audit
            audit.on_loss = self._audit_lost
            audit.on_change = self._audit_changed

    @property
    def level(self) -> str:
        return next(name for name, severity in SEVERITY.items() if severity == self._least)

    @level.setter
    def level(self, name: str) -> None:
        self._least = SEVERITY[name]
        # Below debug, libraries tell only what is wrong; their chatter costs more than it says.
        logging.getLogger().setLevel(logging.DEBUG if name == "debug" else max(self._least, logging.WARNING))

    def emit(
        self,
        level: str,
        event: str,
        fields: Mapping[str, Any],
        *,
        dispensable: bool = False,
        logged: bool = True,
        audited: bool = False,
    ) -> None:
        """Write one line; an event that brings its own `generation` keeps it.

        `dispensable` lines are the first to go when the reader of the log is stuck; nothing in the audit is
        dispensable. What is not `logged` is for the hub and, if `audited`, the audit alone.
        """
        line = self._line(level, event, fields, logged=logged, audited=audited)
        if line is not None:
            self._sink.write(line, dispensable=dispensable)

    def _line(
        self, level: str, event: str, fields: Mapping[str, Any], *, logged: bool = True, audited: bool = False
    ) -> bytes | None:
        """The line, once hub and audit have the event; None where it is not for the log."""
        severity = SEVERITY[level]
        written = logged and severity >= self._least
        heard = self.hub.wanted and severity >= _HEARD
        audit = self._audit if audited else None
        if not (written or heard or audit):
            return None
        told = self._told(level, event, fields)
        if heard:
            self.hub.publish(told)
        line = self._render(told) if written else None
        if audit is not None:
            in_json = line is not None and self._render is lines.to_json
            audit.write(line if line is not None and in_json else lines.to_json(told))
        return line

    def _told(self, level: str, event: str, fields: Mapping[str, Any]) -> dict[str, Any]:
        return {
            "timestamp": lines.stamp(time.time_ns()),
            "level": level,
            "event": event,
            "generation": None if "generation" in fields else self._generation(),
            **fields,
        }

    def lost(self) -> dict[str, int]:
        """How many lines were lost since the start, by log."""
        sinks = {"main": self._sink, **({"audit": self._audit} if self._audit is not None else {})}
        return {name: sink.lost for name, sink in sinks.items()}

    def _dropped(self, lost: Lost) -> bytes:
        return self._render(self._told("warning", "log.dropped", _loss("main", lost)))

    def _missing_in_audit(self, lost: Lost) -> bytes:
        """Told in the audit itself, where the gap is."""
        return lines.to_json(self._told("warning", "log.dropped", _loss("audit", lost)))

    def _audit_lost(self, lost: Lost) -> None:
        self.emit("error", "log.dropped", _loss("audit", lost))

    def _audit_changed(self, error: OSError | None) -> None:
        if error is None:
            self.emit("info", "audit.written", {})
        else:
            fix = (
                "Make room, or let rekeyd write there again; meanwhile lines are kept, as far as memory goes"
            )
            self.emit("error", "audit.unwritable", {"problem": error.strerror or str(error), "fix": fix})

    def process(self, _logger: object, method: str, event: structlog.types.EventDict) -> bytes:
        """structlog's only processor."""
        level = _METHODS.get(method, method)
        raised = _exception_of(event.pop("exc_info", None))
        if raised is not None:
            event["exception"] = lines.describe(raised)
        line = self._line(level, str(event.pop("event", "")), event)
        if line is None:
            raise structlog.DropEvent
        return line

    def library(self, level: str, logger: str, message: str, raised: BaseException | None = None) -> None:
        """Write what a library said. Never raises: it may be called from anywhere."""
        fields: dict[str, Any] = {"logger": logger, "message": message}
        if raised is not None:
            fields["exception"] = lines.describe(raised)
        self.emit(level, "library.message", fields)

    def listen(self) -> None:
        """Take over what libraries and the interpreter tell, until `close`."""
        handler = _FromLibraries(self)
        root = logging.getLogger()
        for name in _INDISCREET:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        self._undo.callback(root.setLevel, root.level)
        self._undo.callback(root.removeHandler, handler)
        root.addHandler(handler)
        logging.captureWarnings(True)
        self._undo.callback(logging.captureWarnings, False)
        for module, name, hook in _hooks(self):
            self._undo.callback(setattr, module, name, getattr(module, name))
            setattr(module, name, hook)

    def close(self) -> None:
        """Write what is buffered (see `Sink.close`) and give the process its own ways of telling back."""
        self._undo.close()
        if self._audit is not None:
            self._audit.close(_LAST_WORDS)  # first: what it loses now is told in the log
        self._sink.close()


Format = Literal["auto", "json", "console", "journal"]


def open_log(parsed: Parsed, descriptor: int, environ: Mapping[str, str], *, shared: bool = False) -> Sink:
    """Where the settings send the log: the journal, or what `descriptor` is, to be given to `configure`.

    `shared`: other processes write there as well. Raises SettingsError.
    """
    logging = parsed.settings.logging
    capacity = logging.buffer_mb * MIB
    wanted = logging.format == "journal"
    if wanted or (logging.format == "auto" and leads_to_journal(descriptor, environ)):
        try:
            return Sink(Journal(), capacity=capacity, keeps=True)
        except OSError as error:
            if wanted:
                message = f"is journal, which can't be reached ({error.strerror})"
                problem = parsed.problem("logging.format", message, "Write `auto`, or start it under systemd")
                raise SettingsError([problem]) from error
    return Sink(Stream(descriptor, shared=shared), capacity=capacity)


def configure(
    *,
    format: Format,  # noqa: A002 - the setting's own name
    level: str,
    generation: Callable[[], int | None],
    sink: Sink,
    audit: Sink | None = None,
) -> Logs:
    """Make `sink` the end of everything that is logged in this process, until `Logs.close`.

    `audit` is another one for decisions. `generation` is asked at every line, from any thread.
    """
    human = format == "console" or (format == "auto" and sink.isatty())
    render = _to_console(colour=_wants_colour(sink)) if human else lines.to_json
    if sink.is_journal:
        render = journal.entry
    logs = Logs(render=render, level=level, generation=generation, sink=sink, audit=audit)
    structlog.configure(
        processors=[logs.process],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.NOTSET
        ),  # the level may change: `process` filters
        logger_factory=lambda *_: _Output(sink),
        cache_logger_on_first_use=False,
    )
    logs.listen()
    logs.level = level
    return logs


def _loss(log: str, lost: Lost) -> dict[str, Any]:
    return {"log": log, "allowed": lost.dispensable, "others": lost.others}


class _Output:
    """What structlog calls a logger: one method per level, all the same here."""

    def __init__(self, sink: Sink) -> None:
        self.debug = self.info = self.warning = self.error = self.critical = sink.write
        self.exception = self.msg = self.warn = self.fatal = sink.write


class _FromLibraries(logging.Handler):
    """The standard library's logging, in our form."""

    def __init__(self, logs: Logs) -> None:
        super().__init__()
        self._logs = logs

    def emit(self, record: logging.LogRecord) -> None:
        try:
            raised = record.exc_info[1] if record.exc_info else None
            self._logs.library(_level_of(record.levelno), record.name, _message_of(record), raised)
        except Exception as error:  # noqa: BLE001 - a record that can't be formatted must not hinder who logs it
            self._logs.library("error", record.name, "(a message that can't be formatted)", error)


def _level_of(number: int) -> str:
    return next((name for name in reversed(SEVERITY) if number >= SEVERITY[name]), "debug")


def _message_of(record: logging.LogRecord) -> str:
    message = record.getMessage()
    if record.name == "asyncio":
        # Its further lines are reprs of transports, tasks and their arguments.
        return _ARGUMENTS.sub("(…)", message.partition("\n")[0])
    return message


def _exception_of(told: object) -> BaseException | None:
    if isinstance(told, tuple):
        told = told[1]
    if told is True:
        told = sys.exc_info()[1]
    return told if isinstance(told, BaseException) else None


def _to_console(*, colour: bool) -> Callable[[Mapping[str, Any]], bytes]:
    def render(event: Mapping[str, Any]) -> bytes:
        return console.render(event, colour=colour).encode("utf-8", "backslashreplace") + b"\n"

    return render


def _wants_colour(sink: Sink) -> bool:
    return sink.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _hooks(logs: Logs) -> Iterator[tuple[object, str, Callable[..., None]]]:
    """Where the interpreter tells of exceptions that nobody caught."""

    def uncaught(_kind: type[BaseException], raised: BaseException, _traceback: object) -> None:
        logs.library("critical", "python", "an exception that nobody caught", raised)

    def in_thread(args: threading.ExceptHookArgs) -> None:
        if not issubclass(args.exc_type, SystemExit):
            name = args.thread.name if args.thread else "?"
            logs.library(
                "error", "python", f"an exception that nobody caught in thread {name}", args.exc_value
            )

    def unraisable(args: "sys.UnraisableHookArgs") -> None:
        if isinstance(args.exc_value, UnicodeDecodeError) and isinstance(args.object, bytes):
            return  # `ssl` can't make a server name of a client's bytes; the handshake fails, which is told
        logs.library(
            "error", "python", args.err_msg or "an exception that could not be raised", args.exc_value
        )

    yield sys, "excepthook", uncaught
    yield threading, "excepthook", in_thread
    yield sys, "unraisablehook", unraisable
