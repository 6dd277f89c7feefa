"""The real process: a token that loses its key, and what it opened; qdrant-client with tokens."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jwt
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from conftest import StartDaemon
from support.daemon import SOURCE_ROOT, Daemon
from support.generations import Site
from support.live import Connection, configure, live_site, measured, trusting
from support.pki import replace_file, write_in_place
from support.streams import WebSocket, ended, goes_on, streaming, uploading
from support.tokens import AUDIENCE, ISSUER, Issuer, in_an_hour, key_set

FIRST, SECOND, THIRD = (
    "4f1c0d9e8b7a69584736251403f2e1d0",
    "e1d04f1c0d9e8b7a69584736251403f2",
    "03f2e1d04f1c0d9e8b7a695847362514",
)
WITHIN = 5.0
"""Seconds in which an end must come where trust was taken away."""
A, B = Issuer("a"), Issuer("b", "EdDSA")
TESTS = Path(__file__).parent
VECTORS = models.VectorParams(size=2, distance=models.Distance.DOT)
POINTS = [models.PointStruct(id=1, vector=[0.1, 0.9], payload={"title": "Momo"})]


def token(secret: str = FIRST, **claims: Any) -> str:
    return jwt.encode({"exp": in_an_hour(), **claims}, secret, algorithm="HS256")


def issued(**differently: Any) -> dict[str, Any]:
    return {"jwks_file": "issuer.json", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, **differently}


async def status_of(daemon: Daemon, site: Site, key: str) -> int:
    async with Connection.to(daemon, site.authority) as client:
        return (await client.ask(key=key)).status


async def test_rotating_the_key_ends_what_its_tokens_opened_and_spares_the_others(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    both = {"api_key": FIRST, "alt_api_key": SECOND, "jwt_rbac": True}
    site = live_site(tmp_path, service=both)
    daemon = await start_daemon(site.file, secrets=[FIRST, SECOND, THIRD])
    old, kept = daemon.secret(token()), daemon.secret(token(SECOND))
    async with (
        WebSocket.to(daemon, site.authority, key=old) as socket,
        streaming(daemon, site.authority, key=old) as stream,
        uploading(daemon, site.authority, key=old) as upload,
        WebSocket.to(daemon, site.authority, key=kept) as other,
    ):
        assert await socket.echo("before")
        assert await goes_on(stream)
        since = daemon.mark()
        configure(site, service={**both, "api_key": THIRD})
        applied = await daemon.event("reload.applied", since=since)
        assert applied["parts"]["tokens"] == {"changed": ["api_key"]}
        assert await status_of(daemon, site, old) == 403
        took = await asyncio.gather(*(ended(each) for each in (socket.connection, stream, upload)))
        assert max(took) < WITHIN
        measured("s until the last of three ended", round(max(took), 2))
        assert await other.echo("after")
        cuts = await daemon.several(3, "connection.cut", since=since)
        assert {cut["reason"] for cut in cuts} == {"token of api_key is not accepted any more"}
        assert await status_of(daemon, site, token(THIRD)) == 200


async def test_a_key_that_becomes_the_alternative_ends_nothing(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, service={"api_key": FIRST, "jwt_rbac": True})
    daemon = await start_daemon(site.file, secrets=[FIRST, SECOND])
    async with WebSocket.to(daemon, site.authority, key=token()) as socket:
        since = daemon.mark()
        configure(site, service={"api_key": SECOND, "alt_api_key": FIRST, "jwt_rbac": True})
        await daemon.event("reload.applied", since=since)
        await asyncio.sleep(WITHIN)  # that nothing happens can only be waited for
        assert await socket.echo("still here")
        assert await status_of(daemon, site, token()) == 200
        assert daemon.told("connection.cut") == []


async def test_a_token_that_expires_takes_its_stream_with_it(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    site = live_site(tmp_path, service={"api_key": FIRST, "jwt_rbac": True}, access={"jwt_leeway": 0})
    daemon = await start_daemon(site.file, secrets=[FIRST])
    soon = in_an_hour() - 3600 + 2
    async with streaming(daemon, site.authority, key=token(exp=soon)) as stream:
        await ended(stream)
        cut = await daemon.event("connection.cut")
        assert cut["reason"] == "token of api_key is not enough any more: expired"


async def test_a_key_that_leaves_the_issuer_s_set_ends_what_it_vouched_for(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """No static key is configured: whoever has a token of the issuer gets in, and nobody else."""
    (tmp_path / "issuer.json").write_bytes(key_set(A, B))
    site = live_site(tmp_path, service={"api_key": None}, access=issued())
    daemon = await start_daemon(site.file)
    assert daemon.told("reload.applied")[0]["parts"]["tokens"] == {"added": ["jwks:a", "jwks:b"]}
    async with (
        WebSocket.to(daemon, site.authority, key=A.token(access="m")) as socket,
        WebSocket.to(daemon, site.authority, key=B.token(access="m")) as other,
    ):
        since = daemon.mark()
        replace_file(tmp_path / "issuer.json", key_set(B))
        applied = await daemon.event("reload.applied", since=since, trigger="watch")
        assert applied["parts"] == {"tokens": {"removed": ["jwks:a"]}}
        assert await status_of(daemon, site, A.token()) == 403
        assert await ended(socket.connection) < WITHIN
        cut = await daemon.event("connection.cut", since=since)
        assert cut["reason"] == "token of jwks:a is not accepted any more"
        assert await other.echo("still here")
        assert await status_of(daemon, site, B.token()) == 200


async def test_a_torn_or_poisoned_key_set_never_replaces_a_good_one(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "issuer.json").write_bytes(key_set(A))
    site = live_site(tmp_path, access=issued(), tls={"settle": 0.5})
    daemon = await start_daemon(site.file)
    for source, rule in (
        (key_set(A, B)[:-30], "unparsable"),
        (b"", "empty"),
        (key_set(B, {"kty": "oct", "k": "AAAAAAAAAAAAAAAA"}), "secret_key"),
        (b'{"keys": []}', "no_usable_key"),
    ):
        since = daemon.mark()
        write_in_place(tmp_path / "issuer.json", source)
        refused = await daemon.event("reload.refused", since=since)
        assert [(each["rule"], each["part"]) for each in refused["findings"]] == [(rule, "tokens")]
        assert "issuer.json" in refused["findings"][0]["message"]
        assert await status_of(daemon, site, A.token()) == 200
        assert await status_of(daemon, site, B.token()) == 403
    since = daemon.mark()
    write_in_place(tmp_path / "issuer.json", key_set(A, B))
    await daemon.event("reload.applied", since=since)
    assert await status_of(daemon, site, B.token()) == 200


async def test_half_a_key_set_that_becomes_whole_in_a_moment_is_not_even_told(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "issuer.json").write_bytes(key_set(A))
    site = live_site(tmp_path, access=issued(), tls={"settle": 30})
    daemon = await start_daemon(site.file)
    since = daemon.mark()
    write_in_place(tmp_path / "issuer.json", key_set(A, B)[:-30])
    await daemon.event("reload.settling", since=since)
    write_in_place(tmp_path / "issuer.json", key_set(A, B))
    applied = await daemon.event("reload.applied", since=since)
    assert applied["parts"] == {"tokens": {"added": ["jwks:b"]}}
    assert daemon.told("reload.refused") == []


async def test_a_token_made_by_the_command_gets_in(start_daemon: StartDaemon, tmp_path: Path) -> None:
    site = live_site(tmp_path, service={"api_key": FIRST, "jwt_rbac": True})
    daemon = await start_daemon(site.file, secrets=[FIRST])
    command = [
        sys.executable,
        "-m",
        "rekeyd",
        "token",
        "-c",
        str(site.file),
        "--access",
        "r",
        "--subject",
        "ci",
    ]
    done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True, timeout=30)
    made = daemon.secret(done.stdout.decode().strip())
    assert await status_of(daemon, site, made) == 200
    line = await daemon.event("auth.allowed", key_id="api_key", reason="token")
    assert line["subject"] == "ci"
    assert len(line["token_id"]) == 32


# qdrant-client


def refused(attempt: Callable[[], object]) -> int | None:
    with pytest.raises(UnexpectedResponse) as caught:
        attempt()
    return caught.value.status_code


@pytest.mark.parametrize("kind", ["qdrant", "issuer"])
async def test_qdrant_client_does_with_a_token_what_the_token_says(
    start_daemon: StartDaemon, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "issuer.json").write_bytes(key_set(A))
    site = live_site(
        tmp_path,
        # Each worker has a Qdrant of its own in process, and here what was written is read.
        service={"api_key": FIRST, "jwt_rbac": True, "workers": 1},
        access=issued(),
        upstream={"http": "app:support.qdrant_local:application"},
    )
    environ = {"PYTHONPATH": os.pathsep.join([str(SOURCE_ROOT), str(TESTS)])}
    daemon = await start_daemon(site.file, secrets=[FIRST], environ=environ)
    url, trust = f"https://localhost:{daemon.port}", trusting(site.authority)

    def client(access: object) -> QdrantClient:
        made = token(access=access) if kind == "qdrant" else A.token(access=access)
        return QdrantClient(url=url, api_key=made, verify=trust, check_compatibility=False, timeout=15)

    def story() -> None:
        manager, reader, clerk, stranger = (
            client(access)
            for access in (
                "m",
                "r",
                [{"collection": "books", "access": "prw"}],
                [{"collection": "films", "access": "rw"}],
            )
        )
        assert manager.create_collection("books", vectors_config=VECTORS)
        assert clerk.upsert("books", POINTS, wait=True).status is models.UpdateStatus.COMPLETED
        assert [point.id for point in reader.scroll("books")[0]] == [1]
        assert reader.collection_exists("books")
        assert [point.id for point in clerk.scroll("books")[0]] == [1]
        assert refused(lambda: reader.upsert("books", POINTS)) == 403
        assert refused(lambda: clerk.delete_collection("books")) == 403
        assert refused(lambda: stranger.scroll("books")) == 403
        assert refused(lambda: stranger.upsert("books", POINTS)) == 403
        for each in (manager, reader, clerk, stranger):
            each.close()

    await asyncio.to_thread(story)
    await daemon.several(2, "auth.denied", reason="collection_not_allowed", status=403)
