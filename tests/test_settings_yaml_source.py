"""What counts as YAML, and what is said where it is not."""

import pytest

from rekeyd.errors import SettingsError
from rekeyd.settings.yaml_source import Document, read_value, read_yaml


def read(text: str) -> Document:
    return read_yaml(text.encode(), "f.yaml")


def refused(source: bytes) -> str:
    with pytest.raises(SettingsError) as caught:
        read_yaml(source, "f.yaml")
    (problem,) = caught.value.problems
    return problem.message


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null", "{}", "\ufeff"])
def test_nothing_is_an_empty_mapping(text: str) -> None:
    assert read(text) == Document({}, {})


def test_each_key_has_its_line() -> None:
    document = read("a:\n  b: 1\n\n  c:\n    d: x\n")
    assert document.tree == {"a": {"b": 1, "c": {"d": "x"}}}
    assert document.lines == {"a": 1, "a.b": 2, "a.c": 4, "a.c.d": 5}


def test_each_item_of_a_list_has_its_line_counted_from_1() -> None:
    document = read("a:\n  - b: 1\n\n  - c: [x,\n     y]\n")
    assert document.lines == {"a": 1, "a[1]": 2, "a[1].b": 2, "a[2]": 4, "a[2].c": 4, "a[2].c[1]": 4} | {
        "a[2].c[2]": 5
    }


def test_who_reads_says_which_names_may_stand_where() -> None:
    source = b"a: {logs-*: 1}\nb: {logs-*: 1}\n"
    document = read_yaml(source, "f.yaml", is_name=lambda place, name: place == "a" or len(name) == 1)
    assert document.tree == {"a": {"logs-*": 1}, "b": {}}
    assert [problem.key for problem in document.problems] == ["b"]


def test_dates_are_text_and_keys_are_words() -> None:
    assert read("on: 2024-01-01\nyes: =\n").tree == {"on": "2024-01-01", "yes": "="}


def test_an_alias_stands_for_what_it_names() -> None:
    assert read("a: &x [1, 2]\nb: *x\n").tree == {"a": [1, 2], "b": [1, 2]}


def test_an_alias_within_itself_ends() -> None:
    tree = read("a: &x [*x]\n").tree
    assert tree["a"][0] is tree["a"]


def test_a_thousand_million_laughs_are_read_once_each() -> None:
    text = "a0: &a0 [x]\n" + "".join(
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
    )
    assert len(read(text).tree) == 10


@pytest.mark.parametrize(
    "value",
    [
        "!x 1",
        "!!binary eA==",
        "!!set {x}",
        "!!python/object:os.system {}",
        "!!int sw0rd",
        "!!bool sw0rd",
        "!!float ''",
        "!!timestamp sw0rd",
        "9" * 5000,
    ],
    ids=lambda value: value[:12],
)
def test_odd_types_are_problems_with_their_line(value: str) -> None:
    (problem,) = read(f"a: {value}").problems
    assert (problem.key, problem.message.endswith("(line 1)")) == ("a", True)
    assert "sw0rd" not in str(problem)


def test_a_key_twice_in_one_mapping_is_a_problem_and_in_two_it_is_not() -> None:
    assert read("a: {k: 1}\nb: {k: 1}\n").problems == ()
    (problem,) = read("a:\n  k: 1\n  k: 1\n").problems
    assert str(problem) == "f.yaml: a.k: appears twice (line 3). Keep one; the first is in line 2."


@pytest.mark.parametrize("text", ["[x]: 1", "? {a: 1}\n: 1", "'sw0rd fish': 1", "sw0rd:fish: 1", "'': 1"])
def test_a_key_that_is_no_word_is_not_repeated(text: str) -> None:
    (problem,) = read(text).problems
    assert problem.message == "has a key that is not a word (line 1)"
    assert "sw0rd" not in str(problem)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (b"a: \xff", "is not UTF-8 text (line 1)"),
        (b"a: 1\nb: \x00", "has a control character (line 2)"),
        (b"a:\n\tb: 1", "has a tab where YAML wants spaces (line 2, column 1)"),
        (b"a: 1\n--- \nb: 1", "holds a second document (line 2, column 1)"),
        (b"a: *x", "has a value with a sign that YAML gives a meaning to (line 1, column 4)"),
        (b"a: @x", "has a value with a sign that YAML gives a meaning to (line 1, column 4)"),
        (b"a: 'x", "is not valid YAML (line 1, column 6)"),
        (b"a:x\nb: 1", "is not valid YAML (line 2, column 2)"),
        (b"[" * 100_000, "is nested too deeply"),
        (b"x", "its top level is not a mapping"),
        (b"- x", "its top level is not a mapping"),
        (b"false", "its top level is not a mapping"),
    ],
)
def test_what_is_not_yaml_is_told_with_its_place(source: bytes, message: str) -> None:
    assert refused(source) == message


@pytest.mark.parametrize(
    ("text", "value"), [("1", 1), ("true", True), ("[a, 1]", ["a", 1]), ("~", None), ("", None), ("x", "x")]
)
def test_a_single_value_is_read(text: str, value: object) -> None:
    assert read_value(text) == value


@pytest.mark.parametrize("text", ["[1", "!x 1", "{a: 1, a: 2}", "a\x00", "--- 1\n--- 2"])
def test_what_is_no_single_value_is_an_error_without_it(text: str) -> None:
    with pytest.raises(ValueError, match=r"^is not a YAML value$"):
        read_value(text)
