"""What is known of one request while it is served, and what is told of it in the end.

The rule: a visit is filled in as its request comes along, and read once, when its line is written. It holds
no secret: a path is told without its query and fragment, in which people put keys.

Must not know: how a request is served.
"""

from dataclasses import dataclass

from aiohttp import web

from rekeyd.access.verdict import Allowed, Denied
from rekeyd.http1 import forwarding
from rekeyd.http1.introduction import introduced
from rekeyd.http1.request import Field, Request, printable
from rekeyd.http1.response import SWITCHING_PROTOCOLS
from rekeyd.listeners.http.protocol import GatewayProtocol
from rekeyd.system.peers import address_of
from rekeyd.telemetry.decisions import Decision
from rekeyd.trust.generation import Generation
from rekeyd.upstream.relay import Relay

_OPEN_TO_ALL = frozenset({"health", "preflight"})


@dataclass(slots=True)
class Visit:
    """One request. `started` is in monotonic seconds; `reason` says why where there is no verdict."""

    started: float
    generation: Generation
    connection: GatewayProtocol
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
    relay: Relay | None = None

    @classmethod
    def begin(cls, connection: GatewayProtocol, generation: Generation, now: float) -> "Visit":
        transport = connection.transport
        peer = address_of(transport.get_extra_info("peername") if transport is not None else None)
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        return cls(now, generation, connection, peer, peer, tls.version() if tls is not None else None)

    @property
    def told(self) -> int | None:
        """The status that the client got to see."""
        return self.status if self.status is not None or self.relay is None else self.relay.status

    @property
    def is_tunnel(self) -> bool:
        return self.told == SWITCHING_PROTOCOLS

    def asks_for(self, raw: web.BaseRequest) -> bytes:
        """Note what was asked; the target, as it came."""
        target = raw.raw_path.encode("utf-8", "surrogateescape")
        self.method = raw.method
        if target.startswith(b"/"):  # another form may hold a password
            self.path = printable(target)
        return target

    def decision(self, now: float) -> Decision:
        """The line that is written of it."""
        verdict = self.verdict
        allowed = isinstance(verdict, Allowed) or self.reason in _OPEN_TO_ALL
        credential = verdict.credential if verdict is not None else None
        return Decision(
            decision="allowed" if allowed else "denied",
            reason=verdict.reason if verdict is not None else self.reason,
            key_id=verdict.key_id if verdict is not None else None,
            right_needed=verdict.needed if verdict is not None else None,
            method=self.method or None,
            path=self.path or None,
            status=self.told,
            client=self.client,
            request_id=self.request_id or None,
            duration=now - self.started,
            tls=self.tls,
            generation=self.generation.number,
            failure=self.failure,
            client_certificate=self.connection.identity,
            connection_generation=self._older(),
            subject=credential.subject if credential is not None else None,
            token_id=credential.token_id if credential is not None else None,
        )

    def _older(self) -> int | None:
        """The generation of the connection, where the request was judged by a later one."""
        number = self.connection.generation.number
        return number if number != self.generation.number else None

    def onward(self, request: Request, origin: forwarding.Origin, verdict: Allowed) -> bytes:
        """The head that goes to the upstream."""
        upstream = self.generation.settings.upstream
        added: list[Field] = []
        if upstream.api_key is not None:
            added.append((b"api-key", upstream.api_key.get_secret_value().encode()))
        address = upstream.http
        if upstream.identity_headers or (address is not None and address.scheme == "demo"):
            added += self._introduced(verdict)
        return forwarding.onward(
            request,
            origin,
            request_id=self.request_id.encode(),
            default_authority=address.authority.encode() if address is not None else b"",
            added=added,
            keep_credentials=self.generation.passes_credentials,
        )

    def _introduced(self, verdict: Allowed) -> list[Field]:
        transport = self.connection.transport
        tls = transport.get_extra_info("ssl_object") if transport is not None else None
        return introduced(
            verdict,
            tls=tls.version() if tls is not None else None,
            cipher=tls.cipher()[0] if tls is not None else None,
            certificate=self.connection.identity,
        )
