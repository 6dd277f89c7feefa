"""A handshake with the own listener over TCP, as any client makes it: which certificate is shown there?

The rules: only an answer counts. A listener that shows another certificate, or breaks the handshake off, has
failed; one that is merely slow or gone (overloaded, draining), or that can't be reached from here (a sandbox,
a network namespace of its own), proves nothing, which is logged and no more. The client believes everything,
has no certificate of its own and speaks TLS 1.3, in which it is through before a server that requires one
objects (RFC 8446, 2). Must not know: generations, or what follows.
"""

import asyncio
import contextlib
import hashlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Collection

import structlog

from rekeyd.errors import RekeydError
from rekeyd.system.error_queue import tidy

TIMEOUT = 2.0
"""Seconds for one handshake."""

_CLOSING = 0.5
_WILDCARDS = {"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - listened on, not bound here

log = structlog.get_logger()


Announce = Callable[[tuple[str, int]], Awaitable[None]]
"""Gets the address that a connection comes from before it is made, so that who listens may tell it from a
client's."""


class UnprovenError(RekeydError):
    """The listener did not answer in time, or is not there: nothing is known about what it shows."""


async def _unannounced(_: tuple[str, int]) -> None:
    """Who listens is not told."""


async def reason_against(
    expected: Collection[str],
    host: str,
    port: int,
    server_name: str | None = None,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - running out of it is an answer of its own here
    announce: Announce = _unannounced,
) -> str | None:
    """Why the listener does not show one of `expected` (SHA-256 of the DER, hex).

    None where it is, and where nothing is known, which is logged. See `fingerprint_shown`.
    """
    try:
        shown = await fingerprint_shown(host, port, server_name, timeout=timeout, announce=announce)
    except UnprovenError as unproven:
        log.warning(
            "probe.unproven", reason=str(unproven), listener=f"{host}:{port}", server_name=server_name
        )
        return None
    except OSError as error:
        return f"the handshake broke off ({_reason(error)})"
    return None if shown in expected else f"it showed the certificate {shown}"


async def fingerprint_shown(
    host: str,
    port: int,
    server_name: str | None = None,
    *,
    timeout: float = TIMEOUT,  # noqa: ASYNC109 - running out of it is an answer of its own here
    announce: Announce = _unannounced,
) -> str:
    """SHA-256 of the leaf that is shown on `host` and `port` to a client that asks for `server_name`.

    `host` is an address; where it is a wildcard, loopback is asked. None as `server_name` sends no SNI.

    Raises:
        UnprovenError: not within `timeout` seconds, or there is no connection to it at all.
        OSError: the handshake failed; `ssl.SSLError` says why.
    """
    async with _within(timeout, "handshake"):
        return await _shake_hands(await _connected(host, port, announce), server_name)


async def enter(
    host: str,
    port: int,
    let_in: asyncio.Event,
    *,
    timeout: float,  # noqa: ASYNC109 - as above
    announce: Announce,
) -> None:
    """Connect to a listener that speaks plaintext, and go when `let_in` says that it let us in.

    Raises:
        UnprovenError: as above.
    """
    async with _within(timeout, "connection that was let in"):
        with await _connected(host, port, announce):
            await let_in.wait()


@contextlib.asynccontextmanager
async def _within(seconds: float, what: str) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise UnprovenError(f"no {what} within {seconds:g} seconds") from None


async def _connected(host: str, port: int, announce: Announce) -> socket.socket:
    """To `host`, or to loopback where that is a wildcard."""
    address = _WILDCARDS.get(host, host)
    with contextlib.ExitStack() as undo:
        try:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            channel = undo.enter_context(socket.socket(family, socket.SOCK_STREAM))
            channel.setblocking(False)
            channel.bind((address, 0))
            await announce(channel.getsockname()[:2])
            await asyncio.get_running_loop().sock_connect(channel, (address, port))
        except ConnectionRefusedError:
            raise UnprovenError("nobody listens") from None
        except OSError as error:
            raise UnprovenError(f"it can't be reached from here ({_reason(error)})") from None
        undo.pop_all()
    return channel


async def _shake_hands(channel: socket.socket, server_name: str | None) -> str:
    try:
        _, writer = await asyncio.open_connection(
            sock=channel, ssl=_credulous(), server_hostname=server_name or ""
        )
    except BaseException:
        channel.close()
        raise
    try:
        der = writer.get_extra_info("ssl_object").getpeercert(binary_form=True)
        return hashlib.sha256(der or b"").hexdigest()
    finally:
        await _close(writer)


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        async with asyncio.timeout(_CLOSING):
            await writer.wait_closed()


def _credulous() -> ssl.SSLContext:
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    client.set_alpn_protocols(["http/1.1"])
    return tidy(client)


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.lower()
    return type(error).__name__
