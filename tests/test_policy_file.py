"""What a policy file may say, and how it is told what it may not."""

import importlib.resources
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.policy import Policy, Rule
from rekeyd.access.policy_file import parse_policy
from rekeyd.access.rights import Right
from rekeyd.errors import SettingsError


def policy(*routes: str, opened: tuple[str, ...] = ()) -> Policy:
    """A policy of lines such as `GET /x: read`."""
    lines = ["open: [" + ", ".join(opened) + "]", "rights:", *("  " + route for route in routes)]
    return parse_policy("\n".join(lines).encode(), file="policy.yaml")


def right(rules: Policy, method: str, path: str) -> Right:
    rule = rules.rule_for(method.encode(), path.encode())
    return rule.right if rule else Right.MANAGE


def problems_of(source: str | bytes) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        parse_policy(source.encode() if isinstance(source, str) else source, file="policy.yaml")
    assert all(p.file == "policy.yaml" and p.message and p.fix for p in caught.value.problems)
    return [f"{p.key}: {p.message}" for p in caught.value.problems]


def test_an_empty_file_is_a_policy_in_which_everything_needs_the_highest_right() -> None:
    for source in (b"", b"# nothing\n", b"open:\nrights:\n", b"{}", b"open: []\nrights: {}", b"null"):
        empty = parse_policy(source, file="policy.yaml")
        assert empty.rules == ()
        assert empty.open_paths == frozenset()


def test_rights_are_written_in_any_case() -> None:
    assert right(policy("GET /a: READ", "GET /b: Write"), "GET", "/a") is Right.READ


@pytest.mark.parametrize("source", ["open: [", "\x00", "a: b: c", "--- 1\n--- 2"])
def test_what_is_no_yaml_is_refused_in_our_own_words(source: str) -> None:
    assert problems_of(source) == [": is not YAML"]


def test_bytes_that_are_no_text_are_refused() -> None:
    for source in (b"\xff\xfe\x00", b"open: [/caf\xe9]", b"\x80"):
        assert problems_of(source) == [": is not YAML"]


@pytest.mark.parametrize("source", ["1", "[a]", "text", "'open: [/x]'"])
def test_a_policy_is_a_mapping(source: str) -> None:
    assert problems_of(source) == [": must be a mapping with `open` and `rights`"]


def test_unknown_keys_are_refused() -> None:
    assert problems_of("open: []\nright: {}\n1: x") == [
        "right: is not a key of a policy",
        "1: is not a key of a policy",
    ]


@pytest.mark.parametrize(
    "value",
    ["/x", "{a: b}", "[x]", "[/x, 1]", "[/x, [/y]]", "['/x y']", "[/a//b]", "[/a/../b]", "['/a?b']", "[/é]"],
)
def test_open_is_a_list_of_paths_in_normal_form(value: str) -> None:
    (problem,) = problems_of(f"open: {value}")
    assert problem.startswith("open: must be a list of paths")


@pytest.mark.parametrize(
    "route",
    [
        "GET",
        "/x",
        "GET x",
        "get /x",
        "GET  /x",
        "GET /x y",
        "GET /x?y",
        "GET /x#y",
        "GET /{x",
        "GET /x}",
        "GET /a{x}",
        "GET /{x}b",
        "GET /{}",
        "GET /{1x}",
        "GET /{a...}/b",
        "GET /{a..}",
        "GET /{a....}",
        "GET /{a...}b",
        "GET /%41",
        "GET /x/%2e",
        "GET /a//b",
        "GET //a",
        "GET /a/../b",
        "GET /a;b",
        "GET /é",
        "GET http://host/x",
        "GET *",
        "GET /" + "a/" * 200,
    ],
)
def test_a_route_that_no_request_could_match_is_refused(route: str) -> None:
    assert problems_of(f'rights:\n  "{route}": read') == [f"rights.{route}: is no route"]


@pytest.mark.parametrize("value", ["admin", "1", "null", "true", "[read]", "{read: read}", "''"])
def test_a_right_is_one_of_three(value: str) -> None:
    assert problems_of(f"rights: {{GET /x: {value}}}") == ["rights.GET /x: is no right"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("GET /a", "GET /a"),
        ("GET /a/{x}", "GET /a/{y}"),
        ("GET /{x...}", "GET /{other...}"),
        ("GET /{x}/b/{y...}", "GET /{y}/b/{x...}"),
    ],
)
def test_two_rules_for_the_same_requests_are_refused(first: str, second: str) -> None:
    assert problems_of(f"rights:\n  {first}: manage\n  {second}: read") == [
        f"rights.{second}: is for the same requests as `{first}`"
    ]


def test_a_section_that_comes_twice_is_refused() -> None:
    assert problems_of("open: []\nopen: [/x]") == ["open: appears twice"]
    assert problems_of("rights: {GET /x: manage}\nrights: {GET /x: read}") == ["rights: appears twice"]


