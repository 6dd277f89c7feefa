"""Curl, openssl and qdrant-client get in, over TLS, as far as their key goes and no further."""

import asyncio
import json
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import pytest
import pytest_asyncio
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from support.daemon import SOURCE_ROOT, Daemon
from support.generations import API_KEY, Site
from support.live import live_site, serial_text, trusting
from support.secrets import Ledger

pytestmark = pytest.mark.asyncio(loop_scope="module")

READER = "a-made-up-key-that-may-only-read"
TESTS = Path(__file__).parent
VECTORS = models.VectorParams(size=4, distance=models.Distance.DOT)
CITIES = [
    models.PointStruct(id=1, vector=[0.05, 0.61, 0.76, 0.74], payload={"city": "Berlin"}),
    models.PointStruct(id=2, vector=[0.19, 0.81, 0.75, 0.11], payload={"city": "London"}),
    models.PointStruct(id=3, vector=[0.36, 0.55, 0.47, 0.94], payload={"city": "Moscow"}),
]


def needs(command: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(command) is None, reason=f"{command} is not installed")


@dataclass
class Served:
    daemon: Daemon
    site: Site

    @property
    def url(self) -> str:
        return f"https://localhost:{self.daemon.port}"

    @property
    def ca(self) -> Path:
        return self.site.folder / "ca.pem"


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def served(ledger: Ledger, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Served]:
    """rekeyd in front of Qdrant's REST."""
    site = live_site(
        tmp_path_factory.mktemp("site"),
        # Each worker has a Qdrant of its own in process, and here what was written is read.
        service={"read_only_api_key": READER, "workers": 1},
        upstream={"http": "app:support.qdrant_local:application"},
    )
    site.authority.write(site.folder / "ca.pem")
    environ = {"PYTHONPATH": os.pathsep.join([str(SOURCE_ROOT), str(TESTS)])}
    async with Daemon.running(ledger, site.file, secrets=[API_KEY, READER], environ=environ) as daemon:
        yield Served(daemon, site)


async def ran(*command: str, give: bytes | None = None, environ: Mapping[str, str] | None = None) -> bytes:
    """What a command writes on its standard output; AssertionError unless it ends with 0."""
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **(environ or {})},
    )
    out, err = await asyncio.wait_for(process.communicate(give), 30)
    assert process.returncode == 0, err.decode(errors="replace")
    return out


# qdrant-client


def client_of(at: Served, key: str, trust: ssl.SSLContext | None = None) -> QdrantClient:
    trust = trust or trusting(at.site.authority)
    return QdrantClient(url=at.url, api_key=key, verify=trust, check_compatibility=False, timeout=15)


def write(client: QdrantClient) -> None:
    assert client.create_collection("cities", vectors_config=VECTORS)
    assert client.collection_exists("cities")
    assert client.upsert("cities", CITIES, wait=True).status is models.UpdateStatus.COMPLETED


def read(client: QdrantClient) -> list[str]:
    """The nearest city and all cities, by search, scroll and description."""
    found = client.query_points("cities", query=[0.2, 0.1, 0.9, 0.7], limit=1, with_payload=True).points
    scrolled, _ = client.scroll("cities", limit=10, with_payload=True)
    assert client.get_collection("cities").points_count == len(scrolled)
    assert [each.name for each in client.get_collections().collections] == ["cities"]
    payloads = [*(point.payload for point in found), *(point.payload for point in scrolled)]
    return [str(payload["city"]) for payload in payloads if payload]


def refused(attempt: Callable[[], object]) -> UnexpectedResponse:
    with pytest.raises(UnexpectedResponse) as caught:
        attempt()
    return caught.value


async def test_qdrant_client_writes_and_reads_and_a_read_only_key_only_reads(served: Served) -> None:
    def story() -> None:
        writer, reader, stranger = (client_of(served, key) for key in (API_KEY, READER, "not-a-key-at-all"))
        write(writer)
        assert read(writer) == ["Berlin", "Berlin", "London", "Moscow"]
        assert read(reader) == read(writer)
        for attempt in (
            lambda: reader.upsert("cities", CITIES),
            lambda: reader.delete_collection("cities"),
            lambda: reader.create_collection("towns", vectors_config=VECTORS),
        ):
            denial = refused(attempt)
            assert denial.status_code == 403
            assert b"Forbidden" in denial.content
        denial = refused(stranger.get_collections)
        assert denial.status_code == 401
        assert denial.content == b"Invalid API key or JWT"
        for client in (writer, reader, stranger):
            client.close()

    await asyncio.to_thread(story)
    await served.daemon.several(3, "auth.denied", key_id="read_only_api_key", status=403)
    await served.daemon.event("auth.denied", status=401)


# Qdrant's JavaScript client


NODE = TESTS / "node"
has_node = pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="node or its packages are not installed (`make node`)",
)


async def in_javascript(at: Served, key: str, *steps: str) -> dict[str, object]:
    """What came of each step: the result, or the status of the refusal."""
    environ = {"NODE_EXTRA_CA_CERTS": str(at.ca)}
    said = await ran("node", str(NODE / "qdrant.mjs"), at.url, key, *steps, environ=environ)
    return dict(json.loads(said))


