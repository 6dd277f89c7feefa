import asyncio
import contextlib
import gc
import json
import logging
import os
import ssl
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from aiohttp import ClientSession, web
from hpack import Decoder, Encoder

from rekeyd.system.tls_session import Session
from rekeyd.telemetry.destinations import RotatedFile
from rekeyd.telemetry.logs import Logs, _FromLibraries, configure
from rekeyd.telemetry.sink import Sink
from support.pki import Authority
from support.waiting import eventually

HEAD = ["timestamp", "level", "event", "generation"]


class Recorded:
    """Logs that end in a file."""

    def __init__(self, path: Path, **settings: Any) -> None:
        self._path = path
        self.generation: int | None = None
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self.sink = Sink(descriptor)
        os.close(descriptor)
        self.logs: Logs = configure(
            **{"format": "json", "level": "info"} | settings,
            generation=lambda: self.generation,
            sink=self.sink,
        )

    def text(self) -> str:
        self.logs.close()
        return self._path.read_text()

    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text().splitlines()]


@pytest.fixture
def record(tmp_path: Path) -> Iterator[Callable[..., Recorded]]:
    made: list[Recorded] = []

    def make(**settings: Any) -> Recorded:
        made.append(Recorded(tmp_path / "log", **settings))
        return made[-1]

    yield make
    for each in made:
        each.logs.close()
    structlog.reset_defaults()


log = structlog.get_logger()


def test_every_line_begins_with_time_level_event_and_generation(record: Callable[..., Recorded]) -> None:
    recorded = record()
    log.info("daemon.started", version="0.1.0")
    recorded.generation = 3
    log.warning("cert.expiring", days=7)
    logging.getLogger("aiohttp.server").error("said")
    recorded.logs.emit("info", "auth.allowed", {"status": 200}, dispensable=True)
    events = recorded.events()
    assert [list(event)[:4] for event in events] == [HEAD] * 4
    assert [event["generation"] for event in events] == [None, 3, 3, 3]
    assert [event["level"] for event in events] == ["info", "warning", "error", "info"]


def test_an_event_that_brings_its_generation_keeps_it(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.generation = 3
    log.info("reload.applied", generation=4, trigger="watch")
    assert list(recorded.events()[0].items())[3:] == [("generation", 4), ("trigger", "watch")]


def test_the_level_holds_for_loggers_that_were_made_before_it_changed(
    record: Callable[..., Recorded],
) -> None:
    recorded = record(level="warning")
    bound = log.bind(part="keys")
    bound.info("unheard")
    recorded.logs.level = "debug"
    bound.debug("heard")
    logging.getLogger("aiohttp").debug("heard too")
    assert recorded.logs.level == "debug"
    assert [event["event"] for event in recorded.events()] == ["heard", "library.message"]


def test_a_library_that_tells_what_it_reads_is_never_heard(record: Callable[..., Recorded]) -> None:
    recorded = record(level="debug")
    Decoder().decode(Encoder().encode([(b"api-key", b"a-made-up-secret")]))
    assert recorded.events() == []


def test_an_exception_becomes_a_field_and_no_traceback(record: Callable[..., Recorded]) -> None:
    recorded = record()
    try:
        Path("/no/such/file").read_bytes()
    except OSError:
        log.exception("upstream.failed")
        logging.getLogger("aiohttp.server").exception("Error handling request")
    ours, theirs = recorded.events()
    assert (ours["level"], ours["exception"]["type"]) == ("error", "FileNotFoundError")
    assert (theirs["logger"], theirs["message"]) == ("aiohttp.server", "Error handling request")
    assert theirs["exception"]["type"] == "FileNotFoundError"


def test_a_library_message_that_can_not_be_formatted_is_told_as_such(record: Callable[..., Recorded]) -> None:
    recorded = record()
    (ours,) = (each for each in logging.getLogger().handlers if isinstance(each, _FromLibraries))
    ours.handle(logging.LogRecord("careless", logging.WARNING, "", 0, "%d", ("not a number",), None))
    (event,) = recorded.events()
    assert (event["logger"], event["exception"]["type"]) == ("careless", "TypeError")


def test_warnings_and_lost_exceptions_become_lines(record: Callable[..., Recorded]) -> None:
    class Noisy:
        def __del__(self) -> None:
            raise RuntimeError("in __del__")

    def fail() -> None:
        raise RuntimeError("in a thread")

    recorded = record()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)  # catch_warnings put Python's own way back
        warnings.warn("old ways", DeprecationWarning, stacklevel=1)
    Noisy()
    gc.collect()
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    events = recorded.events()
    told = [event.get("exception", event)["message"] for event in events]
    assert "old ways" in told[0]
    assert told[1:] == ["in __del__", "in a thread"]


