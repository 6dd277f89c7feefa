"""The real process: who is let in by a client certificate, who is turned away, and who has to go."""

import asyncio
import signal
import socket
import ssl
import time
from pathlib import Path
from typing import Any

import pytest
from aiohttp import ClientSession, web
from prometheus_client.parser import text_string_to_metric_families

from conftest import StartDaemon
from support.daemon import Daemon, Event
from support.generations import API_KEY, Site
from support.live import Connection, configure, live_site, trusting, upstream
from support.pki import Authority, Leaf
from support.streams import WebSocket, ended, streaming

WITHIN = 5.0
"""Seconds in which an end must come where trust was taken away."""
TLS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
OLD_CA, NEW_CA = Authority("old client CA"), Authority("new client CA")
OLD = OLD_CA.issue("old.test", client=True)
NEW = NEW_CA.issue("new.test", client=True)
CONNECTION_ENDS = (ssl.SSLError, ConnectionError, asyncio.IncompleteReadError)


class Place:
    """A site whose clients are known by certificate, and the daemon that serves it."""

    def __init__(self, folder: Path) -> None:
        self.site: Site = live_site(folder)
        self.daemon: Daemon
        self._sections: dict[str, dict[str, Any]] = {
            "service": {"verify_https_client_certificate": True},
            "tls": {"ca_cert": "clients.pem", "watch": False},
            "metrics": {"port": 0},
        }

    def configure(self, **sections: dict[str, Any]) -> None:
        for name, values in sections.items():
            self._sections[name] = {**self._sections.get(name, {}), **values}
        configure(self.site, **self._sections)

    def believe(self, *authorities: Authority) -> None:
        (self.site.folder / "clients.pem").write_bytes(b"".join(a.pem for a in authorities))

    def revoke(self, *lists: bytes) -> None:
        (self.site.folder / "clients.crl").write_bytes(b"".join(lists))

    async def reload(self) -> Event:
        since = self.daemon.mark()
        self.daemon.signal(signal.SIGHUP)
        return await self.daemon.event("reload.applied", since=since, trigger="sighup")

    def client(self, leaf: Leaf | None = None, *, version: str | None = None) -> ssl.SSLContext:
        """A client that shows this certificate."""
        own = None
        if leaf is not None:
            own = self.site.folder / f"{leaf.serial}.pem"
            own.write_bytes(leaf.chain_pem + leaf.key_pem)
        context = trusting(self.site.authority, own=own)
        if version is not None:
            context.minimum_version = context.maximum_version = TLS[version]
        return context

    async def counts(self, name: str) -> dict[str, float]:
        """Samples of a metric by the value of their last label."""
        url = f"http://127.0.0.1:{self.daemon.port_of('metrics')}/metrics"
        async with ClientSession() as session, session.get(url) as response:
            families = text_string_to_metric_families(await response.text())
            samples = [sample for family in families for sample in family.samples if sample.name == name]
        return {list(sample.labels.values())[-1]: sample.value for sample in samples}


@pytest.fixture
async def place(start_daemon: StartDaemon, tmp_path: Path) -> Place:
    """Both authorities are believed, and a certificate is required."""
    place = Place(tmp_path)
    place.believe(OLD_CA, NEW_CA)
    place.configure()
    place.daemon = await start_daemon(place.site.file, secrets=[API_KEY])
    return place


async def refusal_of(place: Place, client: ssl.SSLContext) -> str:
    """Why a client can't get in, in OpenSSL's words; AssertionError where it can."""
    try:
        async with Connection.to(place.daemon, client) as connection:
            answer = await connection.ask()
    except ssl.SSLError as error:
        return error.reason or type(error).__name__
    except CONNECTION_ENDS as error:
        return type(error).__name__
    raise AssertionError(f"it got in: {answer}")


async def gets_in(place: Place, client: ssl.SSLContext) -> bool:
    async with Connection.to(place.daemon, client) as connection:
        return (await connection.ask()).status == 200


