"""The daemon as a whole: what is made in which order, and how it stops.

The only file that knows all others. Start: first generation, sockets, admin socket, READY=1, triggers. Stop:
no new connections, what runs is finished within `service.drain_timeout`, then everything else in the order
opposite to its start.
"""

import asyncio
import contextlib
import datetime as dt
import os
import signal
from typing import Any

import structlog

from rekeyd import __version__
from rekeyd.errors import RekeydError
from rekeyd.listeners.admin import AdminListener, can_be_made
from rekeyd.listeners.door import Door, Limits, bind
from rekeyd.listeners.http.gateway import HttpGateway
from rekeyd.reload.contexts import ContextError, serving_of
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.disk import Disk
from rekeyd.reload.outcome import Outcome, Result
from rekeyd.reload.reloader import START, Reloader
from rekeyd.reload.triggers import Watch, run_timer
from rekeyd.settings import Settings
from rekeyd.system import systemd
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.logs import Logs
from rekeyd.trust.generation import Generation, Part, described
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.connectors import ApplicationError, find_factory
from rekeyd.upstream.pools import Pools

log = structlog.get_logger()

SERVED, NOT_SERVED, SETTINGS_WRONG = 0, 1, 2
"""Exit statuses (README, "Commands")."""


class Server:
    """One daemon, from `run` to its end."""

    def __init__(self, disk: Disk, settings: Settings, current: Current, logs: Logs) -> None:
        disk.pin(settings)
        self._disk = disk
        self._settings = settings
        self._current = current
        self._logs = logs
        self._decisions = DecisionLog(logs.emit, decisions=settings.logging.decisions)
        self._reloader = Reloader(current, disk.load, _build, on_outcome=[self._follow])
        self._triggers: list[asyncio.Task[None]] = []
        self._pools = Pools()
        self._gateway = HttpGateway(
            settings,
            current=current,
            pools=self._pools,
            decisions=self._decisions,
            health=self._health,
            left=self._connection_left,
        )
        self._door: Door
        self._admin: AdminListener | None = None
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._asked: set[asyncio.Task[None]] = set()
        self.started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The port, once connections are taken."""

    async def run(self) -> int:
        """Serve until a signal ends it; the exit status."""
        first = await self._reloader.reload(START)
        if first.refused:
            return SETTINGS_WRONG if first.problems else NOT_SERVED
        try:
            await self._start()
        except (OSError, RekeydError, UpstreamError) as error:
            log.critical("daemon.failed", problem=str(error))
            await self._end()
            return NOT_SERVED
        await self._stop.wait()
        await self._drain()
        await self._end()
        return SERVED

    def stop(self, why: str) -> None:
        """Begin to stop; asked again, stop at once."""
        if self._stop.is_set():
            self._cut.set()
            return
        log.info("daemon.stopping", reason=why, drain_timeout=self._settings.service.drain_timeout)
        self._stop.set()

    def _connection_left(self) -> None:
        self._door.left()

    # Start.

    async def _start(self) -> None:
        self._handle_signals()
        service = self._settings.service
        await self._pools.pool_for(self._generation())
        self._door = Door(
            "http",
            bind(service.host, service.http_port),
            tls=service.enable_tls,
            current=self._current,
            protocol=self._gateway.protocol,
            limits=Limits(service.handshake_timeout, service.max_connections),
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._door.close)
            await self._start_admin()
            self._door.open()
            undo.pop_all()
        self._start_triggers()
        self._announce()

    def _start_triggers(self) -> None:
        tls, reload = self._settings.tls, self._reloader.reload
        if tls.watch:
            watch = Watch(lambda: self._disk.paths, reload)
            self._triggers.append(asyncio.create_task(watch.run(), name="watch"))
        if tls.cert_ttl:
            self._triggers.append(asyncio.create_task(run_timer(tls.cert_ttl, reload), name="ttl"))

    async def _start_admin(self) -> None:
        admin = self._settings.admin
        if admin.socket is None:
            return
        if admin.socket_is_default and not can_be_made(admin.socket):
            log.warning(
                "admin.off",
                problem=f"{admin.socket.parent} can't be written",
                fix="Set admin.socket to a path that can be, or to null",
            )
            return
        listener = AdminListener(admin.socket, reload=self._reloader.reload, status=self.status)
        await listener.start()
        self._admin = listener

    def _announce(self) -> None:
        host, port = self._door.address
        parsed = self._disk.parsed
        if parsed is not None and parsed.ignored:
            log.info("settings.ignored", keys=list(parsed.ignored))
        log.info(
            "daemon.started",
            version=__version__,
            pid=os.getpid(),
            listeners=[{"name": self._door.name, "host": host, "port": port, "tls": self._door.tls}],
            admin=str(self._admin.path) if self._admin else None,
            upstream=str(self._settings.upstream.http),
        )
        systemd.ready(self._summary())
        self.started.set_result(port)

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._ask_reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number.name)

    def _ask_reload(self) -> None:
        task = asyncio.create_task(self._reload_for_signal())
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)

    async def _reload_for_signal(self) -> None:
        if not self._stop.is_set():
            systemd.reloading()
        await self._reloader.reload("sighup")
        if not self._stop.is_set():  # STOPPING=1 is not to be taken back
            systemd.ready(self._summary())

    # What follows an outcome.

    def _follow(self, outcome: Outcome) -> None:
        generation = self._current.generation
        if generation is None:
            return
        if outcome.result is Result.APPLIED:
            self._logs.level = generation.settings.logging.level
            self._decisions.decisions = generation.settings.logging.decisions
        if not self._stop.is_set():
            systemd.notify(STATUS=self._summary())

    # State.

    def _generation(self) -> Generation:
        generation = self._current.generation
        if generation is None:
            raise RuntimeError("asked before the first generation")
        return generation

    async def _health(self) -> dict[str, bool]:
        generation = self._generation()
        checks = {"upstream": await self._pools.reachable(generation)}
        if generation.server is not None:
            checks["certificate"] = generation.server.leaf.not_after > dt.datetime.now(dt.UTC)
        return checks

    async def status(self) -> dict[str, Any]:
        """For the admin socket. `serving` is what readiness says."""
        checks = await self._health()
        generation, last = self._current.generation, self._reloader.last
        leaf = generation.server.leaf if generation is not None and generation.server is not None else None
        return {
            "version": __version__,
            "pid": os.getpid(),
            "state": "stopping" if self._stop.is_set() else "serving",
            "serving": all(checks.values()) and not self._stop.is_set(),
            "checks": checks,
            "generation": self._current.number,
            "certificate": None if leaf is None else described(leaf),
            "connections": self._door.connections,
            "last_reload": None if last is None else last.fields(),
            "warnings": [str(w) for w in self._disk.parsed.warnings] if self._disk.parsed else [],
        }

    def _summary(self) -> str:
        """One line for `systemctl status`."""
        generation, last = self._current.generation, self._reloader.last
        parts = [f"generation {self._current.number}"]
        if generation is not None and generation.server is not None:
            parts.append(f"certificate until {generation.server.leaf.not_after:%Y-%m-%d %H:%M} UTC")
        if last is not None and last.refused:
            parts.append("the last reload was refused")
        return ", ".join(parts)

    # Stop.

    async def _drain(self) -> None:
        systemd.stopping("draining")
        self._door.close()
        drained = asyncio.create_task(self._finish_connections())
        cut = asyncio.create_task(self._cut.wait())
        await asyncio.wait({drained, cut}, return_when=asyncio.FIRST_COMPLETED)
        left = drained.result() if drained.done() else await self._gateway.drain(0)
        for task in (drained, cut):
            task.cancel()
        if left:
            log.warning("daemon.cut", connections=left)

    async def _finish_connections(self) -> int:
        """A handshake that hangs delays nobody else; connections that come of one are drained after it."""
        now, within = asyncio.get_running_loop().time, self._settings.service.drain_timeout
        deadline = now() + within
        cut, _ = await asyncio.gather(self._gateway.drain(within), self._finish_handshakes(within))
        return cut + await self._gateway.drain(max(0.0, deadline - now()))

    async def _finish_handshakes(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await self._door.closed()

    async def _end(self) -> None:
        for trigger in self._triggers:
            trigger.cancel()
        await asyncio.gather(*self._triggers, return_exceptions=True)
        await self._reloader.close()
        if self._admin is not None:
            await self._admin.stop()
        await self._pools.close()
        self._decisions.close()
        log.info("daemon.stopped")


def _build(generation: Generation) -> Serving:
    """What is served of a generation. Runs in a thread. Raises ContextError where it can't be."""
    upstream = generation.settings.upstream.http
    if upstream is not None and upstream.scheme == "app":
        try:
            find_factory(upstream.path)
        except ApplicationError as error:
            fix = "Correct upstream.http, or install what it names"
            raise ContextError(str(error), fix, Part.SETTINGS) from error
    return serving_of(generation)
