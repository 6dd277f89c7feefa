"""Which doors take calls, and that they close; how calls get through is seen in `test_grpc_gateway`."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from rekeyd.calls import Calls, Told
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.ledger import Ledger
from rekeyd.listeners.alpn import Chooser
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.system.sockets import Sockets
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.handshakes import HandshakeLog
from support.generations import Site


def nothing(*_: Any, **__: Any) -> None:
    """Nobody listens."""


def calls_of(folder: Path, *, grpc: str | None, **service: Any) -> Calls:
    site = Site(folder)
    site.configure(service=service, upstream={"grpc": grpc})
    current = Current()
    serving = serving_of(site.disk.load().generation(1))
    current.publish(serving)
    return Calls(
        serving.generation.settings,
        current=current,
        ledger=Ledger(),
        gatekeeper=Gatekeeper(),
        told=Told(nothing, DecisionLog(nothing), HandshakeLog(nothing), nothing),
        sockets=Sockets(),
    )


@pytest.mark.parametrize(
    ("grpc", "service"), [(None, {"grpc_port": 0}), ("127.0.0.1:1", {}), (None, {"single_port": True})]
)
async def test_without_an_upstream_and_a_port_nothing_listens(
    tmp_path: Path, grpc: str | None, service: dict[str, Any]
) -> None:
    calls = calls_of(tmp_path, grpc=grpc, **service)
    calls.open()
    http = asyncio.Protocol
    assert (calls.door, calls.health, calls.upstream) == (None, None, None)
    assert calls.beside(lambda _: http(), nothing)(None).__class__ is http  # type: ignore[arg-type]
    calls.close()
    await calls.closed()
    assert await calls.drain(1) == 0


async def test_a_port_of_its_own_is_open_until_it_is_closed(tmp_path: Path) -> None:
    calls = calls_of(tmp_path, grpc="127.0.0.1:1", grpc_port=0)
    calls.open()
    assert calls.door is not None
    assert (calls.door.name, calls.door.tls, calls.upstream) == ("grpc", True, "http://127.0.0.1:1")
    host, port = calls.door.address
    _, writer = await asyncio.open_connection(host, port)
    writer.close()
    await writer.wait_closed()
    calls.close()
    await calls.closed()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(host, port)
    calls.end()


async def test_one_port_for_both_is_the_door_of_http(tmp_path: Path) -> None:
    calls = calls_of(tmp_path, grpc="127.0.0.1:1", single_port=True)
    calls.open()
    assert calls.door is None
    assert calls.health is not None
    assert isinstance(calls.beside(lambda _: asyncio.Protocol(), nothing)(None), Chooser)  # type: ignore[arg-type]
