"""What a passage does with its upstream's connection. What a client sees of it is seen in `test_relay`."""

from pathlib import Path

from support.gateway import API_KEY, stage
from support.waiting import eventually
from support.wire import END_OF_HEAD, answering, ok, request


async def test_a_connection_carries_one_exchange_after_another(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        for _ in range(5):
            client.send(request(key=API_KEY))
            assert (await client.answer()).status == 200
        await scene.several(5)
        assert len(scene.upstream.links) == 1


async def test_who_leaves_in_the_middle_of_an_answer_takes_the_connection_along(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf")
        await client.until(b"half")
        client.reset()
        await link.closed()
        record = await scene.record()
        assert record["failure"] == "the client left"


async def test_a_body_goes_on_in_the_pieces_in_which_it_comes(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        whole = request("PUT", "/collections/a", key=API_KEY, body=b"hello world")
        client.send(whole[:-6])
        link, _ = await scene.upstream.request()
        assert await link.take(5) == b"hello"
        client.send(whole[-6:])
        assert await link.take(6) == b" world"
        link.send(ok())
        assert (await client.answer()).status == 200


async def test_a_connection_that_was_closed_before_it_answered_is_replaced_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(ok())
        await client.answer()
        client.send(request(key=API_KEY))
        await link.until(END_OF_HEAD)
        link.abort()
        again, head = await scene.upstream.request()
        assert head.startswith(b"GET ")
        again.send(ok())
        assert (await client.answer()).status == 200
        await eventually(lambda: len(scene.records) == 2, what="two lines")
        await scene.several(2)
