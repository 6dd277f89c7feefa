"""What rekeyd answers itself: its own paths, and preflights."""

import asyncio
from pathlib import Path

import pytest

from support.gateway import API_KEY, stage
from support.waiting import eventually
from support.wire import answering, ok, request


async def test_health_is_open_answered_here_and_says_which_check_fails(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        scene.ready = {"upstream": True, "certificate": True}
        answer, record = await scene.asked(request("GET", "/.rekeyd/readyz"))
        assert (answer.status, answer.body) == (
            200,
            b'{"status":"ok","checks":{"upstream":true,"certificate":true}}',
        )
        assert (record["event"], record["reason"], record["status"]) == ("auth.allowed", "health", 200)
        scene.ready = {"upstream": False}
        answer, record = await scene.asked(request("GET", "/.rekeyd/readyz"))
        assert (answer.status, record["status"]) == (503, 503)
        assert answer.body == b'{"status":"unavailable","checks":{"upstream":false}}'
        answer, _ = await scene.asked(request("GET", "/.rekeyd/livez"))
        assert (answer.status, answer.body) == (200, b'{"status":"ok","checks":{}}')
        assert scene.upstream.links == []


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("HEAD", "/.rekeyd/livez", 200),
        ("GET", "/.rekeyd", 404),
        ("GET", "/.rekeyd/", 404),
        ("GET", "/.rekeyd/other", 404),
        ("POST", "/.rekeyd/livez", 405),
    ],
)
async def test_rekeyds_own_paths_are_never_forwarded(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request(method, path, key=API_KEY), method)
        assert (answer.status, record["status"], record["reason"]) == (status, status, "health")
        assert scene.upstream.links == []


async def test_a_path_that_only_looks_like_rekeyds_is_judged_as_any_other(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        for path in ("/.rekeydx", "/.REKEYD/livez", "/%2erekeyd/livez", "//.rekeyd/livez"):
            answer, _ = await scene.asked(request("GET", path))
            assert answer.status == 401, path


async def test_preflights_are_answered_without_a_key_where_that_is_wanted(tmp_path: Path) -> None:
    asks = [
        "Origin: https://app.test",
        "Access-Control-Request-Method: PUT",
        "Access-Control-Request-Headers: api-key",
    ]
    async with stage(tmp_path, answering(ok()), service={"enable_cors": True}) as scene:
        answer, record = await scene.asked(request("OPTIONS", "/collections/a", *asks), "OPTIONS")
        assert answer.status == 204
        assert answer.field("access-control-allow-origin") == "*"
        assert answer.field("access-control-allow-headers") == "api-key"
        assert (record["event"], record["reason"], record["status"]) == ("auth.allowed", "preflight", 204)
        assert scene.upstream.links == []
        for data in (request(), request(key=API_KEY)):
            answer, _ = await scene.asked(data)
            assert answer.field("access-control-allow-origin") == "*"


async def test_preflights_need_a_key_where_it_is_not(tmp_path: Path) -> None:
    asks = ["Origin: https://app.test", "Access-Control-Request-Method: PUT"]
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request("OPTIONS", "/collections/a", *asks))
        assert (answer.status, record["reason"]) == (401, "no_credential")
        assert answer.field("access-control-allow-origin") is None


async def test_while_draining_readiness_fails(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        await eventually(lambda: scene.door.connections == 1)
        drain = asyncio.create_task(scene.gateway.drain(5))
        await asyncio.sleep(0)
        client.send(request("GET", "/.rekeyd/readyz"))
        answer = await client.answer()
        assert (answer.status, answer.field("connection")) == (503, "close")
        assert b'"serving":false' in answer.body
        await drain
