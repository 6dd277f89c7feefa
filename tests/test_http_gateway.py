"""The path of a request: who gets in, what is forwarded of it, and the one line that each leaves."""

import asyncio
import gc
import gzip
import json
import socket
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Limits, Right
from rekeyd.listeners.http.guests import Guest
from support.gateway import API_KEY, READ_KEY, Scene, stage
from support.waiting import eventually
from support.wire import END_OF_HEAD, Link, answering, connect, ok, request

NO_CREDENTIAL = b"Must provide an API key or an Authorization bearer token"
UNKNOWN_KEY = b"Invalid API key or JWT"


# Who gets in.


async def test_a_key_opens_the_door_and_never_reaches_the_upstream(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request(key=API_KEY))
        assert (answer.status, answer.body) == (200, b"fine")
        (head,) = scene.upstream.heads
        assert API_KEY.encode() not in head
        assert record.pop("duration") > 0
        assert len(str(record.pop("request_id"))) == 32
        assert record == {
            "level": "info",
            "dispensable": True,
            "event": "auth.allowed",
            "decision": "allowed",
            "reason": "key",
            "key_id": "api_key",
            "right_needed": "read",
            "method": "GET",
            "path": "/collections",
            "status": 200,
            "client": "127.0.0.1",
            "generation": 1,
        }


async def test_over_tls_the_line_tells_the_version(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), tls=True) as scene:
        _, record = await scene.asked(request(key=API_KEY))
        assert record["tls"] == "TLSv1.3"
        answer, record = await scene.asked(b"no http at all\r\n\r\n")
        assert (answer.status, record["tls"], record["reason"]) == (400, "TLSv1.3", "malformed")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER"])
async def test_a_bearer_token_opens_it_as_well_however_the_scheme_is_written(
    tmp_path: Path, scheme: str
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(
            request("GET", "/collections", f"Authorization: {scheme} {API_KEY}")
        )
        assert (answer.status, record["key_id"]) == (200, "api_key")
        assert b"authorization" not in scene.upstream.heads[0].lower()


@pytest.mark.parametrize(
    ("fields", "status", "words", "reason"),
    [
        pytest.param([], 401, NO_CREDENTIAL, "no_credential", id="no credential"),
        pytest.param(["api-key: wrong"], 401, UNKNOWN_KEY, "unknown_key", id="unknown key"),
        pytest.param(["Authorization: Bearer x"], 401, UNKNOWN_KEY, "unknown_key", id="unknown token"),
        pytest.param(["Authorization: Basic eDp5"], 401, NO_CREDENTIAL, "no_credential", id="another scheme"),
        pytest.param(["api-key: \xff\xfe"], 401, UNKNOWN_KEY, "unknown_key", id="not ASCII"),
        pytest.param(["Authorization: Bearer \xe9"], 401, UNKNOWN_KEY, "unknown_key", id="token not ASCII"),
        pytest.param(
            ["api-key: wrong", f"Authorization: Bearer {API_KEY}"],
            401,
            UNKNOWN_KEY,
            "unknown_key",
            id="a wrong key is not saved by a right token",
        ),
        pytest.param(
            [f"api-key: {API_KEY}", f"Api-Key: {API_KEY}"],
            400,
            b"twice",
            "repeated_credential",
            id="the same header twice",
        ),
    ],
)
async def test_who_has_no_right_key_is_told_so_and_nothing_is_forwarded(
    tmp_path: Path, fields: list[str], status: int, words: bytes, reason: str
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request("GET", "/collections", *fields))
        assert answer.status == status
        assert words in answer.body
        assert answer.field("www-authenticate") == ("Bearer" if status == 401 else None)
        assert (record["event"], record["level"]) == ("auth.denied", "warning")
        assert (record["reason"], record["status"]) == (reason, status)
        assert not record["dispensable"]
        assert "key_id" not in record
        assert scene.upstream.links == []


async def test_who_guesses_has_to_wait_and_a_known_key_does_not(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok()), access={"failures_per_minute": 2}) as scene:
        said = [await scene.ask(request(key=f"guess-{number}")) for number in range(4)]
        assert [answer.status for answer in said] == [401, 401, 429, 429]
        assert 1 <= int(said[-1].field("retry-after") or 0) <= 30
        assert json.loads(said[-1].body)["status"]["error"] == "Too many failed attempts from this network"
        assert (await scene.ask(request(key=API_KEY))).status == 200
        reasons = [record["reason"] for record in await scene.several(5)]
        assert reasons == ["unknown_key"] * 2 + ["too_many_failures"] * 2 + ["key"]


