"""The embedded upstream, behind the gateway as `rekeyd demo` has it."""

import base64
import json
from pathlib import Path

from support.gateway import API_KEY, READ_KEY, stage
from support.wire import END_OF_HEAD, request

DEMO = {"http": "demo"}


async def test_it_tells_who_asks_how_they_came_and_what_they_asked(tmp_path: Path) -> None:
    async with stage(tmp_path, tls=True, upstream_section=DEMO) as scene:
        answer = await scene.ask(request("GET", "/collections?x=y", "X-Request-Id: abc", key=READ_KEY))
        told = json.loads(answer.body)
        assert told["who"] == {"key": "read_only_api_key", "right": "read"}
        assert told["how"].pop("cipher").startswith("TLS_")
        assert told["how"] == {"tls": "TLSv1.3", "client_certificate": "none", "from": "127.0.0.1"}
        assert told["what"] == {"method": "GET", "path": "/collections", "body_bytes": 0, "request_id": "abc"}
        await scene.record()


async def test_who_came_without_key_and_tls_is_nobody(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section=DEMO) as scene:
        told = json.loads((await scene.ask(request("GET", "/", "X-Rekeyd-Key-Id: root"))).body)
        assert told["who"] == {"key": "none", "right": "none"}
        assert told["how"]["tls"] == "none"
        await scene.record()


async def test_it_counts_what_it_was_sent(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section=DEMO) as scene:
        answer = await scene.ask(request("PUT", "/collections/a", key=API_KEY, body=b"x" * 3_000_000))
        assert json.loads(answer.body)["what"]["body_bytes"] == 3_000_000
        await scene.record()


async def test_it_streams_a_line_a_second(tmp_path: Path) -> None:
    async with stage(tmp_path, upstream_section=DEMO) as scene:
        client = await scene.client()
        client.send(request("GET", "/stream", key=API_KEY))
        assert b"text/event-stream" in await client.until(END_OF_HEAD)
        for _ in range(2):
            await client.until(b"data: 20")
        client.close()
        assert (await scene.record())["status"] == 200


async def test_it_echoes_what_a_websocket_says(tmp_path: Path) -> None:
    wish = [
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {base64.b64encode(b'x' * 16).decode()}",
    ]
    async with stage(tmp_path, upstream_section=DEMO) as scene:
        client = await scene.client()
        client.send(request("GET", "/socket", *wish, key=API_KEY))
        assert (await client.answer()).status == 101
        client.send(b"\x81\x85\x00\x00\x00\x00hello")  # a text frame under a mask of zeros
        assert await client.take(7) == b"\x81\x05hello"
        client.send(b"\x88\x80\x00\x00\x00\x00")
        assert (await client.take(1)) == b"\x88"
        client.close()
        assert (await scene.record())["status"] == 101
