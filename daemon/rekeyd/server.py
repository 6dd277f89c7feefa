"""The daemon as a whole: what is made in which order, and how it stops.

The only file that knows all others. Start: first generation, sockets, admin socket, READY=1, triggers. Stop:
no new connections, what runs is finished within `service.drain_timeout`, then everything else in the order
opposite to its start.
"""

import asyncio
import os
import signal
from collections.abc import Coroutine
from typing import Any

import structlog

from rekeyd import __version__
from rekeyd.condition import Condition
from rekeyd.errors import RekeydError
from rekeyd.front import Front, build
from rekeyd.listeners.admin import AdminListener
from rekeyd.listeners.metrics import MetricsListener
from rekeyd.reload import diagnosis
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.disk import Disk
from rekeyd.reload.expiry import ExpiryWatch
from rekeyd.reload.outcome import Outcome, Result
from rekeyd.reload.reloader import START, Reloader
from rekeyd.reload.sealed import SealError, seal
from rekeyd.reload.snapshot import Snapshot
from rekeyd.reload.starting import first_generation
from rekeyd.reload.triggers import Watch, run_timer
from rekeyd.reload.vault import Restored, Vault
from rekeyd.settings import Settings
from rekeyd.system import process, systemd
from rekeyd.system.admin_client import socket_named_by
from rekeyd.system.sockets import Sockets
from rekeyd.system.unix_socket import can_be_made
from rekeyd.system.watchdog import Watchdog, interval_in
from rekeyd.telemetry.keeping import Keeper, keep
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.report import Listener
from rekeyd.trust.generation import Generation
from rekeyd.upstream.connection import UpstreamError
from rekeyd.workers.crew import Crew
from rekeyd.workers.staff import Origin

log = structlog.get_logger()

SERVED, NOT_SERVED, SETTINGS_WRONG = 0, 1, 2
"""Exit statuses (README, "Commands")."""

SAID_EVERY = 10.0
"""Seconds between two looks at what changes by itself, such as the number of connections."""

MARGIN = 30.0
"""Seconds for what a start or a stop does besides waiting."""


