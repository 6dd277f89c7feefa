"""Tokens over a real connection: the statuses of the contract, and what is told of whom."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from support.gateway import Scene, stage
from support.live import measured
from support.tokens import AUDIENCE, ISSUER, Issuer, by_hand, in_an_hour, key_set
from support.wire import answering, ok, request

SECRET, OTHER = "4f1c0d9e8b7a69584736251403f2e1d0", "e1d04f1c0d9e8b7a69584736251403f2"
RSA, EC, ED = Issuer("r"), Issuer("e", "ES256"), Issuer("d", "EdDSA")
BOOKS = [{"collection": "books", "access": "prw"}]
RBAC = {"api_key": SECRET, "alt_api_key": OTHER, "jwt_rbac": True}


def issuer_section(**differently: Any) -> dict[str, Any]:
    return {"jwks_file": "issuer.json", "jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, **differently}


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    """Both kinds of tokens are accepted, and no network fails too often."""
    (tmp_path / "issuer.json").write_bytes(key_set(RSA, EC, ED))
    access = issuer_section(failures_per_minute=100_000)
    async with stage(tmp_path, answering(ok()), service=RBAC, access=access) as scene:
        yield scene


def ours(secret: str = SECRET, **claims: Any) -> str:
    return jwt.encode({"exp": in_an_hour(), **claims}, secret, algorithm="HS256")


async def asked(
    scene: Scene, token: str | bytes, method: str = "GET", target: str = "/collections"
) -> tuple[int, str]:
    text = token.decode() if isinstance(token, bytes) else token
    answer = await scene.ask(request(method, target, key=text), method)
    if answer.status == 403:
        return 403, json.loads(answer.body)["status"]["error"]
    return answer.status, answer.body.decode()


POINTS = "/collections/books/points"


@pytest.mark.parametrize("either", [SECRET, OTHER])
async def test_a_token_reaches_what_it_says(scene: Scene, either: str) -> None:
    reader, manager, clerk = ours(either, access="r"), ours(either), ours(either, access=BOOKS)
    for token, method, target, status in (
        (reader, "GET", "/collections", 200),
        (reader, "PUT", POINTS, 403),
        (reader, "DELETE", "/collections/books", 403),
        (manager, "DELETE", "/collections/books", 200),
        (clerk, "PUT", POINTS, 200),
        (clerk, "PUT", "/collections/films/points", 403),
        (clerk, "PUT", "/collections/books/index", 403),
        (clerk, "DELETE", "/collections/books", 403),
        (ours(either, access=[]), "GET", "/collections/books", 403),
    ):
        assert (await asked(scene, token, method, target))[0] == status, (method, target)


@pytest.mark.parametrize("issuer", [RSA, EC, ED], ids=lambda issuer: issuer.algorithm)
async def test_so_does_one_of_an_issuer(scene: Scene, issuer: Issuer) -> None:
    assert (await asked(scene, issuer.token()))[0] == 200
    assert (await asked(scene, issuer.token(), "PUT", POINTS))[0] == 403
    assert (await asked(scene, issuer.token(access=BOOKS), "PUT", POINTS))[0] == 200


async def test_it_may_come_as_a_bearer_token(scene: Scene) -> None:
    for token in (ours(access="r"), RSA.token()):
        assert (
            await scene.ask(request("GET", "/collections", f"Authorization: bearer {token}"))
        ).status == 200


async def test_the_record_says_whose_it_is_and_never_the_token(scene: Scene) -> None:
    for token, key_id in (
        (ours(subject="ci", jti="id-1"), "api_key"),
        (RSA.token(sub="ci", jti="id-1"), "jwks:r"),
    ):
        await asked(scene, token)
        record = await scene.record()
        assert (record["event"], record["reason"], record["key_id"]) == ("auth.allowed", "token", key_id)
        assert (record["subject"], record["token_id"]) == ("ci", "id-1")
        assert token not in str(record)
        assert token.rpartition(".")[2] not in str(record) + str(scene.told)


async def test_the_upstream_is_told_whose_it_is_where_it_wants_to_know(scene: Scene) -> None:
    token = ours(subject="J\u00fcrgen Example")
    await asked(scene, token)
    scene.publish(upstream={"identity_headers": True})
    await asked(scene, token)
    before, after = scene.upstream.heads
    assert b"X-Rekeyd-Subject" not in before
    assert b"X-Rekeyd-Key-Id: api_key\r\n" in after
    assert b"X-Rekeyd-Subject: J%C3%BCrgen%20Example\r\n" in after


async def test_a_forged_token_tells_the_record_nothing(scene: Scene) -> None:
    await asked(scene, Issuer("r", name="impostor").token(sub="root", jti="id"))
    record = await scene.record()
    assert record["reason"] == "bad_signature"
    assert not {"key_id", "subject", "token_id"} & record.keys()


NO_TOKENS = [
    "no-token-at-all",
    "a.b",
    "a.b.c",
    "a.b.c.d",
    by_hand([], {}, SECRET.encode()),
    by_hand({"alg": "HS256"}, "claims", SECRET.encode()),
    by_hand({"alg": "HS256"}, {"a": "x" * 9000}, SECRET.encode()),
]


@pytest.mark.parametrize("text", NO_TOKENS)
async def test_what_is_no_token_is_401(scene: Scene, text: str | bytes) -> None:
    assert await asked(scene, text) == (401, "Invalid API key or JWT")
    assert (await scene.record())["reason"] == "unknown_key"


async def test_bytes_that_no_token_has_are_401(scene: Scene) -> None:
    head = request("GET", "/collections", "api-key: KEY").replace(b"KEY", "токен.токен.токен".encode())
    assert (await scene.ask(head)).status in {400, 401}


async def test_where_tokens_are_not_accepted_one_is_401(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), service={"api_key": SECRET}) as scene:
        assert await asked(scene, ours()) == (401, "Invalid API key or JWT")
        assert await asked(scene, RSA.token()) == (401, "Invalid API key or JWT")


LONG_AGO = 1_000_000
REFUSED = [
    (ours(exp=LONG_AGO), "expired", "The token has expired"),
    (RSA.token(exp=LONG_AGO), "expired", "The token has expired"),
    (ours(nbf=in_an_hour()), "not_yet_valid", "The token is not valid yet"),
    (RSA.token(nbf=in_an_hour()), "not_yet_valid", "The token is not valid yet"),
    (ours(SECRET[::-1]), "bad_signature", "Forbidden: the token's signature is not valid"),
    (Issuer("r", name="impostor").token(), "bad_signature", "Forbidden: the token's signature is not valid"),
    (RSA.token({"kid": "x"}), "bad_signature", "Forbidden: the token's key is not known"),
    (by_hand({"alg": "none"}, {}), "wrong_algorithm", "Forbidden: the token's algorithm is not accepted"),
    (
        ours(value_exists={"collection": "a", "matches": []}),
        "claims_not_judged",
        "Forbidden: the token's claim value_exists can't be judged here",
    ),
    (
        ours(access=[{"collection": "books", "access": "r", "payload": {"user": 7}}]),
        "claims_not_judged",
        "Forbidden: the token's claim access has a payload filter, which can't be judged here",
    ),
    (
        RSA.token(aud="else"),
        "claims_not_judged",
        "Forbidden: the token is meant for another audience",
    ),
    (RSA.token(exp=None), "claims_not_judged", "Forbidden: the token lacks the claim exp"),
    (
        by_hand({"alg": "HS256", "crit": ["exp"]}, {}, SECRET.encode()),
        "claims_not_judged",
        "Forbidden: the token asks for an extension that is not known",
    ),
    (ours(access="r"), "right_too_small", "Forbidden: write access is required"),
]


@pytest.mark.parametrize(("token", "reason", "words"), REFUSED)
async def test_what_is_a_token_and_not_good_is_403_with_the_reason(
    scene: Scene, token: str | bytes, reason: str, words: str
) -> None:
    assert await asked(scene, token, "PUT", POINTS) == (403, words)
    assert (await scene.record())["reason"] == reason


async def test_a_token_in_api_key_is_not_saved_by_a_good_one_in_authorization(scene: Scene) -> None:
    head = request("GET", "/collections", f"Authorization: Bearer {ours()}", key=ours(SECRET[::-1]))
    assert (await scene.ask(head)).status == 403


async def test_an_issuer_s_rotation_takes_effect_at_the_next_request(scene: Scene) -> None:
    client = await scene.client()
    ask = request("GET", "/collections", key=RSA.token())
    client.send(ask)
    assert (await client.answer()).status == 200
    (scene.folder / "issuer.json").write_bytes(key_set(EC))
    scene.publish()
    client.send(ask)
    assert (await client.answer()).status == 403
    (scene.folder / "issuer.json").write_bytes(key_set(EC, RSA))
    scene.publish()
    client.send(ask)
    assert (await client.answer()).status == 200


async def test_guesses_of_signatures_are_counted_and_a_good_token_is_not_locked_out(tmp_path: Path) -> None:
    (tmp_path / "issuer.json").write_bytes(key_set(RSA))
    access = issuer_section(failures_per_minute=5)
    async with stage(tmp_path, answering(ok()), service=RBAC, access=access) as scene:
        good = RSA.token()
        assert (await asked(scene, good))[0] == 200
        found = [(await asked(scene, ours(SECRET[::-1], jti=str(n))))[0] for n in range(8)]
        assert found == [403] * 5 + [429] * 3
        assert (await asked(scene, ours()))[0] == 200
        assert (await asked(scene, good))[0] == 200


FLOOD = 1000


async def test_a_flood_of_tokens_to_verify_leaves_the_loop_free(scene: Scene) -> None:
    """Told, not asserted: how long the loop was held up, and what a valid key waited."""
    impostor = Issuer("r", name="impostor")
    tokens = [impostor.token(jti=str(n)) for n in range(FLOOD)]
    worst, done = 0.0, asyncio.Event()

    async def watch() -> None:
        nonlocal worst
        while not done.is_set():
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            worst = max(worst, time.perf_counter() - began - 0.001)

    async def flood(share: list[str]) -> set[int]:
        client, statuses = await scene.client(), set()
        for token in share:
            client.send(request("GET", "/collections", key=token))
            statuses.add((await client.answer()).status)
        return statuses

    async def valid() -> float:
        client, slowest = await scene.client(), 0.0
        while not done.is_set():
            began = time.perf_counter()
            client.send(request("GET", "/collections", key=SECRET))
            assert (await client.answer()).status == 200
            slowest = max(slowest, time.perf_counter() - began)
        return slowest

    watching, caller = asyncio.create_task(watch()), asyncio.create_task(valid())
    began = time.perf_counter()
    statuses = await asyncio.gather(*(flood(tokens[n::20]) for n in range(20)))
    took = time.perf_counter() - began
    done.set()
    await watching
    assert set.union(*statuses) <= {403, 429}
    measured(f"{FLOOD} forged RS256 tokens over 20 connections, ms", round(took * 1000))
    measured("the loop's longest pause meanwhile, ms", round(worst * 1000, 1))
    measured("the longest wait of a valid key meanwhile, ms", round(await caller * 1000, 1))
