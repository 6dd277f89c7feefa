"""A worker: a process that serves what the supervisor hands it, and reads no file of its own.

The rules: a generation is taken over from a sealed snapshot, built and proved here, and served when the
supervisor says so, never before. Of signals SIGTERM alone is heard: with it a worker asks to be replaced, and
leaves when its connections have ended. Where the supervisor is gone it takes no more connections, finishes
those that it has, and ends. What it counts it tells when asked.

Must not know: files, why a generation changes, or how many other workers there are.
"""

import asyncio
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from rekeyd.errors import RekeydError
from rekeyd.front import Front, build
from rekeyd.reload.current import Current, Serving
from rekeyd.reload.interpretation import Interpreter
from rekeyd.reload.sealed import SealError, unseal
from rekeyd.settings import Parsed, Settings, parse
from rekeyd.system import process
from rekeyd.system.event_loop import loop_factory
from rekeyd.system.sockets import Sockets, sockets_of
from rekeyd.telemetry.audit import open_audit
from rekeyd.telemetry.evidence import usage_as_kept
from rekeyd.telemetry.logs import Logs, configure, open_log
from rekeyd.telemetry.totals import as_json
from rekeyd.upstream.connection import UpstreamError
from rekeyd.workers.channel import Channel, Message

SERVED, LEFT_ALONE = 0, 1
"""Exit statuses; the second where the supervisor went without a word."""


