import asyncio
import logging
import socket
from collections.abc import AsyncIterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from rekeyd.listeners import metrics
from rekeyd.listeners.metrics import MetricsListener
from rekeyd.telemetry.metrics import Metrics


async def exposition(accept: str) -> tuple[bytes, str]:
    registry = Metrics(version="1.2.3", generation=lambda: None, connections=dict)
    return registry.exposition(accept)


@pytest.fixture
async def running() -> AsyncIterator[MetricsListener]:
    listener = MetricsListener(socket.create_server(("127.0.0.1", 0)), exposition, lifetime=1.0)
    await listener.start()
    yield listener
    await listener.stop()


async def exchanged(listener: MetricsListener, request: bytes) -> tuple[bytes, bytes]:
    """The head and the body of what was answered until the end of the connection."""
    reader, writer = await asyncio.open_connection(*listener.address)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    head, _, body = answer.partition(b"\r\n\r\n")
    return head, body


async def test_a_scrape_is_answered_once_a_connection(running: MetricsListener) -> None:
    head, body = await exchanged(running, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert b"Content-Type: text/plain; version=0.0.4; charset=utf-8" in head
    assert b"Connection: close" in head
    names = {family.name for family in text_string_to_metric_families(body.decode())}
    assert {"rekeyd_build_info", "rekeyd_decisions", "process_open_fds"} <= names


async def test_open_metrics_are_told_to_who_asks_for_them(running: MetricsListener) -> None:
    head, body = await exchanged(
        running,
        b"GET /metrics HTTP/1.1\r\nHost: x\r\nAccept: application/openmetrics-text; version=1.0.0\r\n\r\n",
    )
    assert b"Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8" in head
    assert body.endswith(b"# EOF\n")


@pytest.mark.parametrize(
    ("request_line", "status"),
    [
        ("GET / HTTP/1.1", b"404"),
        ("GET /metrics/ HTTP/1.1", b"404"),
        ("GET //metrics HTTP/1.1", b"404"),
        ("GET /status HTTP/1.1", b"404"),
        ("POST /reload HTTP/1.1", b"404"),
        ("POST /metrics HTTP/1.1", b"405"),
        ("HEAD /metrics HTTP/1.1", b"405"),
        ("OPTIONS * HTTP/1.1", b"404"),
    ],
)
async def test_nothing_else_is_served(running: MetricsListener, request_line: str, status: bytes) -> None:
    head, body = await exchanged(running, f"{request_line}\r\nHost: x\r\n\r\n".encode())
    assert head.split()[1] == status
    assert b"aiohttp" not in head
    assert b"rekeyd_" not in body


@pytest.mark.parametrize(
    "garbage",
    [
        b"\x16\x03\x01\x02\x00\x01\x00s3cret\r\n\r\n",
        b"s3cret\r\n\r\n",
        b"GET /metrics HTTP/1.1\r\ns3cret\r\n\r\n",
    ],
)
async def test_what_is_no_http_is_neither_repeated_nor_logged(
    running: MetricsListener, garbage: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    head, body = await exchanged(running, garbage)
    assert head.split()[1] == b"400"
    assert b"s3cret" not in head + body
    assert not caplog.records


async def test_what_can_not_be_told_is_an_error_without_its_reason(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_accept: str) -> tuple[bytes, str]:
        raise RuntimeError("s3cret")

    listener = MetricsListener(socket.create_server(("127.0.0.1", 0)), broken)
    await listener.start()
    head, body = await exchanged(listener, b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
    assert head.split()[1] == b"500"
    assert b"s3cret" not in head + body
    assert [record.levelname for record in caplog.records] == ["ERROR"]
    await listener.stop()


@pytest.mark.parametrize("sent", [b"", b"GET /metrics HTTP/1.1\r\nHost:"])
async def test_a_connection_that_does_not_come_to_the_point_is_ended(
    running: MetricsListener, sent: bytes
) -> None:
    reader, writer = await asyncio.open_connection(*running.address)
    writer.write(sent)
    assert await asyncio.wait_for(reader.read(), 10) == b""
    writer.close()


async def test_many_connections_at_once_are_more_than_there_may_be(
    running: MetricsListener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "CONNECTIONS", 2)
    held = [await asyncio.open_connection(*running.address) for _ in range(2)]
    reader, writer = await asyncio.open_connection(*running.address)
    assert await asyncio.wait_for(reader.read(), 0.9) == b""
    for _, each in [*held, (reader, writer)]:
        each.close()


async def test_stopping_frees_the_port_and_ends_what_is_open(running: MetricsListener) -> None:
    reader, writer = await asyncio.open_connection(*running.address)
    host, port = running.address
    await running.stop()
    assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
