"""What a generation keeps of the last one's connections, and what it doesn't."""

import asyncio
import sys
from pathlib import Path

import pytest

from rekeyd.trust.generation import Generation
from support.gateway import API_KEY, Scene, stage
from support.waiting import eventually
from support.wire import END_OF_HEAD, Upstream, answering, ok, request

COUNTER = """
from aiohttp import web

GO = web.AppKey("go", object)
made = stopped = 0

def factory():
    global made
    made += 1
    number = made
    async def tell(request):
        return web.Response(text=str(number))
    async def stream(request):
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b"begun")
        await request.app[GO].wait()
        await response.write(b" done")
        return response
    async def begin(app):
        import asyncio
        app[GO] = asyncio.Event()
        latest.append(app[GO])
    async def stop(app):
        global stopped
        stopped += 1
    app = web.Application()
    app.on_startup.append(begin)
    app.on_cleanup.append(stop)
    app.router.add_get("/stream", stream)
    app.router.add_get("/{path:.*}", tell)
    return app

latest = []
"""


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "counter_of_a_test.py").write_text(COUNTER)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "counter_of_a_test", raising=False)
    return "counter_of_a_test"


def generation_of(scene: Scene) -> Generation:
    generation = scene.current.generation
    assert generation is not None
    return generation


async def test_a_generation_with_the_same_upstream_keeps_its_connections(tmp_path: Path) -> None:
    changes = [{}, {"api_key": "a-key-for-the-upstream"}, {"read_timeout": 7}, {"connect_timeout": 3}]
    async with stage(tmp_path, answering(ok())) as scene:
        for change in changes:
            scene.publish(upstream=change)
            assert (await scene.ask(request(key=API_KEY))).status == 200
        assert len(scene.upstream.links) == 1
        assert (await scene.pools.pool_for(generation_of(scene))).connect_timeout == 3
        await scene.several(len(changes))


async def test_a_generation_with_another_upstream_closes_what_is_idle_and_lets_finish_what_runs(
    tmp_path: Path,
) -> None:
    other = Upstream(answering(ok(b"other")))
    await other.start()
    async with stage(tmp_path) as scene:
        idle, busy = await scene.client(), await scene.client()
        idle.send(request(key=API_KEY))
        busy.send(request(key=API_KEY))
        first, _ = await scene.upstream.request()
        second, _ = await scene.upstream.request()
        first.send(ok())
        assert (await idle.answer()).status == 200
        second.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
        await busy.until(b"a\r\n")
        scene.publish(upstream={"http": other.address})
        idle.send(request(key=API_KEY))
        assert (await idle.answer()).body == b"other"
        await first.closed()
        second.send(b"1\r\nb\r\n0\r\n\r\n")
        assert await busy.until(b"0\r\n\r\n") == b"1\r\nb\r\n0\r\n\r\n"
        await second.closed()
        await eventually(lambda: not scene.pools._retiring)
        await scene.several(3)
    await other.stop()


async def test_an_application_goes_on_as_long_as_it_is_the_same_one(tmp_path: Path, module: str) -> None:
    async with stage(tmp_path, upstream_section={"http": f"app:{module}:factory"}) as scene:
        for timeout in (5, 6):
            scene.publish(upstream={"read_timeout": timeout})
            assert (await scene.ask(request(key=API_KEY))).body == b"1"
        await scene.several(2)


async def test_an_application_is_stopped_when_its_last_exchange_has_ended(
    tmp_path: Path, module: str
) -> None:
    async with stage(tmp_path, answering(ok()), upstream_section={"http": f"app:{module}:factory"}) as scene:
        client = await scene.client()
        client.send(request("GET", "/stream", key=API_KEY))
        await client.until(b"begun")
        scene.publish(upstream={"http": scene.upstream.address})
        assert (await scene.ask(request(key=API_KEY))).status == 200
        running = sys.modules[module]
        assert running.stopped == 0
        running.latest[0].set()
        await client.until(b" done")
        await eventually(lambda: running.stopped == 1)
        await scene.several(2)


async def test_the_end_of_everything_does_not_wait_for_streams(tmp_path: Path, module: str) -> None:
    async with stage(tmp_path, upstream_section={"http": f"app:{module}:factory"}) as scene:
        client = await scene.client()
        client.send(request("GET", "/stream", key=API_KEY))
        await client.until(b"begun")
        async with asyncio.timeout(2):
            await scene.pools.close()
        assert sys.modules[module].stopped == 1
        await scene.record()


async def test_whether_the_upstream_can_be_reached_is_asked_of_it_once_a_second_at_most(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as scene:
        asked = [scene.pools.reachable(generation_of(scene)) for _ in range(50)]
        assert await asyncio.gather(*asked) == [True] * 50
        await scene.upstream.link()
        assert len(scene.upstream.links) == 1
        await scene.upstream.stop()
        assert await scene.pools.reachable(generation_of(scene))


async def test_an_upstream_that_is_not_there_is_not_reachable(tmp_path: Path) -> None:
    for address in (f"unix:{tmp_path}/gone.sock", "app:no_such_module:factory", "http://127.0.0.1:1"):
        async with stage(tmp_path, upstream_section={"http": address}) as scene:
            assert not await scene.pools.reachable(generation_of(scene))


async def test_the_probe_leaves_a_connection_of_use(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        assert await scene.pools.reachable(generation_of(scene))
        assert (await scene.ask(request(key=API_KEY))).status == 200
        assert len(scene.upstream.links) == 1
        assert END_OF_HEAD in scene.upstream.links[0].received
        await scene.record()
