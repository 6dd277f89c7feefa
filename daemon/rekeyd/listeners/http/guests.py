"""The open connections of a gateway: who comes in, who leaves, and which lane each is in.

The rule: whom OpenSSL let in may still have no place here (`tls.allowed_clients`); so who comes is looked at
once more, and enters the ledger only then.

Must not know: what is asked on a connection.
"""

import asyncio
from collections.abc import Callable
from typing import Protocol

from rekeyd.ledger import Entry, Ledger
from rekeyd.listeners.http.visit import Guest as Described
from rekeyd.system.peers import address_of
from rekeyd.trust.clients import ClientIdentity, objection
from rekeyd.trust.generation import Generation


class Credentials:
    """What is known of a client once the handshake is done, and stays true for as long as it is connected."""

    __slots__ = ("_ssl", "certificate", "identity", "peer", "tls")

    def __init__(self, transport: asyncio.BaseTransport) -> None:
        self._ssl = tls = transport.get_extra_info("ssl_object")
        self.peer = address_of(transport.get_extra_info("peername"))
        self.certificate: bytes | None = tls.getpeercert(binary_form=True) if tls is not None else None
        self.tls: str | None = tls.version() if tls is not None else None
        self.identity = str(ClientIdentity.of_der(self.certificate)) if self.certificate else None

    @property
    def cipher(self) -> str | None:
        """Asked for where the upstream is told of it, which is rare."""
        agreed = self._ssl.cipher() if self._ssl is not None else None
        return agreed[0] if agreed is not None else None


class Guest(Described, Protocol):
    """A client's connection, in whichever lane."""

    entry: Entry | None
    wire: asyncio.Transport | None

    @property
    def full(self) -> bool:
        """Whether the client takes no more for now."""

    def retire(self) -> None: ...

    def cut(self, why: str) -> None: ...

    def abort(self) -> None: ...

    def finish(self, *, newcomers_too: bool) -> None: ...


class Guests:
    """Knows those that are open."""

    def __init__(
        self, ledger: Ledger, turned_away: Callable[[Guest, str], None], left: Callable[[], None]
    ) -> None:
        self.open: set[Guest] = set()
        self.emptied = asyncio.Event()
        self.emptied.set()
        self._ledger = ledger
        self._turned_away = turned_away
        self._left = left

    def came(self, guest: Guest, generation: Generation, known: Credentials) -> None:
        """A handshake is done."""
        self.open.add(guest)
        self.emptied.clear()
        why = objection(generation, known.certificate) if known.tls is not None else None
        if why is not None:
            self._turned_away(guest, why)
            guest.cut(why)
        else:
            guest.entry = self._ledger.enter(guest, generation, known.certificate)

    def moved(self, old: Guest, new: Guest) -> None:
        """The connection goes on in the other lane."""
        self.open.discard(old)
        self.open.add(new)
        entry, old.entry = old.entry, None
        new.entry = entry
        if entry is not None:
            entry.connection = new

    def went(self, guest: Guest) -> None:
        """Its connection is lost. Entry and guest hold each other until then, and would wait for the garbage
        collector together."""
        self.open.discard(guest)
        entry, guest.entry = guest.entry, None
        if entry is not None:
            self._ledger.leave(entry)
        if not self.open:
            self.emptied.set()
        self._left()