def test_a_name_and_a_rest_in_one_place_are_two_rules() -> None:
    rules = policy("GET /{x}: write", "GET /{x...}: read")
    assert [str(rule) for rule in rules.rules] == ["GET /{x}: write", "GET /{x...}: read"]


def test_every_problem_is_told_at_once() -> None:
    assert len(problems_of("opn: []\nopen: [x]\nrights:\n  GET x: read\n  GET /x: all\n  GET /y: read")) == 4


def test_rights_that_are_no_mapping_are_refused() -> None:
    assert problems_of("rights: [GET /x]") == ["rights: must be a mapping of routes to rights"]
    assert problems_of("rights: {[a]: read}") == ["rights: must be a mapping of routes to rights"]


def test_nested_aliases_and_merges_cost_nothing() -> None:
    laughs = ["a: &a0 [/x, /x]"] + [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 25)]
    merges = ["m: &m0 {GET /x: read}"] + [
        f"m{i}: &m{i} {{<<: [{', '.join([f'*m{i - 1}'] * 9)}]}}" for i in range(1, 25)
    ]
    started = time.process_time()
    assert len(problems_of("\n".join([*laughs, *merges, "open: *a24", "rights: *m24"]))) > 2
    assert problems_of("rights: &r {GET /x: *r}") == ["rights.GET /x: is no right"]
    assert time.process_time() - started < 2


def test_deep_nesting_is_refused_and_not_a_traceback() -> None:
    for source in ("[" * 20_000, "open: " + "[" * 5_000 + "]" * 5_000, "{a: " * 5_000 + "}" * 5_000):
        assert problems_of(source) == [": is not YAML"]


def test_a_character_that_cannot_be_printed_is_told_escaped() -> None:
    (problem,) = problems_of('rights: {"GET /\\ud800": read}')
    assert problem.encode() == b"rights.GET /\\ud800: is no route"


@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: b"rights: {" + text.encode() + b"}"))
def test_any_file_is_a_policy_or_refused(source: bytes) -> None:
    try:
        told = str(parse_policy(source, file="policy.yaml").name)
    except SettingsError as error:
        told = str(error)
    assert told.encode().startswith(b"policy.yaml")


def test_a_tag_makes_nothing_but_text() -> None:
    assert problems_of("!!python/object/apply:os.getpid []") == [
        ": must be a mapping with `open` and `rights`"
    ]


# --- collections


SCOPED = """
collection: name
lookups: [lookup_from]
rights:
  GET /things/{name}: read
  POST /things/{name}/search: read points lookup
  PUT /things/{name}/points/{id}: write points
  GET /things: read shared
  GET /{name}/{other}/x: manage
"""


def rule_for(source: str, method: str, path: str) -> Rule:
    rule = parse_policy(source.encode(), file="policy.yaml").rule_for(method.encode(), path.encode())
    assert rule is not None
    return rule


def test_a_rule_knows_which_segment_names_the_collection() -> None:
    assert rule_for(SCOPED, "GET", "/things/a").collection_in(b"/things/a") == b"a"
    assert (
        rule_for(SCOPED, "PUT", "/things/b%20c/points/7").collection_in(b"/things/b%20c/points/7") == b"b%20c"
    )
    assert rule_for(SCOPED, "GET", "/q/r/x").collection_in(b"/q/r/x") == b"q"
    assert rule_for(SCOPED, "GET", "/things").collection_in(b"/things") is None


def test_words_after_a_right_are_marks() -> None:
    search = rule_for(SCOPED, "POST", "/things/a/search")
    assert (search.points, search.lookup, search.shared) == (True, True, False)
    assert rule_for(SCOPED, "GET", "/things").shared
    assert str(search) == "POST /things/{name}/search: read points lookup"


def test_a_policy_without_a_collection_has_rules_of_none() -> None:
    assert rule_for("rights:\n  GET /things/{name}: read\n", "GET", "/things/a").collection is None


@pytest.mark.parametrize(
    ("rights", "problem"),
    [
        ("GET /x: read write", "has a word after the right that is none of a policy's"),
        ("GET /x: read points points", "has a word after the right that is none of a policy's"),
        ("GET /x: read POINTS", "has a word after the right that is none of a policy's"),
        ("GET /things/{name}: read shared", "is of one collection, so it can't be `shared`"),
        ("GET /{name}/{name}: read", "names a collection more than once"),
    ],
)
def test_a_mark_that_makes_no_sense_is_refused(rights: str, problem: str) -> None:
    route = rights.rpartition(": ")[0]
    assert problems_of(f"collection: name\nrights:\n  {rights}\n") == [f"rights.{route}: {problem}"]


def test_a_lookup_needs_to_know_what_to_look_for() -> None:
    assert problems_of("rights:\n  POST /x: read lookup\n") == [
        "lookups: is needed by the rules with `lookup`"
    ]