class Server:
    """One daemon, from `run` to its end."""

    def __init__(
        self,
        disk: Disk,
        settings: Settings,
        current: Current,
        logs: Logs,
        sockets: Sockets,
        vault: Vault,
    ) -> None:
        disk.pin(settings)
        self._disk = disk
        self._settings = settings
        self._current = current
        self._logs = logs
        self._sockets = sockets
        self._vault = vault
        self._restored: Restored | None = None
        self._front = self._make_front()
        self._reloader = self._make_reloader()
        self._expiry = ExpiryWatch(current)
        self._condition = Condition(
            current,
            self._reloader,
            disk,
            self._front.evidence,
            self._front.report,
            lambda: self._front.connections,
        )
        self._said = ""
        self._tasks: list[asyncio.Task[None]] = []
        self._admin: AdminListener | None = None
        self._scrapes: MetricsListener | None = None
        self._keeper: Keeper | None = None
        self._watchdog: asyncio.Task[None] | None = None
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._running: set[asyncio.Task[None]] = set()
        self.started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The port, once connections are taken."""

    def _make_front(self) -> Front | Crew:
        """What serves: this process, or several others."""
        if self._settings.service.workers == 1:
            return Front(self._settings, current=self._current, logs=self._logs, sockets=self._sockets)
        return Crew(
            self._settings,
            current=self._current,
            logs=self._logs,
            sockets=self._sockets,
            origin=Origin(str(self._disk.file), self._disk.pinned.decode()),
            seal=self._sealed,
        )

    def _sealed(self, generation: Generation) -> int:
        """What workers are handed: what the files said, or what came back from before this process."""
        restored = self._restored
        if restored is not None and restored.serving.generation is generation:
            return os.dup(restored.descriptor)
        snapshot = self._disk.take_snapshot()
        if snapshot is None:
            raise SealError("nothing was read for it")
        return seal(snapshot, self._disk.environ, number=generation.number)

    def _restore(self) -> Restored | None:
        self._restored = self._vault.restore(self._settings, build)
        return self._restored

    def _make_reloader(self) -> Reloader:
        return Reloader(
            self._current,
            self._disk.load,
            build,
            servers=self,
            on_outcome=[self._front.metrics.reloaded, self._follow],
            start_wait=self._settings.tls.start_wait,
            restore=self._restore,
        )

    async def run(self) -> int:
        """Serve until a signal ends it; the exit status."""
        self._handle_signals()
        systemd.extend(self._settings.tls.start_wait + MARGIN)
        first = await self._first()
        if first is None:
            await self._end()
            return SERVED
        if first.generation is None:
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

    async def _first(self) -> Outcome | None:
        """What came of the first generation; None where we were stopped while the files were waited for."""
        first = asyncio.create_task(first_generation(self._reloader, self._disk))
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({first, stopped}, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        if first.done():
            return first.result()
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        return None

    def stop(self, why: str) -> None:
        """Begin to stop; asked again, stop at once."""
        if self._stop.is_set():
            self._cut.set()
            return
        log.info("daemon.stopping", reason=why, drain_timeout=self._settings.service.drain_timeout)
        self._stop.set()

    # Start.

    async def _start(self) -> None:
        self._keeper = await keep(self._front.evidence, self._settings.state, os.environ)
        await self._start_metrics()
        await self._start_admin()
        await self._front.open()
        self._tell_of_sockets_left()
        self._start_tasks()
        self._announce()
        diagnosis.tell(await asyncio.to_thread(diagnosis.diagnose, self._settings, os.environ))

    def _start_tasks(self) -> None:
        tls, reload = self._settings.tls, self._reloader.reload
        self._tasks.append(asyncio.create_task(self._expiry.run(), name="expiry"))
        self._tasks.append(asyncio.create_task(self._keep_saying(), name="status"))
        if tls.watch:
            watch = Watch(lambda: self._disk.paths, reload)
            self._tasks.append(asyncio.create_task(watch.run(), name="watch"))
        if tls.cert_ttl:
            self._tasks.append(asyncio.create_task(run_timer(tls.cert_ttl, reload), name="ttl"))

    async def _start_metrics(self) -> None:
        port = self._settings.metrics.port
        if port is not None:
            # On loopback: the port asks for no key.
            self._scrapes = MetricsListener(
                self._sockets.listen("metrics", "127.0.0.1", port), self._front.exposition
            )
            await self._scrapes.start()

    async def _start_admin(self) -> None:
        admin = self._settings.admin
        path = socket_named_by(admin, os.environ)
        if path is None:
            return
        if admin.socket_is_default and not can_be_made(path):
            log.warning(
                "admin.off",
                problem=f"{path.parent} can't be written",
                fix="Set admin.socket to a path that can be, or to null",
            )
            return
        listener = AdminListener(
            path,
            settings=self._disk.file,
            reload=self._reloader.reload,
            status=self._status,
            exposition=self._front.exposition,
            hub=self._logs.hub,
        )
        await listener.start()
        self._admin = listener

    def _announce(self) -> None:
        process.keep_for_good()
        parsed = self._disk.parsed
        if parsed is not None and parsed.ignored:
            log.info("settings.ignored", keys=list(parsed.ignored))
        log.info(
            "daemon.started",
            version=__version__,
            pid=os.getpid(),
            listeners=[listener.fields() for listener in self._listeners],
            admin=str(self._admin.path) if self._admin else None,
            upstream=str(self._settings.upstream.http),
            grpc_upstream=self._front.grpc_upstream,
        )
        systemd.ready(self._condition.summary())
        self._start_watchdog()
        self.started.set_result(self._listeners[0].port)

    def _start_watchdog(self) -> None:
        interval = interval_in(os.environ, os.getpid())
        if interval is not None:
            watchdog = Watchdog(interval, prove=self._front.reason_for_doubt, sign=systemd.alive)
            self._watchdog = asyncio.create_task(watchdog.run(), name="watchdog")
            self._tasks.append(self._watchdog)

    @property
    def _listeners(self) -> list[Listener]:
        scrapes = [Listener("metrics", *self._scrapes.address, tls=False)] if self._scrapes else []
        return [*self._front.listeners, *scrapes]

    def _tell_of_sockets_left(self) -> None:
        for name in self._sockets.left:
            log.warning(
                "socket.unused",
                name=name,
                problem="the service manager listens there, and nothing serves it",
                fix="Set what it is for in the settings, or disable the socket unit",
            )
        self._sockets.close_left()

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, self._ask_reload)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop, number.name)
        loop.add_signal_handler(signal.SIGUSR2, self._front.renew)

    def _ask_reload(self) -> None:
        self._run(self._reload_for_signal())

    def _run(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside everything else, until it is done."""
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _reload_for_signal(self) -> None:
        if not self._stop.is_set():
            systemd.reloading()
        await self._reloader.reload("sighup")
        if not self._stop.is_set():  # STOPPING=1 is not to be taken back
            systemd.ready(self._condition.summary())

    # What is asked of it, and what follows an outcome.

    async def _status(self) -> dict[str, Any]:
        kept_in = self._keeper.kept_in if self._keeper is not None else None
        return await self._condition.status(stopping=self._stop.is_set(), kept_in=kept_in)

    def _follow(self, outcome: Outcome) -> None:
        generation, snapshot = self._current.generation, self._disk.take_snapshot()
        if generation is None:
            return
        if outcome.result is Result.APPLIED and self._vault.is_open:
            self._keep(snapshot, generation)
        changed = outcome.result is Result.APPLIED or outcome.trigger == START  # one came back from before
        if changed:
            self._expiry.look()
        if changed or outcome.refused:
            self._front.follow(generation, changed=changed)
        self._say()

    def _keep(self, snapshot: Snapshot | None, generation: Generation) -> None:
        """For a start while the disk is torn. What workers were handed is sealed already."""
        if self._front.sealed is not None:
            self._vault.put(self._front.sealed)
        elif snapshot is not None:
            self._run(self._vault.keep(snapshot, self._disk.environ, generation.number))

    async def _keep_saying(self) -> None:
        while True:
            await asyncio.sleep(SAID_EVERY)
            self._say()

    def _say(self) -> None:
        """How it is, for `systemctl status`, where that has changed."""
        summary = self._condition.summary()
        if summary != self._said and not self._stop.is_set():
            self._said = summary
            systemd.notify(STATUS=summary)

    async def prepare(self, serving: Serving) -> str | None:
        """Before a generation is published: why it can't be served, or None."""
        return await self._front.prepare(serving)

    async def spread(self, serving: Serving) -> None:
        """A generation is published: everybody is to serve it."""
        await self._front.spread(serving)

    async def verify(self, serving: Serving) -> str | None:
        """Why what is served is not this, or None."""
        return None if self._stop.is_set() else await self._front.verify(serving)

    # Stop.

    async def _drain(self) -> None:
        systemd.stopping("draining")
        systemd.extend(self._settings.service.drain_timeout + MARGIN)
        if self._watchdog is not None:
            self._watchdog.cancel()  # from STOPPING=1 on the service manager waits for no sign of life
        self._front.close()
        drained = asyncio.create_task(self._front.drain(self._settings.service.drain_timeout))
        cut = asyncio.create_task(self._cut.wait())
        await asyncio.wait({drained, cut}, return_when=asyncio.FIRST_COMPLETED)
        left = drained.result() if drained.done() else await self._front.cut()
        for task in (drained, cut):
            task.cancel()
        if left:
            log.warning("daemon.cut", connections=left)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reloader.close()
        await asyncio.gather(*self._running, return_exceptions=True)
        if self._scrapes is not None:
            await self._scrapes.stop()
        if self._admin is not None:
            await self._admin.stop()
        await self._front.end()
        if self._keeper is not None:
            await self._keeper.close()
        log.info("daemon.stopped")
