"""What is known of one request while it is served, and what is told of it in the end.

The rule: a visit is filled in as its request comes along, and read once, when its line is written. It holds
no secret: a path is told without its query and fragment, in which people put keys.

Must not know: how a request is served.
"""

from dataclasses import dataclass
from typing import Protocol

from rekeyd.access.verdict import Allowed, Denied
from rekeyd.http1 import forwarding
from rekeyd.http1.introduction import introduced
from rekeyd.http1.request import Field, Request, printable
from rekeyd.http1.response import SWITCHING_PROTOCOLS
from rekeyd.telemetry.decisions import Decision
from rekeyd.trust.generation import Generation

_OPEN_TO_ALL = frozenset({"health", "preflight"})


class Guest(Protocol):
    """A client's connection, as far as a visit tells of it."""

    @property
    def generation(self) -> Generation:
        """The one under which the connection was accepted."""

    @property
    def identity(self) -> str | None:
        """What to call the client by its certificate."""

    @property
    def peer(self) -> str:
        """Its address, without the port."""

    @property
    def tls(self) -> str | None:
        """The version, such as `TLSv1.3`; None in the clear."""

    @property
    def cipher(self) -> str | None: ...

    @property
    def retiring(self) -> bool:
        """Whether the answer at hand is the last."""

    @property
    def cut_for(self) -> str | None:
        """Why it was cut, if it was."""


class Passing(Protocol):
    """What passes an answer on: `status` is what the client got to see of it."""

    @property
    def status(self) -> int | None: ...


@dataclass(slots=True)
class Visit:
    """One request. `started` is in monotonic seconds; `reason` says why where there is no verdict."""

    started: float
    generation: Generation
    connection: Guest
    peer: str
    client: str
    tls: str | None
    request_id: str = ""
    method: str = ""
    path: str = ""
    verdict: Allowed | Denied | None = None
    reason: str = ""
    status: int | None = None
    failure: str | None = None
    relay: Passing | None = None

    @property
    def told(self) -> int | None:
        """The status that the client got to see."""
        return self.status if self.status is not None or self.relay is None else self.relay.status

    @property
    def is_tunnel(self) -> bool:
        return self.told == SWITCHING_PROTOCOLS

    def asks_for(self, method: str, target: bytes) -> None:
        """Note what was asked; the target as it came."""
        self.method = method
        if target.startswith(b"/"):  # another form may hold a password
            self.path = printable(target)

    def decision(self, now: float) -> Decision:
        """The line that is written of it."""
        verdict, status, number = self.verdict, self.status, self.generation.number
        allowed = isinstance(verdict, Allowed) or self.reason in _OPEN_TO_ALL
        credential = verdict.credential if verdict is not None else None
        older = self.connection.generation.number
        # By place, in the order of `Decision`: one is made for every request.
        return Decision(
            "allowed" if allowed else "denied",
            self.reason if verdict is None else verdict.reason,
            None if credential is None else credential.id,
            None if verdict is None else verdict.needed,
            self.method or None,
            self.path or None,
            status if status is not None else self.told,
            self.client,
            self.request_id or None,
            now - self.started,
            self.tls,
            number,
            self.failure,
            self.connection.identity,
            older if older != number else None,
            None if credential is None else credential.subject,
            None if credential is None else credential.token_id,
        )

    def onward(self, request: Request, origin: forwarding.Origin, verdict: Allowed) -> bytes:
        """The head that goes to the upstream."""
        return forwarding.with_id(self.around_id(request, origin, verdict), self.request_id.encode())

    def around_id(self, request: Request, origin: forwarding.Origin, verdict: Allowed) -> tuple[bytes, bytes]:
        """The same but for the request's id. It is alike for all requests that are, and were let in alike."""
        upstream = self.generation.settings.upstream
        added: list[Field] = []
        if upstream.api_key is not None:
            added.append((b"api-key", upstream.api_key.get_secret_value().encode()))
        address = upstream.http
        if upstream.identity_headers or (address is not None and address.scheme == "demo"):
            guest = self.connection
            added += introduced(verdict, tls=guest.tls, cipher=guest.cipher, certificate=guest.identity)
        return forwarding.around_id(
            request,
            origin,
            default_authority=address.authority.encode() if address is not None else b"",
            added=added,
            keep_credentials=self.generation.passes_credentials,
        )