def test_a_server_name_that_is_no_text_is_the_clients_trouble_alone(
    record: Callable[..., Recorded], tmp_path: Path
) -> None:
    recorded = record(level="debug")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*Authority().issue().write(tmp_path))
    asked: list[str | None] = []
    context.sni_callback = lambda _, name, __: asked.append(name)
    client = Session(ssl.create_default_context(), server_side=False, server_hostname="service.example")
    client.start()
    hello = client.outgoing.read()
    for said in (hello.replace(b"service", b"serv\xefce"), hello):
        with contextlib.suppress(ssl.SSLError):
            Session(context, server_side=True).receive(said)
    assert asked == ["service.example"]
    assert recorded.text() == ""


def test_the_process_gets_its_own_ways_back(record: Callable[..., Recorded]) -> None:
    before = sys.excepthook, threading.excepthook, sys.unraisablehook, logging.getLogger().handlers[:]
    recorded = record()
    assert sys.excepthook is not before[0]
    recorded.logs.close()
    assert (sys.excepthook, threading.excepthook, sys.unraisablehook, logging.getLogger().handlers) == before


async def test_asyncio_tells_of_a_failed_callback_without_its_arguments(
    record: Callable[..., Recorded],
) -> None:
    def callback(_data: bytes) -> None:
        raise RuntimeError("broken")

    recorded = record()
    asyncio.get_running_loop().call_soon(callback, b"api-key: s3cret-s3cret")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    text = recorded.text()
    assert "s3cret" not in text
    assert "Exception in callback" in text
    assert "broken" in text


async def test_a_key_in_a_malformed_header_is_not_told_by_aiohttp(record: Callable[..., Recorded]) -> None:
    async def hello(_request: web.Request) -> web.Response:
        return web.Response()

    recorded = record()
    application = web.Application()
    application.router.add_get("/", hello)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    reader, writer = await asyncio.open_connection(host, port)
    writer.write(b"GET / HTTP/1.1\r\nHost: x\r\napi-key : s3cret-s3cret\r\n\r\n")
    assert b" 400 " in await reader.readline()
    writer.close()
    async with ClientSession() as session, session.get(f"http://{host}:{port}/") as response:
        assert response.status == 200
    await runner.cleanup()
    text = recorded.text()
    assert "aiohttp.server" in text
    assert "s3cret" not in text


