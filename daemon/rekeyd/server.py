"""The daemon as a whole: what is made in which order, and how it stops.

The only file that knows all others. Start: first generation, sockets, admin socket, READY=1, triggers. Stop:
no new connections, what runs is finished within `service.drain_timeout`, then everything else in the order
opposite to its start.
"""

import asyncio
import contextlib
import os
import signal
import time
from typing import Any

import structlog

from rekeyd import __version__
from rekeyd.calls import Calls, Told
from rekeyd.cluster import Cluster
from rekeyd.condition import Condition
from rekeyd.errors import RekeydError
from rekeyd.gatekeeper import Gatekeeper
from rekeyd.ledger import Ledger
from rekeyd.listeners.admin import AdminListener, socket_named_by
from rekeyd.listeners.door import Door, Limits, bind
from rekeyd.listeners.http.gateway import Guards, HttpGateway, Records
from rekeyd.listeners.metrics import MetricsListener
from rekeyd.reload import diagnosis
from rekeyd.reload.contexts import ContextError, serving_of
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.disk import Disk
from rekeyd.reload.expiry import ExpiryWatch
from rekeyd.reload.outcome import Outcome, Result
from rekeyd.reload.probe import reason_against
from rekeyd.reload.reloader import Reloader
from rekeyd.reload.starting import first_generation
from rekeyd.reload.triggers import Watch, run_timer
from rekeyd.settings import Settings
from rekeyd.system import process, systemd
from rekeyd.system.unix_socket import can_be_made
from rekeyd.telemetry.decisions import DecisionLog
from rekeyd.telemetry.evidence import Evidence
from rekeyd.telemetry.handshakes import HandshakeLog
from rekeyd.telemetry.keeping import Keeper, keep
from rekeyd.telemetry.logs import Logs
from rekeyd.telemetry.metrics import Metrics
from rekeyd.trust.generation import Generation, Part
from rekeyd.trust.names import choose
from rekeyd.upstream.connection import UpstreamError
from rekeyd.upstream.connectors import ApplicationError, find_factory
from rekeyd.upstream.pools import Pools

log = structlog.get_logger()