async def test_who_guesses_behind_a_trusted_proxy_is_not_the_proxy(tmp_path: Path) -> None:
    service = {"trusted_proxies": ["127.0.0.0/8"]}
    async with stage(tmp_path, answering(ok()), access={"failures_per_minute": 1}, service=service) as scene:
        said = [
            (
                await scene.ask(request("GET", "/collections", f"X-Forwarded-For: {client}", key="guess"))
            ).status
            for client in ("192.0.2.1", "192.0.2.1", "192.0.2.2")
        ]
        assert said == [401, 429, 401]


async def test_a_key_with_a_rate_is_told_what_is_left_of_it(tmp_path: Path) -> None:
    upstream = ok(b"fine", "X-RateLimit-Limit: 1000", "X-RateLimit-Policy: theirs")
    key = replace(Credential.of_secret("slow", Right.READ, "a-key-with-a-rate"), limits=Limits(rate=0.01))
    async with stage(tmp_path, answering(upstream)) as scene:
        scene.believe(KeyRing([key]))
        allowed = await scene.ask(request(key="a-key-with-a-rate"))
        denied = await scene.ask(request(key="a-key-with-a-rate"))
    assert (allowed.status, denied.status) == (200, 429)
    for answer in (allowed, denied):
        assert answer.names.count("x-ratelimit-limit") == 1, "the key is held to ours"
        assert (answer.field("x-ratelimit-limit"), answer.field("x-ratelimit-remaining")) == ("0.01", "0")
        assert 90 <= int(answer.field("x-ratelimit-reset") or 0) <= 100
    assert allowed.field("x-ratelimit-policy") == "theirs"
    assert 90 <= int(denied.field("retry-after") or 0) <= 100


