"""What the live stories share: a site that a daemon serves, a client that shows what it got, and upstreams.

site = live_site(tmp_path)
daemon = await start_daemon(site.file, secrets=[API_KEY])
async with Connection.to(daemon, site.authority) as client:
    assert (await client.ask("/collections")).status == 200
    assert client.serial == site.leaf.serial
"""

import asyncio
import contextlib
import json
import logging
import socket
import ssl
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

from support.daemon import Daemon, Event
from support.generations import API_KEY, Site
from support.pki import Authority, Leaf, write_in_place

PATIENCE = 15.0
"""Seconds after which a client gives up: far beyond what is right, so that only a hang is one."""


def live_site(folder: Path, **sections: Mapping[str, Any]) -> Site:
    """A site with an admin socket of its own; each section is merged over the default."""
    site = Site(folder)
    configure(site, **sections)
    return site


def configure(site: Site, **sections: Mapping[str, Any]) -> None:
    site.configure(**{"admin": {"socket": "admin.sock"}, "state": {"directory": "state"}, **sections})


def trusting(authority: Authority, *, own: Path | None = None) -> ssl.SSLContext:
    """A client that believes this authority alone; `own` holds its certificate and key."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.load_verify_locations(cadata=authority.pem.decode())
    if own is not None:
        context.load_cert_chain(own)
    return context


def serial_of(event: Event) -> str | None:
    """The serial that a reload made live, if it changed the certificate."""
    change = event.get("parts", {}).get("server_certificate")
    return None if change is None else str(change["new"]["serial"])


def serial_text(leaf: Leaf) -> str:
    """As log lines have it: upper-case hex, two digits a byte."""
    digits = f"{leaf.serial:X}"
    return "0" * (len(digits) % 2) + digits


def measured(what: str, value: object) -> None:
    """Tell a number that is worth knowing: `pytest -o log_cli=true --log-cli-level=INFO` shows it."""
    logging.getLogger("measured").info("%s: %s", what, value)


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; the names of `fields` are in lower case."""

    status: int
    fields: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Connection:
    """One connection of a client that adds nothing to what it is told to send."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    @contextlib.asynccontextmanager
    async def to(
        cls,
        at: Daemon | int | socket.socket,
        trust: Authority | ssl.SSLContext | None,
        *,
        host: str = "127.0.0.1",
        source: str | None = None,
    ) -> AsyncIterator["Connection"]:
        """Open to a daemon or a port, from the address `source` where it matters, or on a connected socket.

        In TLS, unless `trust` is None, the name `localhost` must be shown.
        """
        context = trusting(trust) if isinstance(trust, Authority) else trust
        name = "localhost" if context is not None else None
        where: dict[str, Any]
        if isinstance(at, socket.socket):
            where = {"sock": at}
        else:
            port = at if isinstance(at, int) else at.port
            where = {"host": host, "port": port, "local_addr": (source, 0) if source else None}
        async with asyncio.timeout(PATIENCE):
            opened = await asyncio.open_connection(ssl=context, server_hostname=name, **where)
        connection = cls(*opened)
        try:
            yield connection
        finally:
            await connection.close()

    @property
    def serial(self) -> int:
        """Of the certificate that the server showed."""
        shown = self.writer.get_extra_info("ssl_object").getpeercert()
        return int(shown["serialNumber"], 16)

    async def ask(
        self,
        target: str = "/collections",
        *,
        method: str = "GET",
        key: str | None = API_KEY,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> Answer:
        await self.send(target, method=method, key=key, headers=headers, body=body)
        return await self.answer()

    async def send(
        self,
        target: str,
        *,
        method: str = "GET",
        key: str | None = API_KEY,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> None:
        fields = {"Host": "localhost", **({"api-key": key} if key else {}), **(headers or {})}
        if body:
            fields["Content-Length"] = str(len(body))
        lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        self.writer.write("\r\n".join([*lines, "", ""]).encode() + body)
        await self.writer.drain()

    async def answer(self) -> Answer:
        """The whole response. Raises IncompleteReadError where it breaks off."""
        async with asyncio.timeout(PATIENCE):
            status, fields = await self.head()
            if status in {204, 304}:
                return Answer(status, fields, b"")
            if fields.get("transfer-encoding") == "chunked":
                return Answer(status, fields, b"".join([piece async for piece in self.chunks()]))
            return Answer(status, fields, await self.reader.readexactly(int(fields["content-length"])))

    async def head(self) -> tuple[int, dict[str, str]]:
        first, *lines = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1").splitlines()
        fields = dict(line.split(": ", 1) for line in lines if line)
        return int(first.split()[1]), {name.lower(): value for name, value in fields.items()}

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body of a chunked response, chunk by chunk."""
        while size := int(await self.reader.readuntil(b"\r\n"), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readexactly(2)

    async def close(self) -> None:
        self.writer.close()
        with contextlib.suppress(OSError, ssl.SSLError, TimeoutError):
            async with asyncio.timeout(PATIENCE):
                await self.writer.wait_closed()


async def shown_serial(at: Daemon | int, trust: ssl.SSLContext) -> int:
    """The serial that a new connection is shown."""
    async with Connection.to(at, trust) as connection:
        return connection.serial


async def seconds_until_shown(leaf: Leaf, at: Daemon | int, authority: Authority, *, within: float) -> float:
    """From now to a new connection that is shown `leaf`; AssertionError after `within` seconds."""
    trust, began = trusting(authority), time.monotonic()
    while await shown_serial(at, trust) != leaf.serial:
        assert time.monotonic() < began + within, f"not served within {within:g} s"
        await asyncio.sleep(0.01)
    return time.monotonic() - began


class Rotator:
    """Gives a site new certificates in the ways in which tools write them, in turn.

    The files are reached through a symlink (`live -> pair-1`), as Kubernetes and certbot lay them out.
    """

    def __init__(self, site: Site, **sections: Mapping[str, Any]) -> None:
        self._site = site
        self._pairs = 0
        self._ways = [self._by_rename, self._by_symlink, self._in_place]
        self.live = site.folder / "live"
        self.turn = 0
        self._by_symlink(site.leaf)
        tls = {"cert": "live/tls.crt", "key": "live/tls.key", **sections.pop("tls", {})}
        configure(site, tls=tls, **sections)

    def rotate(self) -> Leaf:
        leaf = self._site.leaf = self._site.authority.issue()
        self._ways[self.turn % len(self._ways)](leaf)
        self.turn += 1
        return leaf

    def _by_rename(self, leaf: Leaf) -> None:
        leaf.write(self.live)

    def _by_symlink(self, leaf: Leaf) -> None:
        self._pairs += 1
        leaf.write(self._site.folder / f"pair-{self._pairs}")
        link = self._site.folder / "live.new"
        link.symlink_to(f"pair-{self._pairs}")
        link.rename(self.live)

    def _in_place(self, leaf: Leaf) -> None:
        write_in_place(self.live / "tls.key", leaf.key_pem)
        write_in_place(self.live / "tls.crt", leaf.chain_pem)


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@contextlib.asynccontextmanager
async def upstream(handler: Handler, listening: socket.socket | None = None) -> AsyncIterator[str]:
    """A service on a free port of 127.0.0.1 that answers everything with `handler`; its `upstream.http`."""
    application = web.Application(client_max_size=2**40)
    application.router.add_route("*", "/{path:.*}", handler)
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1)
    await runner.setup()
    listening = listening or socket.create_server(("127.0.0.1", 0))
    await web.SockSite(runner, listening).start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        await runner.cleanup()


class HeldUpstream:
    """Answers when it is told to. `waiting` counts the requests that are held."""

    def __init__(self) -> None:
        self.waiting = 0
        self.release = asyncio.Event()
        self._came = asyncio.Condition()

    async def answer(self, _request: web.Request) -> web.Response:
        async with self._came:
            self.waiting += 1
            self._came.notify_all()
        await self.release.wait()
        return web.json_response({"held": True})

    async def holds(self, count: int) -> None:
        """Wait until so many requests are held."""
        async with asyncio.timeout(PATIENCE), self._came:
            await self._came.wait_for(lambda: self.waiting >= count)
