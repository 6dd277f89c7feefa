"""Both ends of HTTP by hand: a connection that keeps every byte it got and sends the bytes that it is told.

Nothing here knows HTTP beyond what a test must tell apart: where a head ends, and whether a body is whole.
"""

import asyncio
import os
import socket
import ssl
import struct
from asyncio.sslproto import SSLProtocol
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import cast

PATIENCE = 5.0
"""Seconds after which a test that waits for bytes has failed."""
END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class Answer:
    """A response as it stood on the wire. `whole`: its body ended as its framing says it must."""

    status: int
    head: bytes
    body: bytes
    whole: bool = True

    def field(self, name: str) -> str | None:
        """The value of a header field, the first of its name."""
        for line in self.head.split(b"\r\n")[1:]:
            key, _, value = line.partition(b":")
            if key.decode("latin-1").lower() == name.lower():
                return value.strip().decode("latin-1")
        return None

    @property
    def names(self) -> list[str]:
        """The names of all fields, in lower case and in their order."""
        return [
            line.partition(b":")[0].decode("latin-1").lower() for line in self.head.split(b"\r\n")[1:] if line
        ]


class Link(asyncio.Protocol):
    """One end of a connection. What was taken isn't given again; `received` has all of it."""

    def __init__(self, opened: "Callable[[Link], None] | None" = None) -> None:
        self.received = bytearray()
        self.ended = False
        """The other end has closed, or broken off."""
        self.error: Exception | None = None
        self._lost = False
        self._taken = 0
        self._opened = opened
        self._changed = asyncio.Event()
        self._writable = asyncio.Event()
        self._writable.set()
        self.transport: asyncio.Transport

    # What the transport calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if self._opened is not None:
            self._opened(self)

    def data_received(self, data: bytes) -> None:
        self.received += data
        self._changed.set()

    def eof_received(self) -> bool:
        self.ended = True
        self._changed.set()
        return self.transport.get_extra_info("ssl_object") is None  # TLS can't be half closed

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended, self.error, self._lost = True, exc, True
        self._changed.set()
        self._writable.set()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # Reading.

    async def until(self, mark: bytes, *, patience: float | None = PATIENCE) -> bytes:
        """What comes, up to and with `mark`; AssertionError if it doesn't come within `patience` seconds."""
        await self.wait_for(
            lambda: self.received.find(mark, self._taken) >= 0 or self.ended, f"{mark!r}", patience=patience
        )
        at = self.received.find(mark, self._taken)
        assert at >= 0, f"it ended before {mark!r}: {bytes(self.received[self._taken :])[:500]!r}"
        return self._take(at + len(mark) - self._taken)

    async def take(self, count: int) -> bytes:
        """The next `count` bytes; fewer where the other end closes before."""
        await self.wait_for(lambda: self._waiting >= count or self.ended, f"{count} bytes")
        return self._take(min(count, self._waiting))

    async def rest(self) -> bytes:
        """Everything until the other end closes."""
        await self.wait_for(lambda: self.ended, "its end")
        return self._take(self._waiting)

    async def answer(self, method: str = "GET") -> Answer:
        """The next response, interim ones not told apart. A body that breaks off isn't `whole`."""
        head = await self.until(END_OF_HEAD)
        status = int(head.split(b" ", 2)[1])
        seen = Answer(status, head, b"")
        if method == "HEAD" or status in {101, 204, 304} or status < 200:
            return seen
        if (seen.field("transfer-encoding") or "") == "chunked":
            return await self._chunked(seen)
        if (length := seen.field("content-length")) is not None:
            body = await self.take(int(length))
            return Answer(status, head, body, len(body) == int(length))
        body = await self.rest()
        return Answer(status, head, body, self.error is None)

    async def _chunked(self, seen: Answer) -> Answer:
        body = b""
        while True:
            await self.wait_for(
                lambda: self.received.find(b"\r\n", self._taken) >= 0 or self.ended, "the size of a chunk"
            )
            if b"\r\n" not in self.received[self._taken :]:
                return Answer(seen.status, seen.head, body, whole=False)
            size = int(await self.until(b"\r\n"), 16)
            piece = await self.take(size + 2)
            if len(piece) < size + 2:
                return Answer(seen.status, seen.head, body + piece, whole=False)
            if not size:
                return Answer(seen.status, seen.head, body)
            body += piece[:-2]

    async def closed(self) -> None:
        """Wait until the other end has closed or broken off."""
        await self.wait_for(lambda: self.ended, "its end")

    async def wait_for(
        self, predicate: Callable[[], bool], what: str, *, patience: float | None = PATIENCE
    ) -> None:
        """Until `predicate`, looked at whenever something comes, holds."""
        try:
            async with asyncio.timeout(patience):
                while not predicate():
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            waiting = bytes(self.received[self._taken :])
            raise AssertionError(f"{what} did not come; what came: {waiting[-500:]!r}") from None

    @property
    def _waiting(self) -> int:
        return len(self.received) - self._taken

    def _take(self, count: int) -> bytes:
        taken = bytes(self.received[self._taken : self._taken + count])
        self._taken += count
        return taken

    # Writing.

    def send(self, *data: bytes) -> None:
        self.transport.write(b"".join(data))

    async def send_all(self, data: bytes) -> None:
        """Send, and wait until the transport has room again."""
        self.transport.write(data)
        await self._writable.wait()

    def end_now(self) -> None:
        """FIN at this very moment, where `half_close` waits for the loop."""
        with socket.socket(fileno=os.dup(self.socket.fileno())) as sock:
            sock.shutdown(socket.SHUT_WR)

    def half_close(self) -> None:
        self.transport.write_eof()

    def close(self) -> None:
        self.transport.close()

    def abort(self) -> None:
        if not self._lost:
            self.transport.abort()

    def reset(self) -> None:
        """Break off so that the other end sees it: RST, no close_notify."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    @property
    def socket(self) -> socket.socket:
        return cast(socket.socket, self.transport.get_extra_info("socket"))


Script = Callable[[Link], Awaitable[None]]


class Upstream:
    """A server made of links. Without a script a test takes each link and does all by hand."""

    def __init__(self, script: Script | None = None) -> None:
        self.links: list[Link] = []
        self.address = ""
        """As `upstream.http` has it."""
        self._script = script
        self._given = 0
        self._changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server

    async def start(
        self, *, host: str = "127.0.0.1", path: str = "", context: ssl.SSLContext | None = None
    ) -> None:
        loop = asyncio.get_running_loop()
        if path:
            self._server = await loop.create_unix_server(lambda: Link(self._came), path)
            self.address = f"unix:{path}"
            return
        self._server = await loop.create_server(lambda: Link(self._came), host, 0, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]
        scheme, name = ("https" if context else "http"), (f"[{host}]" if ":" in host else host)
        self.address = f"{scheme}://{name}:{self.port}"

    async def stop(self) -> None:
        self._server.close()
        for link in self.links:
            link.abort()
        for task in self._tasks:
            task.cancel()
        done = await asyncio.gather(*self._tasks, return_exceptions=True)
        faults = [e for e in done if isinstance(e, Exception)]
        assert not faults, faults

    async def link(self) -> Link:
        """The next connection, in the order in which they came."""
        try:
            async with asyncio.timeout(PATIENCE):
                while len(self.links) <= self._given:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            raise AssertionError("the upstream was not connected to") from None
        self._given += 1
        return self.links[self._given - 1]

    async def request(self) -> tuple[Link, bytes]:
        """The next connection and the head that came on it."""
        link = await self.link()
        return link, await link.until(END_OF_HEAD)

    @property
    def heads(self) -> list[bytes]:
        """Every head that came, on whichever connection, while bodies are empty."""
        whole = b"".join(bytes(link.received) for link in self.links)
        return [head + END_OF_HEAD for head in whole.split(END_OF_HEAD)[:-1]]

    def _came(self, link: Link) -> None:
        self.links.append(link)
        self._changed.set()
        if self._script is not None:
            task = asyncio.ensure_future(_run(self._script, link))
            self._tasks.add(task)


async def _run(script: Script, link: Link) -> None:
    try:
        await script(link)
    except (ConnectionError, AssertionError):
        if not link.ended:
            raise
    finally:
        link.abort()


def answering(*data: bytes) -> Script:
    """Answer every head with the same bytes, for as long as the connection lasts."""

    async def script(link: Link) -> None:
        while True:
            await link.until(END_OF_HEAD, patience=None)
            link.send(*data)

    return script


def ok(body: bytes = b"fine", *fields: str) -> bytes:
    """A 200 of known length."""
    lines = ["HTTP/1.1 200 OK", *fields, f"Content-Length: {len(body)}", "", ""]
    return "\r\n".join(lines).encode("latin-1") + body


def request(
    method: str = "GET",
    target: str = "/collections",
    *fields: str,
    key: str | None = None,
    body: bytes = b"",
    version: str = "1.1",
) -> bytes:
    """A request; `fields` are whole lines. A body of known length gets its Content-Length."""
    lines = [f"{method} {target} HTTP/{version}", "Host: service.test"]
    lines += [f"api-key: {key}"] if key is not None else []
    lines += fields
    lines += [f"Content-Length: {len(body)}"] if body else []
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


async def connect(
    host: str, port: int, context: ssl.SSLContext | None = None, *, buffer: int | None = None
) -> Link:
    """A client's end of a connection; with `buffer` the kernel keeps about as many bytes for each way."""
    loop = asyncio.get_running_loop()
    sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    if buffer is not None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
    sock.setblocking(False)
    try:
        await loop.sock_connect(sock, (host, port))
    except BaseException:
        sock.close()
        raise
    link = Link()
    if context is None:
        await loop.create_connection(lambda: link, sock=sock)
        return link
    # asyncio's own TLS on every loop: uvloop's drops what a paused client has yet to take when the other end
    # goes.
    ready: asyncio.Future[None] = loop.create_future()
    tls = SSLProtocol(loop, link, context, ready, server_side=False, server_hostname="localhost")
    below, _ = await loop.create_connection(lambda: tls, sock=sock)
    try:
        await ready
    except BaseException:
        below.abort()
        raise
    return link