async def test_a_read_only_key_reads_and_does_not_write(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        assert (await scene.asked(request(key=READ_KEY)))[0].status == 200
        answer, record = await scene.asked(request("PUT", "/collections/a", key=READ_KEY, body=b"{}"))
        assert answer.status == 403
        assert answer.body.startswith(b'{"status":{"error":"Forbidden: ')
        assert b'"time":' in answer.body
        assert (record["key_id"], record["right_needed"]) == ("read_only_api_key", "manage")
        assert len(scene.upstream.heads) == 1


@pytest.mark.parametrize(
    "target",
    ["/collections/../x", "/./collections", "//collections", "/a%2fb", "/a%5cb", "/a;b", "/%2e%2e/x"],
)
async def test_a_path_that_can_be_read_in_two_ways_needs_the_highest_right(
    tmp_path: Path, target: str
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request("GET", target, key=READ_KEY))
        assert (answer.status, record["reason"]) == (400, "path_not_normal")
        assert scene.upstream.links == []
        answer, _ = await scene.asked(request("GET", target, key=API_KEY))
        assert answer.status == 200
        assert scene.upstream.heads[0].startswith(f"GET {target} HTTP/1.1\r\n".encode("latin-1"))


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/livez"])
async def test_the_services_own_open_paths_are_forwarded_whatever_credential_comes_along(
    tmp_path: Path, path: str
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request("GET", path, key="wrong"))
        assert (answer.status, record["reason"]) == (200, "open")
        answer, _ = await scene.asked(request("POST", path))
        assert answer.status == 401
        assert b"wrong" not in scene.upstream.heads[0]


async def test_without_any_key_and_insecure_everybody_gets_in_with_their_own_credentials(
    tmp_path: Path,
) -> None:
    keyless = {"api_key": None, "read_only_api_key": None, "insecure": True}
    async with stage(tmp_path, answering(ok()), service=keyless) as scene:
        answer, record = await scene.asked(request("PUT", "/collections/a", key="the-upstreams-own-key"))
        assert (answer.status, record["reason"]) == (200, "insecure")
        assert b"api-key: the-upstreams-own-key" in scene.upstream.heads[0]


async def test_the_upstreams_key_takes_the_place_of_the_clients(tmp_path: Path) -> None:
    secret = "what-only-the-upstream-knows"
    async with stage(tmp_path, answering(ok()), upstream_section={"api_key": secret}) as scene:
        await scene.asked(request(key=READ_KEY))
        (head,) = scene.upstream.heads
        assert head.count(b"api-key:") == 1
        assert f"api-key: {secret}".encode() in head


async def test_the_next_request_on_a_connection_is_judged_by_the_generation_of_its_moment(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        assert (await client.answer()).status == 200
        scene.publish(service={"api_key": "another-key-that-may-do-everything"})
        client.send(request(key=API_KEY))
        assert (await client.answer()).status == 401
        assert [r["generation"] for r in await scene.several(2)] == [1, 2]


# What never is a request.


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", id="two hosts"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="no host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a/x\r\n\r\n", id="a path in Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a b\r\n\r\n", id="a blank in Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: u@a\r\n\r\n", id="a user in Host"),
        pytest.param(b'GET / HTTP/1.1\r\nHost: "a"\r\n\r\n', id="quotes in Host"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x00b\r\n\r\n", id="NUL"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n", id="bare CR"),
        pytest.param(b"GET / HTTP/1.1\nHost: a\n\n", id="bare LF"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n folded\r\n\r\n", id="folding"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nX : a\r\n\r\n", id="a blank before the colon"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\n: a\r\n\r\n", id="no name"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: +1\r\n\r\nx", id="a signed length"),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx", id="two lengths"
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            id="length and chunked",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
            id="another coding",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
            id="chunked twice",
        ),
        pytest.param(
            b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", id="no coding"
        ),
        pytest.param(
            b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", id="chunked in 1.0"
        ),
        pytest.param(b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n", id="CONNECT"),
        pytest.param(b"CONNECT \r\n\r\n", id="CONNECT to nowhere"),
        pytest.param(b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n", id="TRACE"),
        pytest.param(b"GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", id="another scheme"),
        pytest.param(b"GET http:/a HTTP/1.1\r\nHost: a\r\n\r\n", id="no authority"),
        pytest.param(b"GET a HTTP/1.1\r\nHost: a\r\n\r\n", id="no slash"),
        pytest.param(b"GET * HTTP/1.1\r\nHost: a\r\n\r\n", id="an asterisk for GET"),
        pytest.param(b"GET /a b HTTP/1.1\r\nHost: a\r\n\r\n", id="a blank in the target"),
        pytest.param(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", id="a path that is not ASCII"),
        pytest.param(b"GET /?\xff HTTP/1.1\r\nHost: a\r\n\r\n", id="a query that is not ASCII"),
        pytest.param(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", id="the preface of HTTP/2"),
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", id="TLS"),
        pytest.param(b"hello\r\n\r\n", id="no HTTP"),
    ],
)
async def test_what_is_no_request_is_refused_with_400_and_one_line(tmp_path: Path, data: bytes) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        client.send(data)
        answer = await client.answer()
        record = await scene.record()
        assert (answer.status, answer.field("connection")) == (400, "close")
        assert (record["event"], record["reason"], record["status"]) == ("auth.denied", "malformed", 400)
        assert record["client"] == "127.0.0.1"
        await client.closed()
        assert scene.upstream.links == []


@pytest.mark.parametrize("version", ["0.9", "2.0"])
async def test_another_version_in_the_request_line_is_505(tmp_path: Path, version: str) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request(key=API_KEY, version=version))
        assert (answer.status, record["status"], record["reason"]) == (505, 505, "malformed")
        assert scene.upstream.links == []


async def test_http_0_9_is_505(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(b"GET /\r\n\r\n")
        assert (answer.status, record["status"]) == (505, 505)
        assert scene.upstream.links == []


async def test_a_target_with_a_password_is_refused_and_not_repeated(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request("GET", "http://user:geheim@service.test/x"))
        assert answer.status == 400
        assert "geheim" not in str(record)
        assert "path" not in record


async def test_any_expectation_but_100_continue_is_417(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request("GET", "/collections", "Expect: tea", key=API_KEY))
        assert (answer.status, record["reason"]) == (417, "malformed")


async def test_the_query_is_forwarded_and_never_told(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        _, record = await scene.asked(request("GET", "/collections?api-key=geheim&a=%7e?", key=API_KEY))
        assert record["path"] == "/collections"
        assert scene.upstream.heads[0].startswith(b"GET /collections?api-key=geheim&a=%7e? HTTP/1.1\r\n")


# What is forwarded.


@pytest.mark.parametrize(
    "target",
    [
        "/collections/my%20coll",
        "/collections/%41bc",
        "/collections/100%25",
        "/collections/%c3%a9",
        "/collections/%C3%A9?",
        "/collections?",
        "/collections?a=%2f..%2F&b=[x]|{y}",
    ],
)
async def test_a_target_is_forwarded_byte_for_byte(tmp_path: Path, target: str) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, _ = await scene.asked(request("GET", target, key=READ_KEY))
        assert answer.status == 200
        assert scene.upstream.heads[0].startswith(f"GET {target} HTTP/1.1\r\n".encode("latin-1"))


async def test_of_an_absolute_target_the_authority_holds_whatever_host_says(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        await scene.asked(request("GET", "http://other.test:81/collections?x", key=API_KEY))
        (head,) = scene.upstream.heads
        assert head.startswith(b"GET /collections?x HTTP/1.1\r\nHost: other.test:81\r\n")
        assert b"service.test" not in head


async def test_options_with_an_asterisk_needs_the_highest_right(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        assert (await scene.asked(request("OPTIONS", "*", key=READ_KEY)))[0].status == 400
        assert (await scene.asked(request("OPTIONS", "*", key=API_KEY)))[0].status == 200
        assert scene.upstream.heads[0].startswith(b"OPTIONS * HTTP/1.1\r\n")


async def test_nothing_is_invented_in_either_direction(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok(b"x", "X-Odd:  \xe9\xff "))) as scene:
        answer, _ = await scene.asked(request("GET", "/collections", "X-Mine: \xff\xfe\x80", key=API_KEY))
        assert answer.head == b"HTTP/1.1 200 OK\r\nX-Odd: \xe9\xff\r\nContent-Length: 1\r\n\r\n"
        lines = scene.upstream.heads[0].split(b"\r\n")
        assert [line.partition(b":")[0].lower() for line in lines[1:-2]] == [
            b"host",
            b"x-mine",
            b"x-forwarded-for",
            b"x-forwarded-proto",
            b"x-forwarded-host",
            b"x-request-id",
        ]
        assert b"X-Mine: \xff\xfe\x80" in lines


async def test_what_a_client_says_about_itself_is_replaced(tmp_path: Path) -> None:
    told = [
        "X-Forwarded-For: 6.6.6.6",
        "X-Forwarded-Proto: gopher",
        "X-Forwarded-Host: evil.test",
        "X-Forwarded-Prefix: /evil",
        "Forwarded: for=6.6.6.6",
        "X-Real-IP: 6.6.6.6",
        "X-Rekeyd-Key-Id: root",
    ]
    async with stage(tmp_path, answering(ok())) as scene:
        _, record = await scene.asked(request("GET", "/collections", *told, key=API_KEY))
        head = scene.upstream.heads[0]
        assert b"6.6.6.6" not in head
        assert b"evil" not in head
        assert b"root" not in head
        assert (
            b"X-Forwarded-For: 127.0.0.1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: service.test" in head
        )
        assert record["client"] == "127.0.0.1"


async def test_a_trusted_proxy_is_believed(tmp_path: Path) -> None:
    trusting = {"trusted_proxies": ["127.0.0.0/8", "10.0.0.0/8"]}
    told = ["X-Forwarded-For: 6.6.6.6, 192.0.2.7", "X-Forwarded-For: 10.1.1.1", "X-Forwarded-Proto: https"]
    async with stage(tmp_path, answering(ok()), service=trusting) as scene:
        _, record = await scene.asked(request("GET", "/collections", *told, key=API_KEY))
        head = scene.upstream.heads[0]
        assert b"X-Forwarded-For: 6.6.6.6, 192.0.2.7, 10.1.1.1, 127.0.0.1\r\n" in head
        assert b"X-Forwarded-Proto: https" in head
        assert record["client"] == "192.0.2.7"


async def test_an_ipv4_client_of_a_socket_for_both_is_known_by_its_ipv4_address(tmp_path: Path) -> None:
    both = {"host": "::", "trusted_proxies": ["127.0.0.0/8"]}
    async with stage(tmp_path, answering(ok()), service=both) as scene:
        client = await connect("127.0.0.1", scene.port)
        client.send(request("GET", "/collections", "X-Forwarded-For: 192.0.2.7", key=API_KEY))
        assert (await client.answer()).status == 200
        client.close()
        assert (await scene.record())["client"] == "192.0.2.7"
        assert b"X-Forwarded-For: 192.0.2.7, 127.0.0.1\r\n" in scene.upstream.heads[0]


async def test_hop_by_hop_fields_end_here_in_both_directions(tmp_path: Path) -> None:
    hops = [
        "Connection: X-Private, keep-alive",
        "X-Private: 1",
        "Proxy-Connection: x",
        "Keep-Alive: 1",
        "TE: gzip",
    ]
    reply = ["Connection: X-Inner", "X-Inner: 1", "Proxy-Connection: x", "Keep-Alive: 1", "Upgrade: h2c"]
    async with stage(tmp_path, answering(ok(b"x", *reply))) as scene:
        answer, _ = await scene.asked(request("GET", "/collections", *hops, key=API_KEY))
        head = scene.upstream.heads[0].lower()
        for name in (b"x-private", b"proxy-connection", b"keep-alive", b"\r\nte:", b"connection:"):
            assert name not in head
        assert answer.names == ["content-length"]


async def test_te_trailers_passes_as_a_field_of_this_hop(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        await scene.asked(
            request("GET", "/collections", "Connection: TE", "TE: trailers, deflate", key=API_KEY)
        )
        assert b"Connection: TE\r\nTE: trailers\r\n" in scene.upstream.heads[0]


async def test_a_key_that_connection_names_is_judged_and_removed(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        answer, record = await scene.asked(request("GET", "/collections", "Connection: api-key", key=API_KEY))
        assert (answer.status, record["key_id"]) == (200, "api_key")
        assert b"api-key" not in scene.upstream.heads[0].lower()


@pytest.mark.parametrize("name", ["X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override"])
async def test_another_method_can_not_be_smuggled_in_a_field(tmp_path: Path, name: str) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        await scene.asked(request("GET", "/collections", f"{name}: DELETE", key=READ_KEY))
        assert b"DELETE" not in scene.upstream.heads[0]


async def test_an_upgrade_to_h2c_is_not_forwarded_and_is_the_last_request_of_its_connection(
    tmp_path: Path,
) -> None:
    wish = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABkAAQAAP__"]
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        client.send(request("GET", "/collections", *wish, key=API_KEY), request(key=API_KEY))
        answer = await client.answer()
        assert (answer.status, answer.field("connection")) == (200, "close")
        await client.closed()
        (head,) = scene.upstream.heads
        assert b"h2c" not in head
        assert b"upgrade" not in head.lower()
        assert b"http2" not in head.lower()
        await scene.record()


async def test_one_clients_cookies_are_not_another_ones(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok(b"x", "Set-Cookie: a=b; Path=/"))) as scene:
        scene.publish(upstream={"http": f"http://localhost:{scene.upstream.port}"})
        answer, _ = await scene.asked(request(key=API_KEY))
        assert answer.field("set-cookie") == "a=b; Path=/"
        await scene.asked(request(key=API_KEY))
        assert not any(b"cookie" in head.lower() for head in scene.upstream.heads)


async def test_compressed_bodies_pass_as_they_are_both_ways(tmp_path: Path) -> None:
    packed = gzip.compress(b"x" * 1000)
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Content-Encoding: gzip", key=API_KEY, body=packed))
        link, head = await scene.upstream.request()
        assert b"Content-Encoding: gzip\r\n" in head
        assert await link.take(len(packed)) == packed
        link.send(ok(packed, "Content-Encoding: gzip"))
        answer = await client.answer()
        assert (answer.body, answer.field("content-encoding")) == (packed, "gzip")


async def test_a_request_id_is_passed_on_where_it_is_one_and_made_where_it_is_none(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        _, record = await scene.asked(request("GET", "/collections", "X-Request-Id: abc-1", key=API_KEY))
        assert record["request_id"] == "abc-1"
        assert b"X-Request-Id: abc-1\r\n" in scene.upstream.heads[0]
        _, record = await scene.asked(request("GET", "/collections", "X-Request-Id: a\tb c", key=API_KEY))
        assert f"X-Request-Id: {record['request_id']}\r\n".encode() in scene.upstream.heads[1]
        assert record["request_id"] != "a\tb c"


async def test_the_upstream_is_told_who_came_where_it_wants_to_know(tmp_path: Path) -> None:
    async with stage(
        tmp_path, answering(ok()), tls=True, upstream_section={"identity_headers": True}
    ) as scene:
        await scene.asked(request("GET", "/collections", "X-Rekeyd-Right: manage", key=READ_KEY))
        head = scene.upstream.heads[0]
        assert (
            b"X-Rekeyd-Key-Id: read_only_api_key\r\nX-Rekeyd-Right: read\r\nX-Rekeyd-Tls: TLSv1.3\r\n" in head
        )
        assert head.count(b"X-Rekeyd-Right") == 1


async def test_a_name_in_a_client_certificate_can_not_forge_a_field(tmp_path: Path) -> None:
    asking = {"verify_https_client_certificate": True}
    async with stage(
        tmp_path, answering(ok()), tls=True, upstream_section={"identity_headers": True}
    ) as scene:
        assert scene.authority is not None
        scene.authority.write(tmp_path / "ca.crt")
        scene.publish(service=asking, tls={"ca_cert": "ca.crt"})
        context = scene.context()
        assert context is not None
        leaf = scene.authority.issue("a", common_name="a\r\nX-Evil: 1,commonName=é", client=True)
        context.load_cert_chain(*leaf.write(tmp_path / "client"))
        client = await scene.client(context)
        client.send(request(key=API_KEY))
        assert (await client.answer()).status == 200
        line = rb"X-Rekeyd-Client-Cert: dns:a" + b"\r\n"
        assert line in scene.upstream.heads[0]
        await scene.record()


# Bodies that are too large.


async def test_a_body_announced_too_large_is_413_and_never_asked_for(tmp_path: Path) -> None:
    async with stage(tmp_path, service={"max_request_size_mb": 1}) as scene:
        data = request("PUT", "/collections/a", f"Content-Length: {1024 * 1024 + 1}", key=API_KEY)
        answer, record = await scene.asked(data)
        assert answer.status == 413
        assert answer.body.startswith(b'{"status":{"error":"The body is larger than 1 MB"}')
        assert (record["event"], record["status"], record["key_id"]) == ("auth.allowed", 413, "api_key")
        assert scene.upstream.links == []


async def test_a_chunked_body_is_413_when_it_turns_out_too_large_and_the_upstream_sees_no_end(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, service={"max_request_size_mb": 1}) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY))
        client.send(*([b"10000\r\n", b"x" * 0x10000, b"\r\n"] * 17))
        answer = await client.answer()
        record = await scene.record()
        assert (answer.status, answer.field("connection"), record["status"]) == (413, "close", 413)
        link = await scene.upstream.link()
        await link.closed()
        assert not link.received.endswith(b"0\r\n\r\n")


async def test_a_chunked_body_of_just_the_size_passes(tmp_path: Path) -> None:
    async with stage(tmp_path, service={"max_request_size_mb": 1}) as scene:
        client = await scene.client()
        client.send(request("PUT", "/collections/a", "Transfer-Encoding: chunked", key=API_KEY))
        client.send(*([b"10000\r\n", b"x" * 0x10000, b"\r\n"] * 16), b"0\r\n\r\n")
        link, _ = await scene.upstream.request()
        await link.until(b"\r\n0\r\n\r\n")
        link.send(ok())
        assert (await client.answer()).status == 200


async def test_the_body_of_a_denied_request_never_runs_as_a_request(tmp_path: Path) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        client = await scene.client()
        inner = request("DELETE", "/collections/a", key=API_KEY)
        client.send(request("POST", "/collections/a/points", body=inner), request(key=API_KEY))
        assert [(await client.answer()).status for _ in range(2)] == [401, 200]
        assert [r["method"] for r in await scene.several(2)] == ["POST", "GET"]
        assert len(scene.upstream.heads) == 1


# The line that each request leaves, whatever became of it.


async def test_a_client_that_leaves_has_its_line_and_cancels_the_request_at_the_upstream(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        client.close()
        await link.closed()
        record = await scene.record()
        assert (record["event"], record["failure"]) == ("auth.allowed", "the client left")
        assert "status" not in record


async def test_a_client_that_leaves_in_the_middle_of_an_answer_has_its_status_in_the_line(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: 1\n\n")
        await client.until(b"data: 1\n\n")
        client.reset()
        await link.closed()
        record = await scene.record()
        assert (record["status"], record["failure"]) == (200, "the client left")


async def test_an_upstream_that_can_not_be_reached_is_502_and_told_twice(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        await scene.upstream.stop()
        answer, record = await scene.asked(request(key=API_KEY))
        assert answer.status == 502
        assert answer.body.startswith(b'{"status":{"error":"The upstream can\'t be reached or broke off"}')
        assert b"127.0.0.1" not in answer.body
        assert (record["status"], record["key_id"]) == (502, "api_key")
        assert "Connection refused" in str(record["failure"])
        (line,) = scene.events("upstream.failed")
        assert (line["cause"], line["request_id"]) == ("connect", record["request_id"])


async def test_a_fault_of_our_own_is_500_and_has_its_line(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        scene.ready = None  # type: ignore[assignment]
        answer, record = await scene.asked(request("GET", "/.rekeyd/readyz"))
        assert (answer.status, answer.field("connection")) == (500, "close")
        assert record["reason"] == "health"
        scene.told.clear()


# Draining.


async def test_a_drain_finishes_what_runs_and_says_that_it_closes(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        drain = asyncio.create_task(scene.gateway.drain(5))
        await asyncio.sleep(0)
        link.send(ok(b"to the end"))
        answer = await client.answer()
        assert (answer.body, answer.field("connection")) == (b"to the end", "close")
        await client.closed()
        assert await drain == 0
        assert (await scene.record())["status"] == 200


async def test_a_drain_closes_idle_connections_at_once_and_gives_newcomers_their_first_answer(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        idle, newcomer = await scene.client(), await scene.client()
        idle.send(request(key=API_KEY))
        await idle.answer()
        await eventually(lambda: scene.door.connections == 2)
        drain = asyncio.create_task(scene.gateway.drain(5))
        await idle.closed()
        newcomer.send(request(key=API_KEY))
        answer = await newcomer.answer()
        assert (answer.status, answer.field("connection")) == (200, "close")
        assert await drain == 0


async def test_a_drain_does_not_wait_for_newcomers_that_say_nothing(tmp_path: Path) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        await eventually(lambda: scene.door.connections == 1)
        async with asyncio.timeout(3):
            assert await scene.gateway.drain(30) == 0
        await client.closed()


async def test_who_comes_in_while_the_last_one_leaves_a_drain_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with stage(tmp_path, answering(ok())) as scene:
        first = await scene.client()
        await eventually(lambda: scene.door.connections == 1)
        ours, theirs = socket.socketpair()
        serving, guests = scene.current.serving, scene.gateway._guests
        assert serving is not None
        wire, _ = await asyncio.get_running_loop().connect_accepted_socket(asyncio.Protocol, theirs)
        late, went = scene.gateway.protocol(serving), guests.went
        scene.door._connections += 1

        def went_as_another_comes(protocol: Guest) -> None:
            went(protocol)
            if cast(object, protocol) is not late:
                wire.set_protocol(late)
                late.connection_made(wire)

        monkeypatch.setattr(guests, "went", went_as_another_comes)
        drain = asyncio.create_task(scene.gateway.drain(5))
        reader, writer = await asyncio.open_connection(sock=ours)
        await first.closed()
        writer.write(request(key=API_KEY))
        assert (await reader.readline()).startswith(b"HTTP/1.1 200 ")
        writer.close()
        assert await drain == 0


async def test_a_drain_cuts_off_what_does_not_end_in_time_and_every_request_has_its_line(
    tmp_path: Path,
) -> None:
    async with stage(tmp_path) as scene:
        client = await scene.client()
        client.send(request(key=API_KEY))
        link, _ = await scene.upstream.request()
        link.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n")
        await client.until(b"x\r\n")
        assert await scene.gateway.drain(0.1) == 1
        (record,) = scene.records
        assert (record["status"], record["failure"]) == (200, "cut off at the end of the drain")
        await client.closed()
        assert not client.received.endswith(b"0\r\n\r\n")
        scene.records.clear()


async def test_a_drain_waits_until_a_slow_client_has_its_answer(tmp_path: Path) -> None:
    size = 1_000_000
    async with stage(tmp_path, answering(ok(b"x" * size)), tls=True) as scene:
        client = await scene.client(buffer=16384)
        client.transport.pause_reading()
        client.send(request(key=API_KEY))
        await eventually(lambda: scene.upstream.heads)
        drain = asyncio.create_task(scene.gateway.drain(5))
        await asyncio.sleep(0.3)
        client.transport.resume_reading()
        answer = await client.answer()
        assert (len(answer.body), answer.whole) == (size, True)
        assert await drain == 0
        assert "failure" not in await scene.record()


# Nothing is left behind.


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def one_of_many(scene: Scene, number: int) -> None:
    """A client that asks, and in one case of three leaves before its answer is whole."""
    client = await scene.client()
    client.send(request("GET", f"/collections/{number}", key=API_KEY))
    if number % 3:
        assert (await client.answer()).status == 200
        client.close()
    else:
        client.reset()


async def dawdling(link: Link) -> None:
    while True:
        await link.until(END_OF_HEAD, patience=None)
        link.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n")
        await asyncio.sleep(0)
        link.send(b"x" * 100_000)


@pytest.mark.parametrize("rounds", [6, pytest.param(100, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
@pytest.mark.parametrize("tls", [False, True])
async def test_after_many_requests_and_many_that_broke_off_nothing_is_left(
    tmp_path: Path, tls: bool, rounds: int
) -> None:
    async with stage(tmp_path, dawdling, tls=tls) as scene:
        await one_of_many(scene, 1)
        await eventually(lambda: scene.door.connections == 0)
        tasks, descriptors = len(asyncio.all_tasks()), open_descriptors()
        for _ in range(rounds):
            await asyncio.gather(*(one_of_many(scene, number) for number in range(50)))
        await eventually(lambda: scene.door.connections == 0)
        pool = await scene.pools.pool_for(scene.current.generation)  # type: ignore[arg-type]
        assert not pool._lent
        assert scene.gateway._desk.visits == 0
        assert not scene.gateway._guests.open
        assert not scene.gateway._server.connections
        scene.forget_clients()
        pool.close()
        await eventually(lambda: all(link.ended for link in scene.upstream.links))
        scene.upstream.links.clear()
        gc.collect()
        await eventually(lambda: len(asyncio.all_tasks()) <= tasks, what="the end of all tasks")
        await eventually(lambda: open_descriptors() <= descriptors, what="the end of all descriptors")
        assert len(scene.records) > 33 * rounds
