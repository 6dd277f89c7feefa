"""What is worked out once for a head. That the decision is not is seen in `test_http_lane`."""

from pathlib import Path

from rekeyd.access.verdict import Allowed
from rekeyd.http1 import plain
from rekeyd.listeners.http.recognised import Recognised
from support.gateway import API_KEY, READ_KEY, stage
from support.wire import answering, ok, request


async def test_a_head_that_comes_again_goes_on_the_same_but_for_its_id(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        for _ in range(2):
            client.send(request(key=API_KEY))
            await client.answer()
        ids = [record["request_id"] for record in await scene.several(2)]
        first, second = scene.upstream.heads
        assert first != second
        assert first.replace(ids[0].encode(), b"") == second.replace(ids[1].encode(), b"")


async def test_what_is_added_for_one_credential_is_not_added_for_another(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), upstream_section={"identity_headers": True}) as scene:
        client = await scene.client()
        for key in (API_KEY, READ_KEY):
            client.send(request(key=key))
            await client.answer()
        await scene.several(2)
        first, second = scene.upstream.heads
        assert b"X-Rekeyd-Key-Id: api_key" in first
        assert b"X-Rekeyd-Key-Id: read_only_api_key" in second


async def test_it_asks_for_what_the_bytes_say(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        await scene.client()
        (guest,) = scene.gateway._guests.open
        raw = request("GET", "/collections/a%20b?x=1", key=API_KEY)
        read = plain.read(raw, 1 << 16)
        assert read is not None
        known = Recognised(raw, read, guest, scene.gateway._desk.generation())
        assert (known.method, known.path) == ("GET", "/collections/a%20b")
        assert (known.ask.method, known.ask.client) == (b"GET", "127.0.0.1")
        assert not isinstance(known.let_in_by, Allowed)
