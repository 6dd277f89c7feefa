"""`check --explain`: the rule that decides, and who may; the same words for every policy that ships."""

import importlib.resources
import ipaddress
from dataclasses import replace

import pytest

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.policy_file import parse_policy
from rekeyd.access.rights import Limits, Reach, Right
from rekeyd.commands.explain import explain
from rekeyd.trust.generation import Candidate
from support.generations import candidate_of

KEYS = [
    Credential.of_secret("admin", Right.MANAGE, "secret-of-the-admin"),
    Credential.of_secret("reader", Right.READ, "secret-of-the-reader"),
    replace(
        Credential.of_secret("books", Right.WRITE, "secret-of-books"),
        limits=Limits(
            collections=(("books", Reach.POINTS),), networks=(ipaddress.ip_network("192.0.2.0/24"),)
        ),
    ),
    replace(Credential.of_secret("gone", Right.MANAGE, "secret-of-the-past"), expires=1.0),
]


def candidate(policy: str = "qdrant") -> Candidate:
    source = (importlib.resources.files("rekeyd") / "policies" / f"{policy}.yaml").read_bytes()
    return replace(candidate_of(ring=KeyRing(KEYS)), policy=parse_policy(source, file=policy))


def said(asked: str, policy: str = "qdrant") -> dict[str, str]:
    """The lines by their labels; the first without one."""
    first, *rest = explain(asked, candidate(policy), now=1000.0)
    return {"": first} | {line[2:12].strip(): line[12:] for line in rest}


def test_the_rule_that_decides_is_told_with_what_it_needs_and_who_has_it() -> None:
    assert said("POST /collections/books/points/search") == {
        "": "POST /collections/books/points/search",
        "policy": "qdrant",
        "rule": "POST /collections/{collection_name}/points/search: read points",
        "needs": "read on the collection books (`points` is enough)",
        "may": "admin, books, reader",
        "may not": "gone (expired)",
    }


def test_what_needs_the_body_is_told() -> None:
    needs = said("POST /collections/papers/points/query")
    assert needs["needs"].endswith(
        "and read on each collection that the body names in lookup_from or with_lookup"
    )
    assert needs["may not"] == "gone (expired), books (collection_not_allowed)"


def test_an_open_path_is_open() -> None:
    assert said("GET /healthz?verbose=1") == {
        "": "GET /healthz",
        "policy": "qdrant",
        "open": "to everybody, whatever credential comes along",
    }


@pytest.mark.parametrize("asked", ["GET /unknown", "GET /collections/../x", "PUT /collections/a;b"])
def test_without_a_rule_the_highest_right_is_needed(asked: str) -> None:
    told = said(asked)
    assert told["rule"].startswith("none")
    assert told["needs"] == "manage, without limits"
    assert told["may"] == "admin"


@pytest.mark.parametrize(
    ("policy", "asked", "right"),
    [
        ("inference", "POST /api/chat", "write"),
        ("inference", "POST /v1/chat/completions", "write"),
        ("inference", "GET /v1/models/org/model", "read"),
        ("inference", "DELETE /api/delete", "manage"),
        ("inference", "POST /v1/load_lora_adapter", "manage, without limits"),
        ("chroma", "POST /api/v2/tenants/t/databases/d/collections/c/query", "read on the collection c"),
        ("chroma", "POST /api/v2/tenants/t/databases/d/collections/c/add", "write on the collection c"),
        ("chroma", "POST /api/v2/reset", "manage"),
        ("http", "GET /any/thing", "read"),
        ("http", "POST /any/thing", "manage, without limits"),
    ],
)
def test_every_policy_that_ships_says_what_its_api_needs(policy: str, asked: str, right: str) -> None:
    assert said(asked, policy)["needs"].partition(" (")[0] == right


@pytest.mark.parametrize("asked", ["", "GET", "/collections", "get /x", "GET x", "GET: /x"])
def test_what_is_no_request_is_an_error(asked: str) -> None:
    with pytest.raises(ValueError, match="a method and a path"):
        list(explain(asked, candidate(), 0.0))


def test_of_many_keys_some_are_named_and_all_are_counted() -> None:
    many = [Credential.of_secret(f"key-{number}", Right.READ, f"secret-{number}") for number in range(120)]
    lines = list(explain("GET /collections", replace(candidate(), ring=KeyRing(many)), 0.0))
    assert lines[-1].endswith("key-49 and 70 more")
