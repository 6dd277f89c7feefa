"""Which rule decides, and which paths are open."""

import importlib.resources
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.policy import Policy, Rule
from rekeyd.access.policy_file import parse_policy
from rekeyd.access.rights import Right


def policy(*routes: str, opened: tuple[str, ...] = ()) -> Policy:
    """A policy of lines such as `GET /x: read`."""
    lines = ["open: [" + ", ".join(opened) + "]", "rights:", *("  " + route for route in routes)]
    return parse_policy("\n".join(lines).encode(), file="policy.yaml")


def shipped(name: str) -> Policy:
    source = importlib.resources.files("rekeyd") / "policies" / f"{name}.yaml"
    return parse_policy(source.read_bytes(), file=name)


def right(rules: Policy, method: str, path: str) -> Right:
    rule = rules.rule_for(method.encode(), path.encode())
    return rule.right if rule else Right.MANAGE


# --- rules


def test_a_literal_matches_itself_byte_for_byte() -> None:
    rules = policy("GET /a/b: read")
    assert rules.rule_for(b"GET", b"/a/b") == Rule("GET", "/a/b", Right.READ)
    for other in (b"/a", b"/a/", b"/a/b/", b"/a/b/c", b"/A/b", b"/a/%62", b"a/b", b"", b"*", b"//a/b"):
        assert rules.rule_for(b"GET", other) is None


def test_a_method_is_a_method() -> None:
    rules = policy("GET /a: read")
    for method in (b"HEAD", b"POST", b"get", b"Get", b"GET ", b""):
        assert rules.rule_for(method, b"/a") is None


def test_a_name_matches_one_segment_that_is_not_empty() -> None:
    rules = policy("GET /a/{x}/b: read")
    assert right(rules, "GET", "/a/1/b") is Right.READ
    assert right(rules, "GET", "/a/my%20coll/b") is Right.READ
    assert rules.rule_for(b"GET", b"/a//b") is None
    assert rules.rule_for(b"GET", b"/a/1/2/b") is None


def test_a_rest_matches_whatever_is_left() -> None:
    rules = policy("GET /a/{rest...}: read")
    for path in (b"/a/", b"/a/b", b"/a/b/c", b"/a/b/"):
        assert rules.rule_for(b"GET", path) is not None
    for path in (b"/a", b"/", b"/b"):
        assert rules.rule_for(b"GET", path) is None


def test_a_literal_wins_over_a_name_and_a_name_over_a_rest() -> None:
    rules = policy("GET /{r...}: read", "GET /{x}: write", "GET /a: manage", "GET /a/{x}/c: read")
    assert right(rules, "GET", "/a") is Right.MANAGE
    assert right(rules, "GET", "/b") is Right.WRITE
    assert right(rules, "GET", "/b/c") is Right.READ
    assert right(rules, "GET", "/a/b/c") is Right.READ


def test_a_literal_that_leads_nowhere_gives_way_to_a_name() -> None:
    rules = policy("GET /a/b: manage", "GET /{x}/c: read")
    assert right(rules, "GET", "/a/c") is Right.READ


def test_the_root_can_have_a_rule() -> None:
    assert right(policy("GET /: read"), "GET", "/") is Right.READ


# --- other readings


@pytest.mark.parametrize(
    "path",
    [
        "/ADMIN",
        "/Admin",
        "/%61dmin",
        "/%2561dmin",
        "/%41DMIN",
        "/admin/",
        "/Admin/",
        "/admin%20",
        "/%20admin",
        "/admin%3bx",
        "/admin%3fx",
        "/admin%23x",
        "/admin%253bx",
        "/admin%3bx/deeper",
        "/admin%3f/deeper/still",
        "/adm%c4%b1n",
        "/adm%C4%B0n",
    ],
)
def test_another_spelling_of_a_literal_never_needs_less(path: str) -> None:
    assert right(policy("GET /admin: manage", "GET /{rest...}: read"), "GET", path) is Right.MANAGE
    assert (
        right(policy("GET /admin: manage", "GET /{x}: read", "GET /{x}/: read"), "GET", path) is Right.MANAGE
    )


def test_letters_that_become_ascii_in_another_case_are_no_way_around() -> None:
    rules = policy("GET /tasks: manage", "GET /{rest...}: read")
    for path in ("/ta%C5%BFk%C5%BF", "/tas%E2%84%AAs", "/TA%C5%BFKS"):
        assert right(rules, "GET", path) is Right.MANAGE
    assert right(rules, "GET", "/tasts") is Right.READ


def test_a_trailing_slash_more_or_less_never_needs_less() -> None:
    tail = policy(
        "GET /{rest...}: read", "GET /admin/{rest...}: manage", "GET /old/: manage", "GET /a: write"
    )
    for path in ("/admin", "/admin/", "/admin/x", "/old", "/old/", "/a/"):
        assert right(tail, "GET", path) is Right.MANAGE
    assert right(tail, "GET", "/a") is Right.WRITE
    assert right(tail, "GET", "/b/") is Right.READ


def test_a_spelling_that_needs_no_more_is_no_reason_to_refuse() -> None:
    rules = policy("GET /a: read", "GET /a/{rest...}: read", "GET /{x}: read", "GET /{x}/b: manage")
    for path in ("/a", "/a/", "/A", "/%61", "/a%3fb"):
        assert right(rules, "GET", path) is Right.READ
    assert right(rules, "GET", "/x/b") is Right.MANAGE