@pytest.mark.parametrize("value", ["[a b]", "[[a]]", "{a: b}", "[1x]", "name", "['']"])
def test_lookups_is_a_list_of_names(value: str) -> None:
    assert problems_of(f"lookups: {value}") == ["lookups: must be a list of names"]


@pytest.mark.parametrize("value", ["[a]", "a b", "{a: b}", "'{name}'"])
def test_collection_is_a_name(value: str) -> None:
    assert problems_of(f"collection: {value}") == ["collection: must be a name"]


@pytest.mark.parametrize(
    "path",
    sorted((importlib.resources.files("rekeyd") / "policies").iterdir(), key=str),
    ids=lambda p: p.name,
)
def test_every_policy_that_ships_is_sound(path: object) -> None:
    assert parse_policy(path.read_bytes(), file="shipped").rules  # type: ignore[attr-defined]


# gRPC.


def test_methods_of_grpc_are_rules_with_the_collection_behind_them() -> None:
    source = b"""
        grpc:
          a.v1.Points/Search: read points collection
          a.v1.Collections/List: read shared
          a.v1.Collections/Drop: MANAGE
          a.v1.Health/Check: open
    """
    rules = parse_policy(source, file="policy.yaml")
    assert list(map(str, rules.rules)) == [
        "GRPC /a.v1.Points/Search/{collection}: read points",
        "GRPC /a.v1.Collections/List: read shared",
        "GRPC /a.v1.Collections/Drop: manage",
    ]
    assert rules.rules[0].collection_in(b"/a.v1.Points/Search/books") == b"books"
    assert rules.is_open(b"GRPC", b"/a.v1.Health/Check")
    assert not rules.is_open(b"GET", b"/a.v1.Health/Check")
    assert not rules.is_open(b"GRPC", b"/a.v1.Health/Check/")
    assert not parse_policy(b"open: [/healthz]", file="policy.yaml").is_open(b"GRPC", b"/healthz")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.B: read", "grpc.a.B: is no method"),
        ("/a.B/C: read", "grpc./a.B/C: is no method"),
        ("a.B/C/D: read", "grpc.a.B/C/D: is no method"),
        ("a.B/{C}: read", "grpc.a.B/{C}: is no method"),
        ("a.B/C: reads", "grpc.a.B/C: is no right"),
        ("a.B/C:", "grpc.a.B/C: is no right"),
        ("a.B/C: collection", "grpc.a.B/C: is no right"),
        ("a.B/C: open read", "grpc.a.B/C: is no right"),
        ("a.B/C: read open", "grpc.a.B/C: has a word after the right that is none of a policy's"),
        (
            "a.B/C: read shared collection",
            "grpc.a.B/C: is of one collection, so it can't be `shared`",
        ),
        ("a.B/C: read\n  a.B/C: open", "grpc.a.B/C: appears twice"),
        ("a.B/C: open\n  a.B/C: read", "grpc.a.B/C: appears twice"),
    ],
)
def test_a_method_that_makes_no_sense_is_refused(line: str, problem: str) -> None:
    assert problems_of(f"grpc:\n  {line}") == [problem]


def test_methods_of_grpc_stand_nowhere_else() -> None:
    assert problems_of("rights: {GRPC /a.B/C: read}") == ["rights.GRPC /a.B/C: is no route"]
    assert problems_of("grpc: [a.B/C]") == ["grpc: must be a mapping of methods to rights"]


def test_places_in_messages_that_name_further_collections() -> None:
    source = b"""
        grpc: {a.B/Query: read collection lookup}
        messages:
          a.B/Query: {2: Prefetch, 14: Lookup}
          Prefetch: {1: Prefetch, 8: Lookup}
          Lookup: {1: name}
    """
    assert parse_policy(source, file="policy.yaml").messages == {
        "/a.B/Query": {2: "Prefetch", 14: "Lookup"},
        "Prefetch": {1: "Prefetch", 8: "Lookup"},
        "Lookup": {1: "name"},
    }


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ("[a]", "messages: must be a mapping of methods and messages to their fields"),
        ("{a.B/C: 14}", "messages: must be a mapping of methods and messages to their fields"),
        ("{a.B/C: {0: name}}", "messages.a.B/C: must be there once, with numbers of fields"),
        ("{a.B/C: {x: name}}", "messages.a.B/C: must be there once, with numbers of fields"),
        ("{X: {1: name}, X: {2: name}}", "messages.X: must be there once, with numbers of fields"),
        ("{a.B/C: {1: Nothing}}", "messages: `Nothing` is no message that is described there"),
        ("{a.B/D: {1: name}}", "messages.a.B/D: is no method with `lookup` under `grpc`"),
    ],
)
def test_places_that_make_no_sense_are_refused(messages: str, problem: str) -> None:
    source = f"grpc: {{a.B/C: read collection lookup, a.B/D: read}}\nmessages: {messages}"
    assert problems_of(source) == [problem]
