"""The real gRPC gateway behind a real door, in the test's event loop, and clients that send frames by hand.

    async with grpc_stage(tmp_path, upstream.address) as scene:
        client = await scene.client()
        client.send(head(1, with_key()), data(1, ends=True))
        await client.until(lambda: client.answers.get(1) == 0)

`Recorder` is an upstream that notes every frame that gets there, and answers each call.
"""

import asyncio
import contextlib
import json
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any, cast

from hpack import Decoder
from structlog.testing import capture_logs

from rekeyd.gatekeeper import Gatekeeper
from rekeyd.http2 import frames
from rekeyd.http2.fields import Field
from rekeyd.http2.frames import ACK, END_STREAM, Frame, FrameReader
from rekeyd.ledger import Ledger
from rekeyd.listeners.door import Door, Limits
from rekeyd.listeners.grpc.gateway import GrpcGateway, GrpcRecords
from rekeyd.reload.contexts import serving_of
from rekeyd.reload.current import Current
from rekeyd.reload.disk import Disk
from rekeyd.system.sockets import bind
from rekeyd.telemetry.broken import BrokenLog
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.upstream.grpc import GrpcDialer
from support.generations import API_KEY
from support.http2 import ANSWER, GREETING, TRAILERS, head, settings, with_fields
from support.pki import Authority, replace_file
from support.waiting import eventually

READ_KEY = "a-made-up-key-that-may-only-read"
Event = dict[str, Any]


def with_key(*more: Field, key: str = API_KEY) -> tuple[Field, ...]:
    return with_fields((b"api-key", key.encode()), *more)


class H2Connection(asyncio.Protocol):
    """One end of a connection that sends frames by hand, and reads all that comes."""

    def __init__(self) -> None:
        self.seen: list[Frame] = []
        self.answers: dict[int, int] = {}
        """The gRPC status of each stream that has one."""
        self.heads: dict[int, list[dict[bytes, bytes]]] = {}
        self.closed = False
        self.error: Exception | None = None
        self._frames = FrameReader(2**24 - 1)
        self._decoder = Decoder()
        self.transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's is none by its class

    def data_received(self, given: bytes) -> None:
        for frame in self._frames.feed(given):
            self.seen.append(frame)
            if frame.kind == frames.HEADERS:
                fields = {bytes(n): bytes(v) for n, v in self._decoder.decode(frame.payload, raw=True)}
                self.heads.setdefault(frame.stream, []).append(fields)
                if b"grpc-status" in fields:
                    self.answers[frame.stream] = int(fields[b"grpc-status"])
            self.came(frame)

    def came(self, frame: Frame) -> None:
        """For those that answer by themselves."""

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed, self.error = True, exc

    def send(self, *sent: bytes) -> None:
        self.transport.write(b"".join(sent))

    def of_kind(self, kind: int) -> list[Frame]:
        return [frame for frame in self.seen if frame.kind == kind]

    @property
    def goaway_codes(self) -> list[int]:
        return [int.from_bytes(frame.payload[4:8], "big") for frame in self.of_kind(frames.GOAWAY)]

    async def until(self, holds: Callable[[], object]) -> None:
        await eventually(holds, what=f"{self.answers} {self.seen[-5:]}")

    async def end(self) -> None:
        await eventually(lambda: self.closed, what=f"the end; {self.seen[-5:]}")


class _Recording(H2Connection):
    def __init__(self, recorder: "Recorder") -> None:
        super().__init__()
        self._recorder = recorder
        self._greeted = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._recorder.connections.append(self)
        if self._recorder.greets:
            self.send(settings(self._recorder.settings))

    def data_received(self, given: bytes) -> None:
        if len(self._greeted) < len(frames.PREFACE):
            missing = len(frames.PREFACE) - len(self._greeted)
            self._greeted += given[:missing]
            given = given[missing:]
        super().data_received(given)

    def came(self, frame: Frame) -> None:
        if not self._recorder.greets:
            return
        if frame.kind == frames.SETTINGS and not frame.flags & ACK:
            self.send(settings(ack=True))
        elif frame.kind == frames.PING and not frame.flags & ACK:
            self.send(frames.frame(frames.PING, ACK, 0, frame.payload))
        elif (
            frame.kind in {frames.DATA, frames.HEADERS}
            and frame.flags & END_STREAM
            and self._recorder.answers
        ):
            self.send(head(frame.stream, ANSWER), head(frame.stream, TRAILERS, ends=True))


