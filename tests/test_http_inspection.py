"""Requests whose body is looked at first: what passes, what doesn't, and that it passes as it came."""

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Limits, Reach, Right
from rekeyd.listeners.http.inspection import MOST
from support.gateway import READ_KEY, Scene, stage
from support.wire import ok, request

SECRET = "a-made-up-key-that-reads-one-collection"
QUERY = "/collections/books/points/query"
PLAIN = b'{"query": [0.1, 0.2], "limit": 3}'
ELSEWHERE = b'{"query": 7, "lookup_from": {"collection": "papers"}}'
DISGUISED = b'{"query": 7, "lookup\\u005ffrom": {"collection": "papers"}}'


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """A gateway at which one more key is good, that may read `books` alone."""
    key = replace(
        Credential.of_secret("books", Right.READ, SECRET),
        limits=Limits(collections=(("books", Reach.READ),)),
    )
    async with stage(tmp_path) as scene:
        scene.believe(KeyRing([*scene.ring, key]))
        yield scene


def in_chunks(*pieces: bytes, key: str = SECRET) -> bytes:
    head = request("POST", QUERY, "Transfer-Encoding: chunked", key=key)
    return head + b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    "body", [PLAIN, b'{"lookup_from": {"collection": "books"}, "note": "\\u00e9"}', b"not JSON"]
)
async def test_a_body_that_names_no_other_collection_passes_as_it_came(scene: Scene, body: bytes) -> None:
    client = await scene.client()
    client.send(request("POST", QUERY, key=SECRET, body=body))
    link, head = await scene.upstream.request()
    assert f"Content-Length: {len(body)}\r\n".encode() in head
    assert await link.take(len(body)) == body
    link.send(ok())
    assert (await client.answer()).status == 200
    assert (await scene.record())["key_id"] == "books"


async def test_a_body_that_was_seen_never_runs_as_a_request(scene: Scene) -> None:
    """Not where there is no upstream for it either."""
    ring = scene.ring
    scene.publish(upstream={"http": "app:rekeyd_has_no_such_module:app"})
    scene.believe(ring)
    client = await scene.client()
    client.send(request("POST", QUERY, key=SECRET, body=request("DELETE", "/collections/books")), request())
    assert [(await client.answer()).status for _ in range(2)] == [502, 401]
    assert [record["method"] for record in await scene.several(2)] == ["POST", "GET"]


async def test_a_body_in_chunks_is_passed_in_chunks(scene: Scene) -> None:
    client = await scene.client()
    client.send(in_chunks(PLAIN[:7], PLAIN[7:]))
    link, head = await scene.upstream.request()
    assert b"Transfer-Encoding: chunked\r\n" in head
    assert await link.until(b"0\r\n\r\n") == b"%x\r\n%b\r\n0\r\n\r\n" % (len(PLAIN), PLAIN)
    link.send(ok())
    assert (await client.answer()).status == 200


@pytest.mark.parametrize("body", [ELSEWHERE, DISGUISED])
async def test_a_body_that_names_another_collection_never_leaves(scene: Scene, body: bytes) -> None:
    answer = await scene.ask(request("POST", QUERY, key=SECRET, body=body), "POST")
    assert answer.status == 403
    assert b"each collection that the body names" in answer.body
    record = await scene.record()
    assert (record["event"], record["reason"]) == ("auth.denied", "collection_not_allowed")
    assert scene.upstream.links == []


async def test_who_may_read_everything_may_look_anything_up_and_is_not_held_up(scene: Scene) -> None:
    client = await scene.client()
    client.send(request("POST", QUERY, f"Content-Length: {len(ELSEWHERE)}", key=READ_KEY))
    link, _ = await scene.upstream.request()
    client.send(ELSEWHERE)
    assert await link.take(len(ELSEWHERE)) == ELSEWHERE
    link.send(ok())
    assert (await client.answer()).status == 200


async def test_what_can_not_be_seen_is_not_let_in(scene: Scene) -> None:
    packed = request("POST", QUERY, "Content-Encoding: gzip", key=SECRET, body=b"\x1f\x8b")
    answer = await scene.ask(packed, "POST")
    assert (answer.status, b"in a coding" in answer.body) == (403, True)
    assert (await scene.record())["reason"] == "body_not_judged"

    client = await scene.client()
    client.send(request("POST", QUERY, f"Content-Length: {MOST + 1}", key=SECRET))
    client.send(b" " * (MOST + 1))
    answer = await client.answer("POST")
    assert (answer.status, b"too large" in answer.body) == (403, True)
    assert (await scene.record())["reason"] == "body_not_judged"
    assert scene.upstream.links == []


async def test_who_waits_for_a_sign_gets_one_before_the_body_is_judged(scene: Scene) -> None:
    client = await scene.client()
    client.send(request("POST", QUERY, "Expect: 100-continue", f"Content-Length: {len(PLAIN)}", key=SECRET))
    assert (await client.answer()).status == 100
    assert scene.upstream.links == []
    client.send(PLAIN)
    link, head = await scene.upstream.request()
    assert b"xpect" not in head
    assert await link.take(len(PLAIN)) == PLAIN
    link.send(ok())
    assert (await client.answer()).status == 200


async def test_a_client_that_leaves_in_the_middle_of_its_body_leaves_nothing_behind(scene: Scene) -> None:
    client = await scene.client()
    client.send(request("POST", QUERY, "Content-Length: 100", key=SECRET), b"half")
    client.reset()
    record = await scene.record()
    assert record["failure"] == "the client left"
    assert scene.upstream.links == []