def test_what_could_not_be_written_is_told_with_its_kind(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.sink.capacity = 0
    recorded.logs.emit("info", "auth.allowed", {}, dispensable=True)
    recorded.logs.emit("warning", "auth.denied", {})
    recorded.sink.capacity = 1 << 20
    log.info("daemon.stopping")
    stopping, dropped = recorded.events()
    assert stopping["event"] == "daemon.stopping"
    assert (dropped["event"], dropped["allowed"], dropped["others"]) == ("log.dropped", 1, 1)
    assert dropped["log"] == "main"
    assert recorded.logs.lost() == {"main": 2}


def audited(path: Path, **settings: Any) -> tuple[Logs, Sink, Callable[[], list[dict[str, Any]]]]:
    """Logs whose log is thrown away, and the audit in `path`."""
    audit = Sink(RotatedFile(path), keeps=True)
    descriptor = os.open(path.with_name("log"), os.O_WRONLY | os.O_CREAT)
    logs = configure(
        **{"format": "json", "level": "info"} | settings,
        generation=lambda: 3,
        sink=Sink(descriptor),
        audit=audit,
    )
    os.close(descriptor)

    def events() -> list[dict[str, Any]]:
        logs.close()
        return [json.loads(line) for line in path.read_text().splitlines()]

    return logs, audit, events


@pytest.mark.parametrize("settings", [{}, {"level": "error"}, {"format": "console"}])
def test_the_audit_has_what_is_audited_as_json_whatever_the_log_leaves_out(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    logs, _, events = audited(tmp_path / "audit.log", **settings)
    logs.emit("info", "auth.allowed", {"status": 200}, dispensable=True, logged=False, audited=True)
    logs.emit("warning", "auth.denied", {"status": 401}, audited=True)
    logs.emit("warning", "cert.expiring", {})
    assert [list(event)[:4] for event in events()] == [HEAD] * 2
    assert [event["event"] for event in events()] == ["auth.allowed", "auth.denied"]
    log = (tmp_path / "log").read_text()
    assert "auth.allowed" not in log
    assert ("auth.denied" in log) == (settings.get("level") != "error")


def test_log_and_audit_have_the_very_same_line(tmp_path: Path) -> None:
    logs, _, events = audited(tmp_path / "audit.log")
    logs.emit("warning", "auth.denied", {"path": "/x\u2028"}, audited=True)
    events()
    assert (tmp_path / "audit.log").read_bytes() == (tmp_path / "log").read_bytes()


def test_nothing_in_the_audit_is_dispensable(tmp_path: Path) -> None:
    logs, audit, events = audited(tmp_path / "audit.log")
    audit.capacity = 200
    for _ in range(2):
        logs.emit("info", "auth.allowed", {}, dispensable=True, audited=True)
    assert [event["event"] for event in events()] == ["auth.allowed"] * 2


def test_what_the_audit_lost_is_told_there_and_in_the_log_and_counted(tmp_path: Path) -> None:
    logs, audit, events = audited(tmp_path / "audit.log")
    audit.capacity = 0
    logs.emit("info", "auth.allowed", {}, audited=True)
    audit.capacity = 1 << 20
    logs.emit("info", "auth.allowed", {}, audited=True)
    assert [event["event"] for event in events()] == ["auth.allowed", "log.dropped"]
    told = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    (dropped,) = [event for event in told if event["event"] == "log.dropped"]
    assert (dropped["log"], dropped["others"], dropped["level"]) == ("audit", 1, "error")
    assert logs.lost() == {"main": 0, "audit": 1}


def test_console_lines_can_not_be_forged_either(record: Callable[..., Recorded]) -> None:
    recorded = record(format="console")
    log.warning("auth.denied", path="/x\n12:00:00  auth.allowed\x1b[2K\u2028", status=401)
    assert recorded.text().splitlines(keepends=True) == [recorded.text()]
    assert "\x1b" not in recorded.text()


async def test_whoever_listens_hears_the_very_event_that_is_written(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.generation = 7
    async with recorded.logs.hub.subscribe() as subscription:
        log.info("reload.applied", parts={"keys": {"added": ["b"]}})
        recorded.logs.emit("warning", "auth.denied", {"path": "/x\n", "generation": 6})
        heard = [json.loads((await anext(subscription)).line) for _ in range(2)]
    assert recorded.events() == heard


async def test_whoever_listens_hears_what_the_level_leaves_out_but_no_chatter(
    record: Callable[..., Recorded],
) -> None:
    recorded = record(level="error")
    async with recorded.logs.hub.subscribe() as subscription:
        log.debug("reload.unchanged")
        log.info("reload.applied")
        recorded.logs.emit("info", "auth.allowed", {}, dispensable=True)
        recorded.logs.emit("info", "auth.allowed", {"status": 204}, logged=False)
        recorded.logs.library("warning", "aiohttp.server", "anything")
        subscription.close()
        heard = [json.loads(each.line) async for each in subscription]
    assert [event["event"] for event in heard] == ["reload.applied", "auth.allowed", "auth.allowed"]
    assert recorded.events() == []


def test_what_is_for_listeners_alone_is_not_written(record: Callable[..., Recorded]) -> None:
    recorded = record()
    recorded.logs.emit("info", "auth.allowed", {}, logged=False)
    assert recorded.events() == []


async def test_in_the_human_form_of_the_log_listeners_hear_json_all_the_same(
    record: Callable[..., Recorded],
) -> None:
    recorded = record(format="console")
    async with recorded.logs.hub.subscribe() as subscription:
        log.info("daemon.stopping", reason="SIGTERM")
        assert json.loads((await anext(subscription)).line)["reason"] == "SIGTERM"
    assert not recorded.text().startswith("{")


@pytest.mark.parametrize(("terminal", "human"), [(True, True), (False, False)])
def test_auto_is_for_humans_on_a_terminal_and_for_machines_elsewhere(terminal: bool, human: bool) -> None:
    script = """
import structlog
from rekeyd.telemetry import logs, sink
told = logs.configure(format="auto", level="info", generation=lambda: None, sink=sink.Sink(1))
structlog.get_logger().info("daemon.started")
told.close()
"""
    if terminal:
        reading, writing = os.openpty()
    else:
        reading, writing = os.pipe()
    subprocess.run([sys.executable, "-c", script], stdout=writing, check=True, timeout=20)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        line = stream.readline()
    assert line.startswith(b"{") is not human


async def test_logging_does_not_hold_the_event_loop_up_while_nobody_reads(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    sink = Sink(writing, capacity=1 << 16)
    logs = configure(format="json", level="info", generation=lambda: 1, sink=sink)
    longest = 0.0
    for _ in range(3000):
        before = time.perf_counter()
        log.info("reload.unchanged", trigger="watch")
        longest = max(longest, time.perf_counter() - before)
    assert longest < 0.25
    os.close(reading)
    os.close(writing)
    await eventually(lambda: sink.buffered == 0)
    logs.close()
    structlog.reset_defaults()