TUNNELS_END = 5.0
"""Seconds in which tunnels deliver what they hold when the daemon stops."""
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
        self._ledger = Ledger()
        self._evidence = Evidence(lambda: current.generation, now=time.time)
        self._metrics = _metrics(current, self._ledger, self._evidence, logs)
        self._decisions = self._make_decision_log()
        self._handshakes = HandshakeLog(logs.emit, self._metrics)
        self._gatekeeper = Gatekeeper()
        self._calls = self._make_calls()
        self._reloader = Reloader(
            current,
            disk.load,
            _build,
            verify=self._verify,
            on_outcome=[self._metrics.reloaded, self._follow],
            start_wait=settings.tls.start_wait,
        )
        self._expiry = ExpiryWatch(current)
        self._pools = Pools()
        self._cluster = Cluster(settings, current=current, ledger=self._ledger, handshakes=self._handshakes)
        self._metrics.register(self._cluster.metrics)
        self._condition = self._make_condition()
        self._gateway = self._make_gateway()
        self._tasks: list[asyncio.Task[None]] = []
        self._door: Door
        self._admin: AdminListener | None = None
        self._scrapes: MetricsListener | None = None
        self._keeper: Keeper | None = None
        self._stop = asyncio.Event()
        self._cut = asyncio.Event()
        self._asked: set[asyncio.Task[None]] = set()
        self.started: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        """The port, once connections are taken."""

    def _make_decision_log(self) -> DecisionLog:
        return DecisionLog(
            self._logs.emit,
            counts=[self._metrics, self._evidence],
            hub=self._logs.hub,
            decisions=self._settings.logging.decisions,
            audited=self._settings.logging.audit is not None,
        )

    def _make_condition(self) -> Condition:
        return Condition(
            self._current,
            self._reloader,
            self._ledger,
            self._pools,
            self._disk,
            self._evidence,
            self._cluster.described,
            self._calls.health,
        )

    def _make_calls(self) -> Calls:
        return Calls(
            self._settings,
            current=self._current,
            ledger=self._ledger,
            gatekeeper=self._gatekeeper,
            told=Told(self._logs.emit, self._decisions, self._handshakes, self._metrics.upstream_failed),
        )

    def _make_gateway(self) -> HttpGateway:
        return HttpGateway(
            self._settings,
            current=self._current,
            pools=self._pools,
            health=self._condition.checks,
            guards=Guards(self._gatekeeper, self._ledger),
            records=Records(self._decisions, self._handshakes, self._metrics.upstream_failed),
            left=self._connection_left,
        )

    async def run(self) -> int:
        """Serve until a signal ends it; the exit status."""
        self._handle_signals()
        first = await self._first()
        if first is None:
            await self._end()
            return SERVED
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

    def _connection_left(self) -> None:
        self._door.left()

    # Start.

    async def _start(self) -> None:
        service = self._settings.service
        await self._pools.pool_for(self._generation())
        self._keeper = await keep(self._evidence, self._settings.state, os.environ)
        self._door = Door(
            "http",
            bind(service.host, service.http_port),
            tls=service.enable_tls,
            current=self._current,
            protocol=self._calls.beside(self._gateway.protocol, self._connection_left),
            limits=Limits(service.handshake_timeout, service.max_connections),
            handshakes=self._handshakes,
        )
        with contextlib.ExitStack() as undo:
            undo.callback(self._door.close)
            self._calls.open()
            undo.callback(self._calls.close)
            self._cluster.open()
            undo.callback(self._cluster.close)
            await self._start_metrics()
            await self._start_admin()
            self._door.open()
            undo.pop_all()
        self._start_tasks()
        self._announce()
        diagnosis.tell(await asyncio.to_thread(diagnosis.diagnose, self._settings, os.environ))

    def _start_tasks(self) -> None:
        tls, reload = self._settings.tls, self._reloader.reload
        self._tasks.append(asyncio.create_task(self._expiry.run(), name="expiry"))
        if tls.watch:
            watch = Watch(lambda: self._disk.paths, reload)
            self._tasks.append(asyncio.create_task(watch.run(), name="watch"))
        if tls.cert_ttl:
            self._tasks.append(asyncio.create_task(run_timer(tls.cert_ttl, reload), name="ttl"))

    async def _start_metrics(self) -> None:
        port = self._settings.metrics.port
        if port is not None:
            # On loopback: the port asks for no key.
            self._scrapes = MetricsListener(bind("127.0.0.1", port), self._metrics.exposition)
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
            reload=self._reloader.reload,
            status=self._status,
            exposition=self._metrics.exposition,
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
            listeners=[
                *(_listener(d.name, d.address, tls=d.tls) for d in self._doors),
                *([_listener("metrics", self._scrapes.address, tls=False)] if self._scrapes else []),
            ],
            admin=str(self._admin.path) if self._admin else None,
            upstream=str(self._settings.upstream.http),
            grpc_upstream=self._calls.upstream,
        )
        systemd.ready(self._condition.summary())
        self.started.set_result(self._door.address[1])

    @property
    def _doors(self) -> list[Door]:
        return [self._door, *([self._calls.door] if self._calls.door else []), *self._cluster.doors]

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
            systemd.ready(self._condition.summary())

    # What is asked of it, and what follows an outcome.

    async def _status(self) -> dict[str, Any]:
        kept_in = self._keeper.kept_in if self._keeper is not None else None
        return await self._condition.status(stopping=self._stop.is_set(), kept_in=kept_in)

    def _follow(self, outcome: Outcome) -> None:
        generation = self._current.generation
        if generation is None:
            return
        if outcome.result is Result.APPLIED:
            self._logs.level = generation.settings.logging.level
            self._decisions.decisions = generation.settings.logging.decisions
            self._expiry.look()
        if outcome.result in {Result.APPLIED, Result.REFUSED}:
            # Refused as well: what came in under a generation that was taken back is judged anew.
            self._ledger.rotated(generation)
        if not self._stop.is_set():
            systemd.notify(STATUS=self._condition.summary())

    def _generation(self) -> Generation:
        generation = self._current.generation
        if generation is None:
            raise RuntimeError("asked before the first generation")
        return generation

    async def _verify(self, serving: Serving) -> str | None:
        """Through each door that has TLS: the first that shows something else is enough."""
        for door in (self._door, self._calls.door, self._cluster.door):
            if door is None or self._stop.is_set():
                continue
            reason = await _reason_against(serving, door)
            if reason is not None:
                return reason
        return None

    # Stop.

    async def _drain(self) -> None:
        systemd.stopping("draining")
        self._door.close()
        self._calls.close()
        drained = asyncio.create_task(self._finish_connections())
        cut = asyncio.create_task(self._cut.wait())
        await asyncio.wait({drained, cut}, return_when=asyncio.FIRST_COMPLETED)
        left = drained.result() if drained.done() else await self._cut_connections()
        for task in (drained, cut):
            task.cancel()
        if left:
            log.warning("daemon.cut", connections=left)

    async def _finish_connections(self) -> int:
        """A handshake that hangs delays nobody else; connections that come of one are drained after it."""
        now, within = asyncio.get_running_loop().time, self._settings.service.drain_timeout
        deadline = now() + within
        cut, _ = await asyncio.gather(self._drain_gateways(within), self._finish_handshakes(within))
        cut += await self._drain_gateways(max(0.0, deadline - now()))
        # The service may need its peers for the answers that it had to finish: tunnels end last.
        return cut + await self._cluster.drain(max(0.0, min(TUNNELS_END, deadline - now())))

    async def _cut_connections(self) -> int:
        return await self._drain_gateways(0) + await self._cluster.drain(0)

    async def _drain_gateways(self, within: float) -> int:
        return sum(await asyncio.gather(self._gateway.drain(within), self._calls.drain(within)))

    async def _finish_handshakes(self, within: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(within):
                await asyncio.gather(self._door.closed(), self._calls.closed())

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._reloader.close()
        if self._scrapes is not None:
            await self._scrapes.stop()
        if self._admin is not None:
            await self._admin.stop()
        await self._pools.close()
        self._decisions.close()
        self._handshakes.close()
        self._calls.end()
        if self._keeper is not None:
            await self._keeper.close()
        log.info("daemon.stopped")


def _metrics(current: Current, ledger: Ledger, evidence: Evidence, logs: Logs) -> Metrics:
    return Metrics(
        version=__version__,
        generation=lambda: current.generation,
        connections=ledger.per_generation,
        last_used=evidence.last_used,
        lost_lines=logs.lost,
    )


async def _reason_against(serving: Serving, door: Door) -> str | None:
    """Does a client that comes in by our own door see the new certificate? None where it does."""
    generation = serving.generation
    if not door.tls or generation.default is None:
        return None
    name = next((n.replace("*", "probe") for n in generation.default.leaf.dns_names), None)
    strict = generation.settings.tls.strict_sni
    if strict and name is None:
        return None
    shown = {material.leaf.sha256 for material in choose(generation.certificates, name, strict=strict)}
    try:
        return await reason_against(shown, *door.address, name, announce=door.expect_probe)
    finally:
        door.forget_probes()


def _listener(name: str, address: tuple[str, int], *, tls: bool) -> dict[str, object]:
    host, port = address
    return {"name": name, "host": host, "port": port, "tls": tls}


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