@has_node
async def test_qdrants_javascript_client_goes_as_far_as_its_key(served: Served) -> None:
    story = ("create", "upsert", "query", "list")
    said = await in_javascript(served, API_KEY, *story)
    assert (said["create"], said["upsert"], said["query"]) == (True, "completed", ["Berlin"])
    assert "towns" in cast(list[str], said["list"])
    said = await in_javascript(served, READER, *story, "drop")
    assert (said["create"], said["upsert"], said["query"], said["drop"]) == (403, 403, ["Berlin"], 403)
    said = await in_javascript(served, "not-a-key-at-all", *story)
    assert set(said.values()) == {401}
    assert (await in_javascript(served, API_KEY, "drop"))["drop"] is True


@needs("mkcert")
async def test_a_certificate_made_by_mkcert_is_served_to_qdrant_client(
    served: Served, tmp_path: Path
) -> None:
    environ = {"CAROOT": str(tmp_path / "caroot"), "TRUST_STORES": "none"}
    (tmp_path / "caroot").mkdir()
    since = served.daemon.mark()
    made = [str(tmp_path / name) for name in ("tls.crt", "tls.key")]
    await ran(
        "mkcert", "-cert-file", made[0], "-key-file", made[1], "localhost", "127.0.0.1", environ=environ
    )
    for name in ("tls.key", "tls.crt"):
        (tmp_path / name).replace(served.site.folder / name)
    applied = await served.daemon.event("reload.applied", since=since)
    assert "localhost" in applied["parts"]["server_certificate"]["new"]["names"]
    trust = ssl.create_default_context(cafile=tmp_path / "caroot" / "rootCA.pem")

    def story() -> None:
        client = client_of(served, API_KEY, trust)
        client.get_collections()
        client.close()

    await asyncio.to_thread(story)
    since = served.daemon.mark()
    served.site.rotate()
    await served.daemon.event("reload.applied", since=since)


# curl


@needs("curl")
@pytest.mark.parametrize("version", ["--http1.1", "--http1.0"])
async def test_curl_is_told_what_it_may(served: Served, version: str) -> None:
    async def curl(*arguments: str, path: str = "/collections") -> tuple[int, str]:
        form = "%{stderr}%{http_code}"
        process = await asyncio.create_subprocess_exec(
            *("curl", "-sS", version, "--cacert", str(served.ca), "-w", form, *arguments, served.url + path),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 0, err.decode()
        return int(err), out.decode()

    assert await curl() == (401, "Must provide an API key or an Authorization bearer token")
    assert await curl("-H", "api-key: wrong") == (401, "Invalid API key or JWT")
    status, told = await curl("-H", f"authorization: bearer {READER}")
    assert (status, json.loads(told)["status"]) == (200, "ok")
    status, told = await curl("-H", f"api-key: {READER}", "-X", "DELETE", path="/collections/nowhere")
    assert status == 403
    assert json.loads(told)["status"]["error"].startswith("Forbidden: ")
    assert (await curl("-H", f"api-key: {API_KEY}", "-X", "DELETE", path="/collections/nowhere"))[0] == 200
    assert await curl(path="/healthz") == (200, "healthz check passed")
    assert json.loads((await curl(path="/.rekeyd/readyz"))[1])["status"] == "ok"
    assert (await curl("-I", path="/healthz"))[0] == 200


@needs("curl")
async def test_curl_that_does_not_know_the_authority_is_not_talked_into_it(served: Served) -> None:
    process = await asyncio.create_subprocess_exec(
        "curl", "-sS", served.url, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    _, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 60, err.decode()
    await served.daemon.event("tls.handshake_failed", reason="tlsv1_alert_unknown_ca")


# openssl


@needs("openssl")
@pytest.mark.parametrize(("version", "name"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
async def test_openssl_sees_the_chain_verify_and_no_version_but_the_two(
    served: Served, version: str, name: str
) -> None:
    to = ("-connect", f"127.0.0.1:{served.daemon.port}", "-servername", "localhost")
    verify = ("-CAfile", str(served.ca), "-verify_return_error", "-verify_hostname", "localhost")
    told = (await ran("openssl", "s_client", version, *to, *verify, give=b"")).decode()
    assert "Verify return code: 0 (ok)" in told
    assert name in told
    begin = told.index("-----BEGIN CERTIFICATE-----")
    shown = await ran("openssl", "x509", "-noout", "-serial", give=told[begin:].encode())
    assert shown.decode().strip() == f"serial={serial_text(served.site.leaf)}"


@needs("openssl")
async def test_openssl_with_an_older_version_is_refused(served: Served) -> None:
    process = await asyncio.create_subprocess_exec(
        *("openssl", "s_client", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"),
        *("-connect", f"127.0.0.1:{served.daemon.port}"),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 30)
    assert process.returncode == 1
    assert b"Cipher is (NONE)" in out + err
    await served.daemon.event("tls.handshake_failed", reason="unsupported_protocol")