def test_a_literal_that_stands_there_is_taken_at_its_word() -> None:
    rules = policy("GET /a: read", "GET /A: manage", "GET /b/x: read", "GET /b/{y}: manage")
    assert right(rules, "GET", "/a") is Right.READ
    assert right(rules, "GET", "/A") is Right.MANAGE
    assert right(rules, "GET", "/b/x") is Right.READ


def test_a_cut_at_an_encoded_delimiter_is_weighed_at_names_too() -> None:
    rules = policy("POST /c/{x}: manage", "POST /c/{x}/search: read")
    assert right(rules, "POST", "/c/a/search") is Right.READ
    assert right(rules, "POST", "/c/a%2520b/search") is Right.READ
    for path in ("/c/a%3f/search", "/c/a%253b/search", "/c/%23/search"):
        assert right(rules, "POST", path) is Right.MANAGE


def test_without_a_leading_slash_nothing_matches() -> None:
    assert shipped("http").rule_for(b"OPTIONS", b"*") is None
    assert shipped("http").rule_for(b"GET", b"collections") is None


@pytest.mark.parametrize("name", ["qdrant", "http"])
@pytest.mark.parametrize(
    "path",
    [
        b"/" + b"collections/" * 5_000,
        b"/" * 60_000,
        b"/collections/" + b"a/" * 30_000,
        b"/collections/x" + b"/points" * 9_000,
        b"/collections/" + b"%25" * 20_000,
        b"/collections/" + b"%25%32%35" * 7_000 + b"/points/search",
        b"/" + b"a" * 65_000,
    ],
)
def test_a_path_of_thousands_of_segments_is_judged_at_once(name: str, path: bytes) -> None:
    rules = shipped(name)
    started = time.process_time()
    for method in (b"GET", b"POST", b"PUT", b"DELETE"):
        rules.rule_for(method, path)
    assert time.process_time() - started < 1


def test_branching_templates_do_not_multiply_the_work() -> None:
    routes = []
    for depth in range(1, 12):
        for bits in range(2 ** min(depth, 6)):
            parts = [("a" if bits >> i & 1 else "{x}") for i in range(depth)]
            routes.append(f"GET /{'/'.join(parts)}/end{bits}: manage")
    rules = policy(*routes, "GET /{r...}: read")
    started = time.process_time()
    for _ in range(50):
        rules.rule_for(b"GET", b"/" + b"A/" * 12 + b"nowhere")
        rules.rule_for(b"GET", b"/" + b"a/" * 12 + b"nowhere")
    assert time.process_time() - started < 1


@given(st.sampled_from([b"GET", b"POST", b"OPTIONS", b"x"]), st.binary(max_size=80))
def test_any_path_is_judged_without_an_error(method: bytes, path: bytes) -> None:
    for rules in (QDRANT, HTTP):
        rule = rules.rule_for(method, path)
        assert rule is None or rule.method.encode() == method


QDRANT, HTTP = shipped("qdrant"), shipped("http")


# --- open paths


def test_open_paths_are_open_exactly_and_for_safe_methods() -> None:
    for path in (b"/", b"/healthz", b"/readyz", b"/livez"):
        for method in (b"GET", b"HEAD", b"OPTIONS"):
            assert QDRANT.is_open(method, path)
        for method in (b"POST", b"PUT", b"PATCH", b"DELETE", b"get", b"TRACE", b"QUERY", b""):
            assert not QDRANT.is_open(method, path)


@pytest.mark.parametrize(
    "path",
    [
        b"",
        b"*",
        b"//",
        b"/healthz/",
        b"/Healthz",
        b"/%68ealthz",
        b"/healthz%20",
        b"/healthz;x",
        b"/healthz?",
        b"/healthz#",
        b"/./healthz",
        b"/x/../healthz",
        b"/healthz/../collections",
        b"healthz",
    ],
)
def test_no_other_spelling_of_an_open_path_is_open(path: bytes) -> None:
    assert not any(QDRANT.is_open(method, path) for method in (b"GET", b"HEAD", b"OPTIONS"))


def test_http_opens_nothing() -> None:
    assert HTTP.open_paths == frozenset()


def test_public_paths_join_those_of_the_policy() -> None:
    more = QDRANT.opening(["/metrics"])
    assert more.is_open(b"GET", b"/metrics")
    assert more.is_open(b"GET", b"/healthz")
    assert not more.is_open(b"GET", b"/metrics/")
    assert not more.is_open(b"POST", b"/metrics")
    assert not QDRANT.is_open(b"GET", b"/metrics")
    assert more.rules == QDRANT.rules


def test_policies_that_decide_alike_are_equal() -> None:
    assert shipped("qdrant") == shipped("qdrant")
    assert QDRANT != HTTP
    assert QDRANT.opening(["/x"]) != QDRANT
    assert policy("GET /a: read") != policy("GET /a: write")


def test_http_reads_with_safe_methods_and_manages_with_the_rest() -> None:
    for method in ("GET", "HEAD", "OPTIONS"):
        assert right(HTTP, method, "/any/thing") is Right.READ
    for method in ("POST", "PUT", "PATCH", "DELETE", "QUERY", "PROPFIND"):
        assert right(HTTP, method, "/any/thing") is Right.MANAGE