class Worker:
    """One worker, from `run` to its end. `descriptor` is its end of the channel."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._current = Current()
        self._interpreter = Interpreter()
        self._prepared: dict[int, Serving] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._expected: dict[tuple[str, int], asyncio.Task[None]] = {}
        self._over = asyncio.Event()
        self._alone = False
        self._hearing: asyncio.Task[None] | None = None
        self._settings: Settings
        self._front: Front
        self._logs: Logs | None = None
        self._does: Mapping[str, Callable[[Message], Awaitable[Any]]] = {
            "begin": self._begin,
            "prepare": self._prepare,
            "publish": self._publish,
            "open": self._open,
            "expect": self._expect,
            "traffic": self._traffic,
            "report": self._report,
            "counts": self._counts,
            "hear": self._hear,
            "close": self._close,
            "drain": self._drain,
            "cut": self._cut,
            "end": self._end,
        }

    async def run(self) -> int:
        """Serve until the supervisor says that it is enough; the exit status."""
        end = socket.socket(fileno=self._descriptor)
        self._channel = Channel(end, heard=self._heard, ended=self._left_alone)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, lambda: self._channel.tell("leaving"))
        for number in (signal.SIGINT, signal.SIGHUP):
            loop.add_signal_handler(number, lambda: None)
        await self._over.wait()
        if self._alone:
            await self._finish_alone()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._channel.close()
        return LEFT_ALONE if self._alone else SERVED

    def close(self) -> None:
        """Write what is yet to be written. After the loop has ended."""
        if self._logs is not None:
            self._logs.close()

    # What is asked of it.

    def _heard(self, message: Message) -> None:
        task = asyncio.get_running_loop().create_task(self._do(message), name=message.kind)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _do(self, message: Message) -> None:
        try:
            answer = await self._does[message.kind](message)
        except (OSError, RekeydError, UpstreamError) as error:
            answer = {"problem": str(error)}
        except Exception as error:  # noqa: BLE001 - the supervisor decides what follows; its words may hold anything
            answer = {"problem": f"an unexpected {type(error).__name__}"}
        finally:
            if message.descriptor is not None:
                os.close(message.descriptor)
        try:
            self._channel.answer(message, answer)
        except OSError as error:  # no memory for a large one; a word is better than silence, which is death
            self._channel.answer(message, {"problem": f"the answer can't be sent ({error.strerror})"})

    async def _begin(self, message: Message) -> None:
        parsed = parse(message.body["source"].encode(), file=Path(message.body["file"]), environ=os.environ)
        self._settings = settings = parsed.settings
        self._logs = logs = self._configure_logs(parsed)
        self._sockets: Sockets = sockets_of(message.body["sockets"].items())
        self._front = Front(settings, current=self._current, logs=logs, sockets=self._sockets)

    def _configure_logs(self, parsed: Parsed) -> Logs:
        logging = parsed.settings.logging
        return configure(
            format=logging.format,
            level=logging.level,
            generation=lambda: self._current.number,
            sink=open_log(parsed, sys.stdout.fileno(), os.environ, shared=True),
            audit=open_audit(parsed, shared=True),
        )

    async def _prepare(self, message: Message) -> None:
        number, descriptor = message.body["number"], message.descriptor
        self._prepared.pop(number, None)  # a number is given again where what had it was published by none
        if descriptor is None:
            raise SealError("nothing came along")
        self._prepared[number] = await asyncio.to_thread(self._made, number, descriptor)

    def _made(self, number: int, descriptor: int) -> Serving:
        snapshot = unseal(descriptor, running=self._settings).snapshot
        return build(self._interpreter.candidate(snapshot).generation(number))

    async def _publish(self, message: Message) -> None:
        """What was published before is kept, should it have to come back."""
        serving = self._prepared[message.body["number"]]
        before = self._current.serving
        later = before is None or serving.generation.number > before.generation.number
        if later:
            self._current.publish(serving)
        else:
            self._current.restore(serving)
        kept = {serving.generation.number, before.generation.number if before is not None else 0}
        self._prepared = {number: each for number, each in self._prepared.items() if number in kept}
        self._front.follow(serving.generation, changed=later)

    async def _open(self, _: Message) -> None:
        await self._front.open()
        process.keep_for_good()

    async def _expect(self, message: Message) -> None:
        """The supervisor comes in as a client does, to whichever worker; `over`: it doesn't any more."""
        door = self._front.own_doors[message.body["door"]]
        host, port = message.body["address"]
        task = self._expected.pop((host, port), None)
        if task is not None:
            task.cancel()
        door.forget_probe((host, port))
        if not message.body["over"]:
            let_in = asyncio.Event()
            door.expect_probe((host, port), let_in)
            self._expected[host, port] = asyncio.create_task(self._tell_when(let_in, (host, port)))

    async def _tell_when(self, let_in: asyncio.Event, address: tuple[str, int]) -> None:
        await let_in.wait()
        self._channel.tell("let_in", address)

    async def _traffic(self, _: Message) -> dict[str, Any]:
        return {name: [door.is_full, door.let_in] for name, door in self._front.own_doors.items()}

    async def _report(self, _: Message) -> dict[str, Any]:
        return (await self._front.report()).as_json()

    async def _counts(self, _: Message) -> dict[str, Any]:
        usage = usage_as_kept(self._front.evidence.take())
        return {
            "connections": self._front.connections,
            "metrics": as_json(self._front.metrics.families()),
            "usage": usage.decode(),
        }

    async def _hear(self, message: Message) -> None:
        """Whether somebody listens at the supervisor to what is told here."""
        if self._hearing is not None:
            self._hearing.cancel()
            self._hearing = None
        if message.body:
            self._hearing = asyncio.get_running_loop().create_task(self._pass_on(), name="hub")

    async def _pass_on(self) -> None:
        """What the supervisor is too slow for waits in the hub, which counts what it has no room for."""
        if self._logs is not None:
            async with self._logs.hub.subscribe() as subscription:
                async for heard in subscription:
                    self._channel.tell("heard", [heard.name, heard.line.decode()])
                    await self._channel.all_sent()

    # How it ends.

    async def _close(self, _: Message) -> None:
        self._front.close()

    async def _drain(self, message: Message) -> int:
        self._front.close()
        return await self._front.drain(message.body)

    async def _cut(self, _: Message) -> int:
        return await self._front.cut()

    async def _end(self, message: Message) -> dict[str, Any]:
        await self._front.end()
        self._over.set()
        return await self._counts(message)

    def _left_alone(self) -> None:
        self._alone = True
        self._over.set()

    async def _finish_alone(self) -> None:
        if self._logs is not None and self._current.serving is not None:
            self._front.close()
            await self._front.drain(self._settings.service.drain_timeout)
            await self._front.end()


def work(descriptor: int) -> int:
    """The process: what it does from its start to its exit status."""
    process.settle()

    worker: Worker | None = None

    async def run() -> int:
        nonlocal worker
        worker = Worker(descriptor)
        return await worker.run()

    try:
        with asyncio.Runner(loop_factory=loop_factory(os.environ)) as runner:
            return runner.run(run())
    finally:
        if worker is not None:
            worker.close()