def visit(
    port: int, client: ssl.SSLContext, session: ssl.SSLSession | None
) -> tuple[bool | None, ssl.SSLSession | None]:
    """One request; whether the session was resumed, and the one to resume next time."""
    asked = f"GET /collections HTTP/1.1\r\nHost: h\r\napi-key: {API_KEY}\r\nConnection: close\r\n\r\n"
    with (
        socket.create_connection(("127.0.0.1", port), 10) as sock,
        client.wrap_socket(sock, server_hostname="localhost", session=session) as tls,
    ):
        tls.sendall(asked.encode())
        while tls.recv(65536):
            pass
        return tls.session_reused, tls.session


MEETINGS = 30
"""Connections among which the worker that is looked for is met, almost surely: the kernel chooses one."""


async def resumable(daemon: Daemon, client: ssl.SSLContext) -> ssl.SSLSession | None:
    """A session that was resumed. One resumes with the worker that it was made with and with no other."""
    _, session = await asyncio.to_thread(visit, daemon.port, client, None)
    for _ in range(1 if daemon.workers == 1 else MEETINGS):
        resumed, newer = await asyncio.to_thread(visit, daemon.port, client, session)
        if resumed:
            return newer
    raise AssertionError("none was resumed")


# What is taken away.


def without_the_authority(place: Place) -> None:
    place.believe(NEW_CA)


def with_it_revoked(place: Place) -> None:
    place.revoke(OLD_CA.crl(OLD), NEW_CA.crl())
    place.configure(tls={"crl": "clients.crl"})


def without_it_listed(place: Place) -> None:
    place.configure(tls={"allowed_clients": ["dns:new.test"]})


AUTHORITY = "the authority of its client certificate is not believed any more"
REVOKED = "its client certificate is revoked"
UNLISTED = "its client certificate is not among tls.allowed_clients"


@pytest.mark.parametrize(
    ("change", "reason"),
    [(without_the_authority, AUTHORITY), (with_it_revoked, REVOKED), (without_it_listed, UNLISTED)],
)
async def test_what_rests_on_a_certificate_that_lost_its_trust_ends_within_five_seconds(
    place: Place, change: Any, reason: str
) -> None:
    async with (
        WebSocket.to(place.daemon, place.client(OLD)) as socket,
        streaming(place.daemon, place.client(OLD)) as stream,
        Connection.to(place.daemon, place.client(OLD)) as idle,
        WebSocket.to(place.daemon, place.client(NEW)) as other,
    ):
        assert (await idle.ask()).status == 200
        change(place)
        await place.reload()
        began = time.monotonic()
        assert await socket.echo("not at once")
        assert await ended(idle, since=began) < 1
        ends = await asyncio.gather(ended(socket.connection, since=began), ended(stream, since=began))
        assert max(ends) < WITHIN, ends
        assert await other.echo("still here")
    lines = await place.daemon.several(2, "auth.allowed", failure=reason, client_certificate="dns:old.test")
    assert sorted(line["path"] for line in lines) == ["/socket", "/stream"]
    assert len(place.daemon.told("connection.cut", reason=reason)) == 2
    assert len(place.daemon.told("connection.cut")) == 2


@pytest.mark.parametrize("version", list(TLS))
@pytest.mark.parametrize(
    ("change", "alert"),
    [(without_the_authority, "UNKNOWN_CA"), (with_it_revoked, "CERTIFICATE_REVOKED")],
)
async def test_a_session_of_who_lost_trust_is_not_resumed(
    place: Place, change: Any, alert: str, version: str
) -> None:
    client = place.client(OLD, version=version)
    session = await resumable(place.daemon, client)
    change(place)
    await place.reload()
    for _ in range(1 if place.daemon.workers == 1 else MEETINGS):
        with pytest.raises(ssl.SSLError) as refused:
            await asyncio.to_thread(visit, place.daemon.port, client, session)
        assert alert in str(refused.value.reason)
    line = await place.daemon.event("tls.handshake_failed")
    assert line["reason"].startswith("client_certificate: ")
    assert await gets_in(place, place.client(NEW, version=version))


@pytest.mark.parametrize("version", list(TLS))
async def test_optional_to_required_is_enforced_at_once(place: Place, version: str) -> None:
    place.configure(service={"verify_https_client_certificate": "optional"})
    await place.reload()
    bare, known = place.client(version=version), place.client(OLD, version=version)
    async with WebSocket.to(place.daemon, bare) as socket, WebSocket.to(place.daemon, known) as other:
        place.configure(service={"verify_https_client_certificate": True})
        await place.reload()
        began = time.monotonic()
        wanted = "CERTIFICATE_REQUIRED" if version == "1.3" else "HANDSHAKE_FAILURE"
        assert wanted in await refusal_of(place, bare)
        assert await ended(socket.connection, since=began) < WITHIN
        assert await other.echo("still here")
    reason = "it has no client certificate, and one is required"
    await place.daemon.event("auth.allowed", failure=reason)
    assert len(place.daemon.told("connection.cut")) == 1


