"""The pool of the current generation.

The rule: a generation whose upstream is in the same place (and vouched for by the same trust anchors) keeps
the last one's connections, and an application in this process goes on with them; any other gets a pool of its
own, and the old pool's connections end with the exchanges they carry, its application after them.

Must not know: requests.
"""

import asyncio
from dataclasses import dataclass

from rekeyd.settings import Upstream as UpstreamSettings
from rekeyd.settings import UpstreamAddress
from rekeyd.trust.certificates import Anchors
from rekeyd.trust.generation import Generation
from rekeyd.upstream import connectors
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.demo import application
from rekeyd.upstream.pool import Connector, Pool
from rekeyd.upstream.tls import client_context

_PROBE_EVERY = 1.0
"""Seconds for which an answer to "can it be reached?" holds: an open path must not be a way to flood it."""


@dataclass(slots=True)
class _Open:
    """A pool and what it leads to. `settings`: the last ones for which it was found to be right."""

    settings: UpstreamSettings
    anchors: Anchors | None
    pool: Pool
    app: connectors.InProcess | None

    async def end(self) -> None:
        await self.pool.ended()
        if self.app is not None:
            await self.app.stop()


class Pools:
    """Gives each request the pool that belongs to its generation."""

    def __init__(self) -> None:
        self._open: _Open | None = None
        self._changing = asyncio.Lock()
        self._retiring: dict[asyncio.Task[None], Pool] = {}
        self._probing = asyncio.Lock()
        self._probed: tuple[float, bool] = (float("-inf"), False)

    async def pool_for(self, generation: Generation) -> Pool:
        """The pool for this generation's upstream.

        Raises:
            UpstreamError: the application of an `app:` upstream can't be had.
        """
        if (pool := self.at_hand(generation)) is not None:
            return pool
        settings, anchors = generation.settings.upstream, generation.upstream_anchors
        async with self._changing:
            if (at := self._open) is None or at.settings.http != settings.http or at.anchors != anchors:
                fresh = await _open(settings, anchors)
                self._retire()
                self._open = at = fresh
            at.settings = settings
            at.pool.connect_timeout = settings.connect_timeout
            return at.pool

    def at_hand(self, generation: Generation) -> Pool | None:
        """The same, where it takes no waiting."""
        settings, anchors = generation.settings.upstream, generation.upstream_anchors
        at = self._open
        if at is None or at.settings is not settings or at.anchors != anchors:
            return None
        return at.pool

    async def reachable(self, generation: Generation) -> bool:
        """Whether a connection can be had; asked of the upstream at most once a second."""
        async with self._probing:  # whoever asks meanwhile gets the same answer
            when, answer = self._probed
            if asyncio.get_running_loop().time() - when >= _PROBE_EVERY:
                answer = await self._probe(generation)
                self._probed = (asyncio.get_running_loop().time(), answer)
            return answer

    async def _probe(self, generation: Generation) -> bool:
        try:
            pool = await self.pool_for(generation)
            pool.release(await pool.acquire())
        except UpstreamError:
            return False
        return True

    async def close(self) -> None:
        """End everything, exchanges under way included."""
        self._retire()
        for pool in self._retiring.values():
            pool.close(abort=True)
        if self._retiring:
            await asyncio.wait(self._retiring)

    def _retire(self) -> None:
        at, self._open = self._open, None
        if at is None:
            return
        at.pool.close()
        task = asyncio.create_task(at.end())
        self._retiring[task] = at.pool
        task.add_done_callback(self._retiring.pop)


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
            app = await _started(address)
            connect = app.connect
        case "https":
            connect = connectors.tcp(address, client_context(anchors, "http/1.1"))
        case _:
            connect = connectors.tcp(address, None)
    return _Open(settings, anchors, Pool(connect, connect_timeout=settings.connect_timeout), app)


async def _started(address: UpstreamAddress) -> connectors.InProcess:
    try:
        made = application() if address.scheme == "demo" else await connectors.load_application(address.path)
        app = connectors.InProcess(made)
        await app.start()
    except connectors.ApplicationError as error:
        raise UpstreamError("application", str(error)) from error
    return app
