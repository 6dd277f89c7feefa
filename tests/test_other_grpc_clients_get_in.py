"""qdrant-client over gRPC, @grpc/grpc-js and h2load get through a real rekeyd, as far as their key goes."""

import json
import os
import re
import shutil
import sys
from pathlib import Path

import jwt
import pytest

from conftest import StartDaemon
from support.generations import API_KEY
from support.grpc_qdrant import KEY_FROM, grpc_qdrant
from support.grpc_upstream import grpc_upstream
from support.live import live_site
from support.processes import ran

READER = "a-made-up-key-that-may-only-read"
TESTS = Path(__file__).parent
LIMITED = jwt.encode({"access": [{"collection": "cities", "access": "r"}]}, API_KEY, "HS256")
DENIED = "PERMISSION_DENIED"
ALL = {
    "list": ["cities"],
    "upsert": DENIED,
    "query": 0,
    "scroll": 0,
    "elsewhere": 0,
    "lookup": 0,
    "drop": DENIED,
}
"""What who may read is told."""
NODE = TESTS / "node"


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (API_KEY, ALL | {"upsert": "completed", "drop": False}),
        (READER, ALL),
        (LIMITED, ALL | dict.fromkeys(("elsewhere", "lookup"), DENIED)),
        ("not-a-key-at-all", dict.fromkeys(ALL, "UNAUTHENTICATED")),
    ],
)
async def test_qdrant_client_over_grpc(
    start_daemon: StartDaemon, tmp_path: Path, key: str, said: dict[str, object]
) -> None:
    async with grpc_qdrant() as address:
        site = live_site(
            tmp_path,
            service={"grpc_port": 0, "read_only_api_key": READER, "jwt_rbac": True},
            upstream={"http": "demo", "grpc": address},
        )
        site.authority.write(tmp_path / "ca.pem")
        daemon = await start_daemon(site.file, secrets=[API_KEY, READER, LIMITED])
        environ = {
            KEY_FROM: key,
            "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH": str(tmp_path / "ca.pem"),
            "PYTHONPATH": str(TESTS),
        }
        port = str(daemon.port_of("grpc"))
        out = await ran(sys.executable, "-m", "support.grpc_qdrant", port, environ=environ)
        assert json.loads(out) == said


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules" / "@grpc").is_dir(),
    reason="node or its packages are not installed (`make node`)",
)
@pytest.mark.parametrize("key", [API_KEY, ""])
async def test_grpc_js(start_daemon: StartDaemon, tmp_path: Path, key: str) -> None:
    async with grpc_upstream() as upstream:
        site = live_site(
            tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": upstream.address}
        )
        site.authority.write(tmp_path / "ca.pem")
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        target, environ = f"localhost:{daemon.port_of('grpc')}", {"GRPC_CA": str(tmp_path / "ca.pem")}
        said = json.loads(await ran("node", str(NODE / "grpc.mjs"), target, key, environ=environ))
    if key:
        assert said == {"echo": 1_000_000, "count": 100, "join": "ab", "fail": "9 größer"}
    else:
        denied = "16 Must provide an API key or an Authorization bearer token"
        assert said == dict.fromkeys(("echo", "count", "join", "fail"), denied)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
@pytest.mark.parametrize(("key", "kind"), [(API_KEY, "allowed"), ("wrong", "denied")])
async def test_h2load(start_daemon: StartDaemon, tmp_path: Path, key: str, kind: str) -> None:
    async with grpc_upstream() as upstream:
        site = live_site(
            tmp_path, service={"grpc_port": 0}, upstream={"http": "demo", "grpc": upstream.address}
        )
        daemon = await start_daemon(site.file, secrets=[API_KEY])
        (tmp_path / "message").write_bytes(b"\0\0\0\0\x05hello")
        fields = ("content-type: application/grpc", "te: trailers", f"api-key: {key}")
        out = await ran(
            *("h2load", "-n", "2000", "-c", "4", "-m", "20", "-d", str(tmp_path / "message")),
            *(part for field in fields for part in ("-H", field)),
            f"https://127.0.0.1:{daemon.port_of('grpc')}/test.Service/Echo",
            environ=dict(os.environ),
        )
        assert re.search(rb"2000 total, .* 2000 succeeded, 0 failed, 0 errored, 0 timeout", out), out
        assert re.search(rb"2000 2xx", out)
        lines = await daemon.several(50, f"auth.{kind}")
        assert {line["grpc_status"] for line in lines} == {0 if kind == "allowed" else 16}
