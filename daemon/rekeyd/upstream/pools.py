"""The pool of the current generation.

The rule: a generation whose `upstream` settings (and trust anchors) equal the last one's keeps its
connections; any other gets a pool of its own, and the old pool's connections end with the exchanges they
carry.

Must not know: requests.
"""

import asyncio
import ssl
from dataclasses import dataclass

from rekeyd.settings import Upstream as UpstreamSettings
from rekeyd.trust.certificates import Anchors
from rekeyd.trust.generation import Generation
from rekeyd.upstream import connectors
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.demo import application
from rekeyd.upstream.pool import Connector, Pool

_PROBE_EVERY = 1.0
"""Seconds for which an answer to "can it be reached?" holds: an open path must not be a way to flood it."""


@dataclass(slots=True)
class _Open:
    settings: UpstreamSettings
    anchors: Anchors | None
    pool: Pool
    app: connectors.InProcess | None


class Pools:
    """Gives each request the pool that belongs to its generation."""

    def __init__(self) -> None:
        self._open: _Open | None = None
        self._changing = asyncio.Lock()
        self._retiring: list[connectors.InProcess] = []
        self._probed: tuple[float, bool] = (float("-inf"), False)

    async def pool_for(self, generation: Generation) -> Pool:
        """The pool for this generation's upstream.

        Raises:
            UpstreamError: the application of an `app:` upstream can't be had.
        """
        settings, anchors = generation.settings.upstream, generation.upstream_anchors
        if (at := self._open) is not None and at.settings is settings and at.anchors == anchors:
            return at.pool
        async with self._changing:
            if (at := self._open) is None or at.settings != settings or at.anchors != anchors:
                fresh = await _open(settings, anchors)
                self._retire()
                self._open = at = fresh
            at.settings = settings
            return at.pool

    async def reachable(self, generation: Generation) -> bool:
        """Whether a connection can be had; asked of the upstream at most once a second."""
        now = asyncio.get_running_loop().time()
        when, answer = self._probed
        if now - when < _PROBE_EVERY:
            return answer
        try:
            pool = await self.pool_for(generation)
            pool.release_unused(await pool.acquire())
            answer = True
        except UpstreamError:
            answer = False
        self._probed = (asyncio.get_running_loop().time(), answer)
        return answer

    async def close(self) -> None:
        """End everything, exchanges under way included."""
        if self._open is not None:
            self._open.pool.close(abort=True)
        self._retire()
        for app in self._retiring:
            await app.stop()

    def _retire(self) -> None:
        if self._open is None:
            return
        self._open.pool.close()
        if self._open.app is not None:
            self._retiring.append(self._open.app)
        self._open = None


async def _open(settings: UpstreamSettings, anchors: Anchors | None) -> _Open:
    address = settings.http
    if address is None:
        raise UpstreamError("none", "no upstream is configured")
    app: connectors.InProcess | None = None
    connect: Connector
    match address.scheme:
        case "unix":
            connect = connectors.unix(address.path)
        case "app" | "demo":
            try:
                made = (
                    application()
                    if address.scheme == "demo"
                    else await connectors.load_application(address.path)
                )
            except connectors.ApplicationError as error:
                raise UpstreamError("application", str(error)) from error
            app = connectors.InProcess(made)
            await app.start()
            connect = app.connect
        case "https":
            connect = connectors.tcp(address, _trust(anchors))
        case _:
            connect = connectors.tcp(address, None)
    return _Open(settings, anchors, Pool(connect, connect_timeout=settings.connect_timeout), app)


def _trust(anchors: Anchors | None) -> ssl.SSLContext:
    """The system's trust anchors, or those of `upstream.ca_cert` alone."""
    context = ssl.create_default_context(cadata=anchors.der if anchors else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
