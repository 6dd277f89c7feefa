"""Where both lanes meet. That they decide alike is seen in `test_http_lane`."""

from pathlib import Path

import pytest

from rekeyd.listeners.http.desk import told_of, too_large
from rekeyd.upstream.connection import UpstreamError, UpstreamTimeoutError
from support.gateway import API_KEY, Scene, stage
from support.wire import answering, ok, request


async def test_every_request_that_begins_there_ends_there(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        desk = scene.gateway._desk
        for key, status in ((API_KEY, 200), ("wrong", 401)):
            answer, record = await scene.asked(request(key=key))
            assert (answer.status, record["status"]) == (status, status)
            assert desk.visits == 0


async def test_ids_are_many_and_each_is_given_once(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        ids = [scene.gateway._desk.new_id() for _ in range(1000)]
        assert len(set(ids)) == 1000
        assert {len(bytes.fromhex(each)) for each in ids} == {16}


async def test_before_a_generation_there_is_nothing_to_go_by(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        desk = Scene(tmp_path, scene.upstream, tls=False, told=[]).current
        assert desk.generation is None
        assert scene.gateway._desk.generation() is scene.current.generation


@pytest.mark.parametrize(
    ("error", "status"),
    [(UpstreamTimeoutError("timeout", "slow"), 504), (UpstreamError("connect", "gone"), 502)],
)
def test_a_client_is_told_no_more_of_the_upstream_than_that_it_failed(
    error: UpstreamError, status: int
) -> None:
    told, words = told_of(error)
    assert told == status
    assert str(error) not in words


def test_a_bound_is_named_in_megabytes() -> None:
    assert too_large(32) == "The body is larger than 32 MB"
