"""How a gRPC upstream is, by its own word or by its silence."""

from pathlib import Path
from typing import Any

import pytest

from rekeyd.trust.generation import Generation
from rekeyd.upstream.grpc import GrpcDialer
from rekeyd.upstream.grpc_health import GrpcHealth, Health
from support.generations import candidate_of, settings_of
from support.grpc_gateway import Recorder
from support.grpc_qdrant import grpc_qdrant
from support.grpc_upstream import grpc_upstream


def leading_to(address: str, **upstream: Any) -> Generation:
    return candidate_of(settings=settings_of(upstream={"grpc": address, **upstream})).generation(1)


async def health_of(address: str) -> Health:
    return await GrpcHealth(GrpcDialer()).look(leading_to(address))


async def test_what_the_upstream_says_is_what_it_is() -> None:
    async with grpc_upstream() as upstream:
        assert await health_of(upstream.address) is Health.SERVING
        for said in (b"\x08\x02", b"", b"\x08\x00", b"nonsense"):
            upstream.health = said
            assert await health_of(upstream.address) is Health.NOT_SERVING
            assert not Health.NOT_SERVING.good


async def test_who_has_no_health_checking_and_answers_is_well() -> None:
    async with grpc_qdrant() as address:
        assert await health_of(address) is Health.NOT_TOLD
        assert Health.NOT_TOLD.good


async def test_who_can_not_be_reached_or_answers_nonsense_is_not() -> None:
    assert await health_of("127.0.0.1:1") is Health.UNREACHABLE
    assert not Health.UNREACHABLE.good
    async with Recorder(answers=False, settings=b"12345").running() as address:
        assert await health_of(address) is Health.UNREACHABLE


async def test_an_answer_holds_for_a_moment() -> None:
    async with grpc_upstream() as upstream:
        health = GrpcHealth(GrpcDialer())
        for _ in range(5):
            await health.look(leading_to(upstream.address, api_key="the-upstreams-own"))
        assert len(upstream.seen) == 1
        assert upstream.seen[0][1]["api-key"] == "the-upstreams-own"


@pytest.mark.parametrize("silent", [True])
async def test_who_never_answers_is_given_up(
    silent: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("rekeyd.upstream.grpc_health.PATIENCE", 0.1)
    async with Recorder(greets=not silent, answers=False).running() as address:
        assert await health_of(address) is Health.UNREACHABLE
