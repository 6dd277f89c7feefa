"""What is known of one call while it is served, what goes on of it, and what is told of it in the end.

The rules are those of HTTP's visits: filled in as the call comes along, read once, when its line is written;
without a secret. Must not know: how a call is served.
"""

import contextlib
from dataclasses import dataclass, field
from typing import Protocol

from rekeyd.access.verdict import Allowed, Denied, Reason
from rekeyd.http1 import forwarding
from rekeyd.http1.introduction import introduced
from rekeyd.http1.request import printable
from rekeyd.http2 import heads
from rekeyd.http2.fields import Field, encoded
from rekeyd.listeners.grpc.judging import Asked, Ruling
from rekeyd.telemetry.decisions import Decision
from rekeyd.trust.generation import Generation

_LONGEST_PATH = 1024
"""Bytes of a path that are told: HPACK lets a client say a long one again in a single byte."""


class Connection(Protocol):
    """The connection that a call came by. `tls` is its version, `cipher` its suite; `identity` what to call
    the client by its certificate."""

    @property
    def peer(self) -> str: ...

    @property
    def tls(self) -> str | None: ...

    @property
    def cipher(self) -> str | None: ...

    @property
    def identity(self) -> str | None: ...

    @property
    def generation(self) -> Generation: ...


@dataclass(slots=True)
class Visit:
    """One call. `started` is in monotonic seconds; `reason` says why where there is no verdict."""

    started: float
    generation: Generation
    connection: Connection
    client: str
    request_id: str = ""
    path: str = ""
    origin: forwarding.Origin | None = None
    verdict: Allowed | Denied | None = None
    reason: str = ""
    status: int | None = None
    grpc_status: int | None = None
    asked: Asked | None = None
    """Until there is a verdict: a call may last, and its fields be many."""
    ruling: Ruling | None = None
    rests: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    """Left when the call no longer rests on what let it in."""
    overruled: bool = False
    """Whether it was ended for what it sent, after it was let in."""

    def asks_for(self, call: heads.Call, request_id: str) -> None:
        """Note what is asked."""
        self.path = printable(call.path, most=_LONGEST_PATH)
        self.request_id = request_id
        self.origin = forwarding.origin_of(
            call,
            self.connection.peer,
            tls=self.connection.tls is not None,
            trusted=self.generation.settings.service.trusted_proxies,
        )
        self.client = self.origin.client

    @property
    def is_keyless(self) -> bool:
        """Whether it was let in without a key, where others need one."""
        verdict = self.verdict
        is_open = isinstance(verdict, Allowed) and verdict.reason is Reason.OPEN
        return is_open and not self.generation.open_to_all

    def decision(self, now: float, failure: str | None) -> Decision:
        """The line that is written of it."""
        verdict = self.verdict
        allowed = isinstance(verdict, Allowed) and not self.overruled
        credential = verdict.credential if verdict is not None else None
        number = self.connection.generation.number
        return Decision(
            decision="allowed" if allowed else "denied",
            reason=self.reason or (verdict.reason if verdict is not None else None),
            key_id=verdict.key_id if verdict is not None else None,
            right_needed=verdict.needed if verdict is not None else None,
            method="POST" if self.path else None,
            path=self.path or None,
            status=self.status,
            client=self.client,
            request_id=self.request_id or None,
            duration=now - self.started,
            tls=self.connection.tls,
            generation=self.generation.number,
            failure=failure,
            client_certificate=self.connection.identity,
            connection_generation=number if number != self.generation.number else None,
            subject=credential.subject if credential is not None else None,
            token_id=credential.token_id if credential is not None else None,
            grpc_status=self.grpc_status,
        )

    def onward(self, call: heads.Call, verdict: Allowed) -> bytes:
        """The head that goes to the upstream, as literals."""
        address, origin = self.generation.settings.upstream.grpc, self.origin
        on = heads.Onward(
            scheme=b"https" if address is not None and address.scheme == "https" else b"http",
            authority=address.authority.encode() if address is not None else b"",
            vouched=origin is not None and origin.vouched,
            keep_credentials=self.generation.passes_credentials,
        )
        return call.onward(on) + encoded(self._added(verdict))

    def _added(self, verdict: Allowed) -> list[Field]:
        upstream, origin = self.generation.settings.upstream, self.origin
        added = [(b"x-request-id", self.request_id.encode())]
        if origin is not None:
            added += [
                (b"x-forwarded-for", origin.forwarded_for),
                (b"x-forwarded-proto", origin.proto),
                (b"x-forwarded-host", origin.host),
            ]
        if upstream.api_key is not None:
            added.append((b"api-key", upstream.api_key.get_secret_value().encode()))
        if upstream.identity_headers:
            at = self.connection
            said = introduced(verdict, tls=at.tls, cipher=at.cipher, certificate=at.identity)
            added += [(name.lower(), value) for name, value in said]  # RFC 9113, 8.2.1
        return added
