"""A handshake with a listener over TCP: only an answer counts."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from rekeyd.reload.probe import UnprovenError, enter, fingerprint_shown, reason_against
from support.pki import Authority, Leaf
from support.waiting import eventually

Logs = list[Any]
HOST = "127.0.0.1"


@pytest.fixture
def logs() -> Iterator[Logs]:
    structlog.reset_defaults()
    with capture_logs() as lines:
        yield lines


@pytest.fixture
def leaf() -> Leaf:
    return Authority().issue()


def context_of(leaf: Leaf, folder: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*leaf.write(folder))
    return context


@contextlib.asynccontextmanager
async def listening(
    context: ssl.SSLContext | None, *, hangs_up: bool = False
) -> AsyncIterator[tuple[int, list[tuple[str, int]]]]:
    """A listener that shakes hands (not at all without a context) and says no more, and who came."""
    came: list[tuple[str, int]] = []
    open_: set[asyncio.Task[None]] = set()

    async def wait(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_.add(task)
        came.append(writer.get_extra_info("peername"))
        with contextlib.suppress(OSError):
            if not hangs_up:
                await reader.read()
            writer.close()
            await writer.wait_closed()
        open_.discard(task)

    server = await asyncio.start_server(wait, HOST, 0, ssl=context)
    async with server:
        yield int(server.sockets[0].getsockname()[1]), came
    while open_:
        await asyncio.wait(open_)


async def test_the_certificate_that_is_shown_is_told(leaf: Leaf, tmp_path: Path) -> None:
    async with listening(context_of(leaf, tmp_path)) as (port, _):
        assert await fingerprint_shown(HOST, port) == leaf.fingerprint


async def test_another_certificate_than_the_expected_is_a_reason(
    leaf: Leaf, tmp_path: Path, logs: Logs
) -> None:
    other = Authority().issue()
    async with listening(context_of(other, tmp_path)) as (port, _):
        reason = await reason_against([leaf.fingerprint], HOST, port)
        assert await reason_against([leaf.fingerprint, other.fingerprint], HOST, port) is None

    assert reason == f"it showed the certificate {other.fingerprint}"
    assert logs == []


async def test_the_server_name_is_asked_for(leaf: Leaf, tmp_path: Path) -> None:
    asked: list[str | None] = []
    context = context_of(leaf, tmp_path)
    context.sni_callback = lambda _connection, name, _context: asked.append(name)

    async with listening(context) as (port, _):
        for name in ("db.example.org", None):
            await fingerprint_shown(HOST, port, name)

    assert asked == ["db.example.org", None]


async def test_a_listener_that_requires_a_client_certificate_still_shows_its_own(
    leaf: Leaf, tmp_path: Path
) -> None:
    context = context_of(leaf, tmp_path)
    context.load_verify_locations(cadata=Authority().pem.decode())
    context.verify_mode = ssl.CERT_REQUIRED

    async with listening(context) as (port, _):
        assert await fingerprint_shown(HOST, port) == leaf.fingerprint


async def test_a_wildcard_is_asked_on_loopback(leaf: Leaf, tmp_path: Path) -> None:
    async with listening(context_of(leaf, tmp_path)) as (port, _):
        assert await fingerprint_shown("0.0.0.0", port) == leaf.fingerprint  # noqa: S104 - asked, not bound


async def test_a_handshake_that_is_refused_is_a_reason(tmp_path: Path, logs: Logs) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)  # without a certificate there is no common cipher

    async with listening(context) as (port, _):
        reason = await reason_against(["any"], HOST, port)

    assert reason is not None
    assert "handshake broke off" in reason


async def test_a_connection_that_is_closed_at_once_is_a_reason(logs: Logs) -> None:
    async with listening(None, hangs_up=True) as (port, _):
        reason = await reason_against(["any"], HOST, port)

    assert reason is not None
    assert "broke off" in reason


async def test_a_slow_listener_proves_nothing_and_that_is_logged(logs: Logs) -> None:
    async with listening(None) as (port, _):
        with pytest.raises(UnprovenError, match=r"within 0\.1 seconds"):
            await fingerprint_shown(HOST, port, timeout=0.1)
        assert await reason_against(["any"], HOST, port, timeout=0.1) is None

    assert [(line["event"], line["log_level"]) for line in logs] == [("probe.unproven", "warning")]


async def test_a_listener_that_is_gone_proves_nothing(logs: Logs) -> None:
    with socket.create_server((HOST, 0)) as gone:
        port = gone.getsockname()[1]

    assert await reason_against(["any"], HOST, port) is None
    assert logs[0]["reason"] == "nobody listens"


async def test_a_listener_that_can_not_be_reached_from_here_proves_nothing(logs: Logs) -> None:
    assert await reason_against(["any"], "192.0.2.1", 1) is None  # an address that this machine hasn't
    assert logs[0]["reason"].startswith("it can't be reached from here")


async def unannounced(_: tuple[str, int]) -> None:
    """Who listens need not know."""


async def test_a_listener_in_plaintext_is_left_once_it_let_us_in(leaf: Leaf) -> None:
    let_in = asyncio.Event()
    async with listening(None) as (port, came):
        entering = asyncio.create_task(enter(HOST, port, let_in, timeout=10, announce=unannounced))
        await eventually(lambda: came)
        assert not entering.done()
        let_in.set()
        await entering


async def test_a_listener_in_plaintext_that_lets_nobody_in_proves_nothing() -> None:
    with socket.create_server((HOST, 0)) as deaf:
        port = deaf.getsockname()[1]
        with pytest.raises(UnprovenError, match=r"let in within 0\.1 seconds"):
            await enter(HOST, port, asyncio.Event(), timeout=0.1, announce=unannounced)


async def test_who_listens_is_told_beforehand_where_the_probe_comes_from(leaf: Leaf, tmp_path: Path) -> None:
    announced: list[tuple[str, int]] = []

    async def announce(address: tuple[str, int]) -> None:
        announced.append(address)

    async with listening(context_of(leaf, tmp_path)) as (port, came):
        await fingerprint_shown(HOST, port, announce=announce)

    assert announced == came


async def test_a_hundred_probes_leave_no_descriptor_behind(leaf: Leaf, tmp_path: Path) -> None:
    def descriptors() -> int:
        return len(list(Path("/proc/self/fd").iterdir()))

    async with listening(context_of(leaf, tmp_path)) as (port, _):
        await fingerprint_shown(HOST, port)
        before = descriptors()
        for _ in range(100):
            await fingerprint_shown(HOST, port)
        await eventually(lambda: descriptors() <= before, what="the server's ends are closed too")
