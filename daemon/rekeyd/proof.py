"""What a client would find at our own doors: is it what is served, and is there anybody at all?

The rules: both are found out by coming in as a client does. `reason_against` looks at what is shown, and
where nothing is shown (overload, a sandbox) it has nothing against it. `Pulse` looks at whether a door still
lets anybody in, and there silence counts: through TLS with a whole handshake, in plaintext with a connection
that was accepted and handed to what serves. A door is not dead because it is busy: one that is full, or that
let in somebody else meanwhile, lives. One that could never be reached from here, as from a network namespace
of its own, is told of once and not judged: what was never proven can't be missed.

Must not know: what follows.
"""

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

import structlog

from rekeyd.listeners.door import Door
from rekeyd.reload import probe
from rekeyd.reload.current import Serving
from rekeyd.reload.probe import Announce, UnprovenError, enter, fingerprint_shown
from rekeyd.trust.names import choose

log = structlog.get_logger()


async def reason_against(serving: Serving, door: Door) -> str | None:
    """Why what a door shows is not what is served; None where it is, or where nothing is known."""
    generation = serving.generation
    if not door.tls or generation.default is None:
        return None
    name, strict = _name_to_ask_for(serving), generation.settings.tls.strict_sni
    if strict and name is None:
        return None
    shown = {material.leaf.sha256 for material in choose(generation.certificates, name, strict=strict)}
    with _expected(door) as (announce, _):
        return await probe.reason_against(shown, *door.address, name, announce=announce)


class Pulse:
    """Remembers which doors let somebody in that came from here."""

    def __init__(self) -> None:
        self._proven: set[str] = set()
        self._blind: set[str] = set()

    async def reason_for_doubt(self, serving: Serving, doors: Iterable[Door], within: float) -> str | None:
        """Why a door seems dead, after `within` seconds at most; None where all live."""
        reasons = await asyncio.gather(*(self._look(serving, door, within) for door in doors))
        return next(filter(None, reasons), None)

    async def _look(self, serving: Serving, door: Door, within: float) -> str | None:
        guests = door.let_in
        if door.is_full:
            return None
        try:
            await _come_in(serving, door, within)
        except (UnprovenError, OSError) as error:
            if door.is_full or door.let_in != guests:
                return None
            if door.name in self._proven:
                return f"the listener {door.name} lets nobody in: {error}"
            self._tell_that_nothing_is_known(door, error)
        else:
            self._proven.add(door.name)
        return None

    def _tell_that_nothing_is_known(self, door: Door, error: Exception) -> None:
        if door.name not in self._blind:
            self._blind.add(door.name)
            log.warning(
                "watchdog.blind",
                listener=door.name,
                problem=f"it can't be found out whether it lives: {error}",
                fix="Let the service connect to its own listeners, if the watchdog is to look at them",
            )


async def _come_in(serving: Serving, door: Door, within: float) -> None:
    host, port = door.address
    with _expected(door) as (announce, let_in):
        if not door.tls:
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


@contextlib.contextmanager
def _expected(door: Door) -> Iterator[tuple[Announce, asyncio.Event]]:
    """For a connection of our own: whom to tell where it comes from, and what is set when it was let in."""
    let_in = asyncio.Event()
    addresses: list[tuple[str, int]] = []

    async def announce(address: tuple[str, int]) -> None:
        addresses.append(address)
        door.expect_probe(address, let_in)

    try:
        yield announce, let_in
    finally:
        for address in addresses:
            door.forget_probe(address)