async def test_an_authority_that_is_added_ends_nobody(place: Place) -> None:
    place.believe(OLD_CA)
    await place.reload()
    async with Connection.to(place.daemon, place.client(OLD)) as idle:
        assert (await idle.ask()).status == 200
        assert "UNKNOWN_CA" in await refusal_of(place, place.client(NEW))
        place.believe(NEW_CA, OLD_CA)
        place.revoke(OLD_CA.crl(1), NEW_CA.crl())
        place.configure(tls={"crl": "clients.crl", "allowed_clients": ["dns:*.test"]})
        await place.reload()
        assert await gets_in(place, place.client(NEW))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(idle.reader.read(1), 4)
        assert (await idle.ask()).status == 200
    assert place.daemon.told("connection.cut") == []


# Who is let in.


@pytest.mark.parametrize("version", list(TLS))
async def test_a_client_that_is_not_listed_is_turned_away_and_told_once(place: Place, version: str) -> None:
    place.configure(tls={"allowed_clients": ["dns:new.test"]})
    await place.reload()
    assert await place.counts("rekeyd_handshakes_total") == {}
    assert await refusal_of(place, place.client(OLD, version=version))
    assert await gets_in(place, place.client(NEW, version=version))
    line = await place.daemon.event("tls.handshake_failed")
    assert line["reason"] == f"client_certificate: {UNLISTED}"
    assert (line["client"], line["listener"], line["generation"]) == ("127.0.0.1", "http", 2)
    assert len(place.daemon.told("tls.handshake_failed")) == 1
    assert await place.counts("rekeyd_handshake_failures_total") == {"client_certificate": 1}
    assert await place.counts("rekeyd_handshakes_total") == {"http": 1}
    assert (await place.daemon.event("auth.allowed"))["status"] == 200
    assert len(place.daemon.told("auth.allowed")) == 1


async def test_the_identity_is_told_to_the_log_and_to_the_upstream_and_can_not_be_forged(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    async def tell(asked: web.Request) -> web.Response:
        return web.json_response(asked.headers.getall("X-Rekeyd-Client-Cert", []))

    forged = {"X-Rekeyd-Client-Cert": "dns:forged.test", "x_rekeyd_client_cert": "dns:forged.test"}
    spiffe = OLD_CA.issue("old.test", "spiffe://example.org/worker", client=True)
    async with upstream(tell) as address:
        place = Place(tmp_path)
        place.believe(OLD_CA)
        place.configure(
            service={"verify_https_client_certificate": "optional"},
            upstream={"http": address, "identity_headers": True},
        )
        place.daemon = await start_daemon(place.site.file, secrets=[API_KEY])
        for client, identity in (
            (place.client(spiffe), "uri:spiffe://example.org/worker"),
            (place.client(), None),
        ):
            since = place.daemon.mark()
            async with Connection.to(place.daemon, client) as connection:
                told = (await connection.ask(headers=forged)).json()
            assert told == ([identity] if identity else [])
            line = await place.daemon.event("auth.allowed", since=since)
            assert line.get("client_certificate") == identity


async def test_rekeyds_own_look_at_its_listener_is_no_clients_handshake(place: Place) -> None:
    for _ in range(3):
        place.site.rotate()
        await place.reload()
    assert await gets_in(place, place.client(OLD))
    assert await place.counts("rekeyd_handshakes_total") == {"http": 1}
    assert await place.counts("rekeyd_handshake_failures_total") == {}
    assert place.daemon.told("tls.handshake_failed") == []
    place.configure(service={"verify_https_client_certificate": False})
    await place.reload()
    assert await place.counts("rekeyd_handshakes_total") == {"http": 1}
    async with asyncio.timeout(2):
        while await place.counts("rekeyd_connections"):  # noqa: ASYNC110 - the daemon tells nothing of it
            await asyncio.sleep(0.02)
