"""The key file: what it says, and that no piece of one says less without being noticed."""

import datetime as dt
import hashlib
import ipaddress
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.access.key_file import KeyFile, is_json, parse_key_file
from rekeyd.access.rights import UNLIMITED, Limits, Reach, Right
from rekeyd.errors import SettingsError
from rekeyd.reload.patience import PASSING
from support.key_files import FILE, digest_of, entry, parsed, problems_of, secret_of, yaml_of

WHOLE = f"""\
# The keys of the shop
revoked_tokens: [abc, "def"]
keys:
  - id: ingest
    right: write            # not more
    paths: [/collections/books]
    networks: [10.0.0.0/8, "::1"]
    rate: 50
    note: the nightly import
    secrets:
      - digest: {digest_of("ingest")}
        not_before: 2026-12-01T00:00:00Z
        expires: 2027-03-01

      - digest: {digest_of("ingest", 1)}
  # for the dashboards
  - id: reader
    collections:
      books: read
      papers: write
      logs-*: points
    secrets: [{{digest: "{digest_of("reader")}"}}]
...
"""
MINIMAL = "keys:\n- {id: a, right: read, secrets: [{digest: '" + digest_of("a") + "'}]}\n...\n"


def test_a_key_is_its_id_right_limits_secrets_and_validity() -> None:
    found = parsed(WHOLE)

    first, second, reader = found.credentials
    assert (first.id, first.right, first.named) == ("ingest", Right.WRITE, True)
    assert first.digest == hashlib.sha256(secret_of("ingest").encode()).digest()
    assert first.not_before == dt.datetime(2026, 12, 1, tzinfo=dt.UTC).timestamp()
    assert first.expires == dt.datetime(2027, 3, 1, tzinfo=dt.UTC).timestamp()
    assert first.limits == Limits(
        paths=(b"/collections/books",),
        networks=(ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("::1")),
        rate=50.0,
    )
    assert (second.id, second.not_before, second.expires) == ("ingest", None, None)
    assert second.limits is first.limits
    assert reader.right is Right.WRITE
    assert reader.limits.collections == (
        ("books", Reach.READ),
        ("papers", Reach.WRITE),
        ("logs-*", Reach.POINTS),
    )
    assert found.notes == {"ingest": "the nightly import"}
    assert found.revoked_tokens == {"abc", "def"}
    assert (found.pepper, found.peppered) == (None, False)


def test_yaml_and_json_say_the_same() -> None:
    tree = {"keys": [entry("a"), entry("b", "manage", note="n", rate=0.5)], "revoked_tokens": ["x"]}
    assert parsed(json.dumps(tree), "keys.json") == parsed(json.dumps(tree) + "\n...\n", "keys.yaml")


@pytest.mark.parametrize(("file", "json_it_is"), [("a.json", True), ("A.JSON", True), ("a.yaml", False)])
def test_the_name_says_which_of_the_two_it_is(file: str, json_it_is: bool) -> None:
    assert is_json(file) is json_it_is


def test_a_key_without_limits_is_unlimited_and_no_digest_is_in_a_repr() -> None:
    found = parsed(MINIMAL)
    assert found.credentials[0].limits is UNLIMITED
    assert digest_of("a")[7:] not in repr(found)


def test_digests_under_a_pepper_name_it() -> None:
    hmac = f"hmac-sha256:{'ab' * 32}"
    keys = json.dumps({"keys": [{"id": "a", "right": "read", "secrets": [{"digest": hmac}]}]})
    [problem] = problems_of(keys, "k.json")
    assert problem.key == "pepper"
    found = parsed(json.dumps({**json.loads(keys), "pepper": "1a2b3c4d"}), "k.json")
    assert (found.pepper, found.peppered) == ("1a2b3c4d", True)
    assert [p.key for p in problems_of(yaml_of(entry("a"), pepper=12345678))] == ["pepper"]


@pytest.mark.parametrize("source", ["keys: []\n...\n", "keys:\n...\n", "{}\n...\n", "revoked_tokens:\n...\n"])
def test_a_file_may_say_that_there_are_no_keys(source: str) -> None:
    assert parsed(source) == KeyFile()


# Torn


def test_a_yaml_file_that_is_cut_off_at_any_byte_is_refused_or_says_the_same() -> None:
    source = WHOLE.encode()
    whole = parsed(source)
    for end in range(len(source)):
        try:
            assert parsed(source[:end]) == whole
        except SettingsError as error:
            assert {problem.rule for problem in error.problems} <= PASSING  # noqa: PT017
        else:
            assert source[end:].strip() == b""


def test_a_json_file_that_is_cut_off_at_any_byte_is_refused() -> None:
    source = json.dumps({"keys": [entry("a"), entry("b", note="über")]}, ensure_ascii=False).encode()
    for end in range(len(source)):
        rules = {problem.rule for problem in problems_of(source[:end], "keys.json")}
        assert rules <= PASSING


@pytest.mark.parametrize(("source", "file"), [("", FILE), (" \n", FILE), ("", "k.json"), ("\n\n", "k.json")])
def test_an_empty_file_is_told_as_such(source: str, file: str) -> None:
    [problem] = problems_of(source, file)
    assert (problem.rule, problem.message) == ("empty", "is empty")


def test_without_its_last_line_a_file_may_have_been_cut_off() -> None:
    for source in (MINIMAL.replace("...\n", ""), MINIMAL + "# more\n", MINIMAL.replace("\n...", "\n  ...")):
        [problem] = problems_of(source)
        assert (problem.rule, problem.key) == ("keys_torn", "")
        assert problem.message == "does not end with a line `...`, so it may have been cut off"
        assert problem.fix == "Make that its last line, if it is whole"
    assert parsed(MINIMAL + "\n \n") == parsed(MINIMAL.replace("\n", "\r\n")) == parsed(MINIMAL)


