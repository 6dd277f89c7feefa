"""What a client would find at our own doors: is it what is served, and is there anybody at all?

The rules: both are found out by coming in as a client does. `reason_against` looks at what is shown, and
where nothing is shown (overload, a sandbox) it has nothing against it. `Pulse` looks at whether a door still
lets anybody in, and there silence counts: through TLS with a whole handshake, in plaintext with a connection
that was accepted and handed to what serves. A door is not dead because it is busy: one that is full, or that
let in somebody else meanwhile, lives. One that could never be reached from here, as from a network namespace
of its own, is told of once and not judged: what was never proven can't be missed.

A way in is a door of this process, or a place where other processes have theirs (`Way`). Must not know: what
follows.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Protocol

import structlog

from rekeyd.listeners.door import Door
from rekeyd.reload import probe
from rekeyd.reload.current import Serving
from rekeyd.reload.probe import Announce, UnprovenError, enter, fingerprint_shown
from rekeyd.trust.names import choose

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Traffic:
    """Whether whoever comes now has to wait, and how many clients have been let in so far."""

    full: bool
    let_in: int


class Way(Protocol):
    """Where clients come in."""

    @property
    def name(self) -> str: ...

    @property
    def tls(self) -> bool: ...

    @property
    def address(self) -> tuple[str, int]: ...

    async def traffic(self) -> Traffic: ...

    def expecting(self) -> AbstractAsyncContextManager[tuple[Announce, asyncio.Event]]:
        """For a connection of our own: whom to tell where it comes from; set when it was let in."""


@dataclass(frozen=True, slots=True)
class DoorWay:
    """A door of this process."""

    door: Door

    @property
    def name(self) -> str:
        return self.door.name

    @property
    def tls(self) -> bool:
        return self.door.tls

    @property
    def address(self) -> tuple[str, int]:
        return self.door.address

    async def traffic(self) -> Traffic:
        return Traffic(self.door.is_full, self.door.let_in)

    @contextlib.asynccontextmanager
    async def expecting(self) -> AsyncIterator[tuple[Announce, asyncio.Event]]:
        let_in = asyncio.Event()
        addresses: list[tuple[str, int]] = []

        async def announce(address: tuple[str, int]) -> None:
            addresses.append(address)
            self.door.expect_probe(address, let_in)

        try:
            yield announce, let_in
        finally:
            for address in addresses:
                self.door.forget_probe(address)


async def reason_against(serving: Serving, way: Way) -> str | None:
    """Why what is shown there is not what is served; None where it is, or where nothing is known."""
    generation = serving.generation
    if not way.tls or generation.default is None:
        return None
    name, strict = _name_to_ask_for(serving), generation.settings.tls.strict_sni
    if strict and name is None:
        return None
    shown = {material.leaf.sha256 for material in choose(generation.certificates, name, strict=strict)}
    async with way.expecting() as (announce, _):
        return await probe.reason_against(shown, *way.address, name, announce=announce)


async def reason_against_any(serving: Serving, ways: Iterable[Way]) -> str | None:
    """`reason_against` the first way that shows something else; None where all show what is served."""
    for way in ways:
        if (reason := await reason_against(serving, way)) is not None:
            return reason
    return None


class Pulse:
    """Remembers which doors let somebody in that came from here."""

    def __init__(self) -> None:
        self._proven: set[str] = set()
        self._blind: set[str] = set()

    async def reason_for_doubt(self, serving: Serving, ways: Iterable[Way], within: float) -> str | None:
        """Why one seems dead, after `within` seconds at most; None where all live."""
        reasons = await asyncio.gather(*(self._look(serving, way, within) for way in ways))
        return next(filter(None, reasons), None)

    async def _look(self, serving: Serving, way: Way, within: float) -> str | None:
        before = await way.traffic()
        if before.full:
            return None
        try:
            await _come_in(serving, way, within)
        except (UnprovenError, OSError) as error:
            now = await way.traffic()
            if now.full or now.let_in != before.let_in:
                return None
            if way.name in self._proven:
                return f"the listener {way.name} lets nobody in: {error}"
            self._tell_that_nothing_is_known(way.name, error)
        else:
            self._proven.add(way.name)
        return None

    def _tell_that_nothing_is_known(self, name: str, error: Exception) -> None:
        if name not in self._blind:
            self._blind.add(name)
            log.warning(
                "watchdog.blind",
                listener=name,
                problem=f"it can't be found out whether it lives: {error}",
                fix="Let the service connect to its own listeners, if the watchdog is to look at them",
            )


async def _come_in(serving: Serving, way: Way, within: float) -> None:
    host, port = way.address
    async with way.expecting() as (announce, let_in):
        if not way.tls:
            await enter(host, port, let_in, timeout=within, announce=announce)
            return
        name = _name_to_ask_for(serving)
        if name is None and serving.generation.settings.tls.strict_sni:
            raise UnprovenError("no certificate has a name that could be asked for")
        await fingerprint_shown(host, port, name, timeout=within, announce=announce)


def _name_to_ask_for(serving: Serving) -> str | None:
    """A name of the default certificate, where it has any."""
    default = serving.generation.default
    names = default.leaf.dns_names if default is not None else ()
    return next((name.replace("*", "probe") for name in names), None)