class Recorder:
    """An upstream that notes what gets there. `answers`: to each call that is complete."""

    def __init__(self, *, greets: bool = True, answers: bool = True, settings: bytes = b"") -> None:
        self.connections: list[_Recording] = []
        self.greets = greets
        self.answers = answers
        self.settings = settings

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[str]:
        server = await asyncio.get_running_loop().create_server(lambda: _Recording(self), "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for connection in self.connections:
                connection.transport.abort()

    @property
    def heads(self) -> list[dict[bytes, bytes]]:
        """Of all calls that got there."""
        return [fields for each in self.connections for heads in each.heads.values() for fields in heads]

    @property
    def frames(self) -> list[Frame]:
        return [frame for each in self.connections for frame in each.seen]


class GrpcScene:
    """A gateway at work. `records` has the decisions, `told` the other lines."""

    def __init__(self, folder: Path, sections: Mapping[str, Mapping[str, Any]], *, tls: bool) -> None:
        self.folder = folder
        self.tls = tls
        self.records: list[Event] = []
        self.broken: list[Event] = []
        self.failures: list[str] = []
        self.current = Current()
        self.authority = Authority() if tls else None
        self._sections = {name: dict(values) for name, values in sections.items()}
        self._number = 0
        self._clients: list[H2Connection] = []

    def publish(self, **sections: Mapping[str, Any]) -> None:
        """The next generation, with settings merged over those before."""
        for name, values in sections.items():
            self._sections[name] = {**self._sections.get(name, {}), **values}
        if self.authority is not None:
            self.authority.issue("localhost", "127.0.0.1").write(self.folder)
        replace_file(self.folder / "rekeyd.yaml", json.dumps(self._sections).encode())
        self._number += 1
        generation = Disk(self.folder / "rekeyd.yaml", {}).load().generation(self._number)
        self.current.publish(serving_of(generation))
        if self._number > 1:
            self.ledger.rotated(generation)

    def open(self) -> None:
        self.ledger = Ledger()
        self.publish()
        generation = self.current.generation
        assert generation is not None
        self.decisions = DecisionLog(self._record)
        self.handshakes = HandshakeLog(self._note)
        self.broken_log = BrokenLog(self._note)
        self.gateway = GrpcGateway(
            generation.settings,
            current=self.current,
            dialer=GrpcDialer(),
            gatekeeper=Gatekeeper(),
            ledger=self.ledger,
            records=GrpcRecords(self.decisions, self.handshakes, self.broken_log, self.failures.append),
        )
        service = generation.settings.service
        self.door = Door(
            "grpc",
            bind("127.0.0.1", 0),
            tls=self.tls,
            current=self.current,
            protocol=lambda serving: self.gateway.protocol(serving, self.door.left),
            limits=Limits(service.handshake_timeout, service.max_connections),
            handshakes=self.handshakes,
            context=lambda serving: serving.grpc_tls,
        )
        self.door.open()

    async def shut(self) -> None:
        for client in self._clients:
            client.transport.abort()
        self.door.close()
        await self.door.closed()
        await self.gateway.drain(0)
        self.decisions.close()
        self.handshakes.close()
        self.broken_log.close()
        await eventually(lambda: self.door.connections == 0, what="the end of all connections")
        assert len(self.ledger) == 0

    @property
    def port(self) -> int:
        return self.door.address[1]

    async def client(self, *, greets: bool = True, context: ssl.SSLContext | None = None) -> H2Connection:
        if context is None and self.authority is not None:
            context = ssl.create_default_context(cadata=self.authority.pem.decode())
            context.set_alpn_protocols(["h2"])
        _, client = await asyncio.get_running_loop().create_connection(
            H2Connection,
            "127.0.0.1",
            self.port,
            ssl=context,
            server_hostname="localhost" if context is not None else None,
        )
        self._clients.append(client)
        if greets:
            client.send(GREETING)
            await client.until(lambda: client.of_kind(frames.SETTINGS))
        return client

    async def several(self, count: int) -> list[Event]:
        """The decisions so far, waited for and then forgotten; AssertionError if there are more."""
        await eventually(lambda: len(self.records) >= count, what=f"{count} records: {self.records}")
        records, self.records[:] = list(self.records), []
        assert len(records) == count, records
        return records

    async def record(self) -> Event:
        (record,) = await self.several(1)
        return record

    def _record(
        self,
        level: str,
        event: str,
        fields: Event,
        *,
        dispensable: bool = False,  # noqa: ARG002 - `Emit` has it
        logged: bool = True,  # noqa: ARG002 - `Emit` has it
        audited: bool = False,  # noqa: ARG002 - `Emit` has it
    ) -> None:
        self.records.append({"level": level, "event": event, **fields})

    def _note(self, level: str, event: str, fields: Event) -> None:
        self.broken.append({"level": level, "event": event, **fields})


@contextlib.asynccontextmanager
async def grpc_stage(
    folder: Path, leads_to: str, *, secure: bool = False, **sections: Mapping[str, Any]
) -> AsyncIterator[GrpcScene]:
    """A gateway in front of what `leads_to`; `sections` are merged over the settings."""
    whole: dict[str, dict[str, Any]] = {
        "service": {
            "host": "127.0.0.1",
            "http_port": 0,
            "grpc_port": 0,
            "api_key": API_KEY,
            "read_only_api_key": READ_KEY,
        },
        "upstream": {"http": "demo", "grpc": leads_to},
        "admin": {"socket": None},
    }
    if secure:
        whole["service"]["enable_tls"] = True
        whole["tls"] = {"cert": "tls.crt", "key": "tls.key"}
    for name, values in sections.items():
        whole[name] = {**whole.get(name, {}), **values}
    accidents: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: accidents.append(str(context)))
    with capture_logs() as told:
        scene = GrpcScene(folder, whole, tls=secure)
        scene.open()
        try:
            yield scene
        finally:
            await scene.shut()
            loop.set_exception_handler(None)
    assert accidents + [line for line in told if line.get("exc_info")] == []