def test_what_stands_after_the_mark_is_a_second_document() -> None:
    [problem] = problems_of(MINIMAL + "---\nkeys: []\n...\n")
    assert problem.rule == "unparsable"


def test_what_is_no_yaml_or_json_is_told_with_its_place_and_may_pass() -> None:
    [problem] = problems_of("keys: [sw0rd\n...\n")
    assert problem.rule in PASSING
    assert "line 2" in problem.message
    [problem] = problems_of('{"keys": [sw0rd]}', "k.json")
    assert problem.rule in PASSING
    assert problem.message == "is not valid JSON (line 1, column 11)"
    [problem] = problems_of("[" * 100_000 + "\n...\n")
    assert problem.message == "is nested too deeply"


# Mistakes


def test_every_mistake_is_told_at_once_with_its_place_and_line() -> None:
    source = f"""\
keys:
  - id: a
    rigth: read
    secrets:
      - digest: {digest_of("a")}
        expires: 2027-03-01T00:00:00
  - right: all
    secrets: []
...
"""
    assert [(p.key, p.message) for p in problems_of(source)] == [
        ("keys[1].rigth", "is unknown (line 3)"),
        ("keys[1]", "says neither `right` nor `collections` (line 2)"),
        ("keys[1].secrets[1].expires", "has no time zone (line 6)"),
        ("keys[2].id", "must name the key (line 7)"),
        ("keys[2].right", "is no right (line 7)"),
        ("keys[2].secrets", "must be a list with at least one secret (line 8)"),
    ]
    assert [p.fix for p in problems_of(source)][:3] == [
        "The nearest known one is `right`: correct it, or remove it",
        "Add one of the two",
        "Write `2027-03-01` or `2027-03-01T12:00:00Z`",
    ]
    assert {problem.rule for problem in problems_of(source)} == {"keys_invalid"}
    assert "keys_invalid" not in PASSING


def test_of_very_many_mistakes_the_first_are_told_and_the_rest_counted() -> None:
    problems = problems_of(json.dumps({"keys": [{}] * 1000}), "k.json")
    assert len(problems) == 51
    assert problems[-1].message == "has 2950 more problems"


@pytest.mark.parametrize("file", ["k.yaml", "k.json"])
def test_a_name_that_stands_twice_is_a_mistake(file: str) -> None:
    for source in ('{"keys": [], "keys": []}', '{"keys": [{"id": "a", "id": "b"}]}'):
        problems = problems_of(source + ("\n...\n" if file == "k.yaml" else ""), file)
        assert any("twice" in p.message or "not valid JSON" in p.message for p in problems)


def test_a_secret_in_a_wrong_place_is_never_repeated() -> None:
    secret = "rk_a_S3cret0fSomebody0123456789"
    wrong = [
        {**entry("a"), secret: 1},
        entry("b", note=[secret]),
        entry("c", secret),
        {**entry("d"), "id": secret},
        entry("e", paths=[secret], networks=[secret], rate=secret),
        {"id": "f", "collections": {secret: secret}, "secrets": [secret]},
        {
            "id": "g",
            "collections": [secret],
            "secrets": [{"digest": secret, "expires": secret, secret: secret}],
        },
        entry("h", secret=secret, key=secret),
        {**entry("i"), "secrets": [{"secret": secret}]},
        {**entry("j"), "secrets": secret},
        secret,
    ]
    for file, end in (("k.yaml", "\n...\n"), ("k.json", "")):
        tree = {"keys": wrong, secret: secret, "pepper": secret, "revoked_tokens": {secret: secret}}
        told = "\n".join(map(str, problems_of(json.dumps(tree) + end, file)))
        assert secret not in told
        assert "holds a secret, where only its digest belongs" in told
        assert all(f"keys[{n}]" in told for n in range(1, 12))
    for source in (f"{secret}\n...\n", f"keys: {secret}\n...\n", f"- {secret}\n...\n", f"!{secret} x\n...\n"):
        assert all(secret not in str(problem) for problem in problems_of(source))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text()
    | st.sampled_from(["read", digest_of("a"), "2027-01-01"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["id", "right", "collections", "paths", "networks", "rate", "secrets", "digest", "x"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=300)
@given(JSON)
def test_whatever_stands_there_is_read_or_refused_in_words(value: object) -> None:
    source = json.dumps({"keys": [entry("sound"), value]}).encode()
    try:
        found = parse_key_file(source, file="k.json")
    except SettingsError as error:
        assert all(problem.fix for problem in error.problems)  # noqa: PT017
    else:
        assert found.credentials[0].id == "sound"
        assert len(found.credentials) > 1


@given(st.binary(max_size=200), st.sampled_from(["k.json", "k.yaml"]))
def test_no_bytes_are_too_strange_to_be_refused_in_words(source: bytes, file: str) -> None:
    for end in (b"", b"\n...\n"):
        try:
            parse_key_file(source + end, file=file)
        except SettingsError as error:
            assert error.problems  # noqa: PT017


def test_the_example_that_ships_can_be_used_and_what_it_shows_too() -> None:
    path = Path(__file__).parents[1] / "etc" / "keys.yaml"
    assert parse_key_file(path.read_bytes(), file=str(path)) == KeyFile()
    shown = [line[2:] for line in path.read_text().splitlines() if line.startswith("#   ")]
    example = "\n".join(["keys:", *shown, "..."]).replace("sha256:…", digest_of("ingest"))
    [credential] = parsed(example).credentials
    assert (credential.id, credential.right, credential.limits.rate) == ("ingest", Right.WRITE, 50)
