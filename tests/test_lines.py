import dataclasses
import json
import unicodedata
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp.http_exceptions import InvalidHeader
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from rekeyd.telemetry import lines

texts = st.text(st.characters(exclude_categories=["Cs"]))
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(1 << 63), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts,
    lambda children: st.lists(children, max_size=4) | st.dictionaries(texts, children, max_size=4),
    max_leaves=12,
)
anything = st.recursive(
    st.none()
    | st.integers()
    | st.floats()
    | st.text()
    | st.binary()
    | st.datetimes()
    | st.complex_numbers()
    | st.sets(st.integers()),
    lambda children: (
        st.lists(children, max_size=4)
        | st.dictionaries(st.text() | st.integers() | st.binary(), children, max_size=4)
    ),
    max_leaves=12,
)


def raised(make: Any) -> BaseException:
    try:
        make()
    except BaseException as error:  # noqa: BLE001 - any of them may have to be described
        return error
    raise AssertionError("nothing was raised")


@given(st.dictionaries(texts, values, max_size=6))
def test_a_line_parses_back_to_the_same_values(event: dict[str, Any]) -> None:
    assert json.loads(lines.to_json(event)) == event


@given(st.dictionaries(st.text(), anything, max_size=6))
def test_any_values_make_one_line_of_json_without_a_control_character(event: dict[str, Any]) -> None:
    line = lines.to_json(event)
    assert line.endswith(b"\n")
    text = line[:-1].decode()
    assert not [char for char in text if unicodedata.category(char) in ("Cc", "Zl", "Zp")]
    assert len(text.splitlines()) == 1
    assert isinstance(json.loads(text), dict)


def test_a_line_break_in_a_value_can_not_forge_a_line() -> None:
    forged = 'x"}\n{"event":"auth.allowed"}\u2028\x85\x1b[2J\u202e'
    line = lines.to_json({"path": forged})
    assert line.count(b"\n") == 1
    assert line.isascii()
    assert json.loads(line)["path"] == forged


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (b"caf\xc3\xa9 \xff", "café \\xff"),
        ("lone \udc80 surrogate", "lone \\udc80 surrogate"),
        (1 << 159, str(1 << 159)),
        ({1: {"b"}}, {"1": ["b"]}),
        (ValueError("why"), "ValueError: why"),
        (float("nan"), None),
        (SecretStr("hunter2hunter2"), "**********"),
    ],
)
def test_what_json_can_not_hold_is_written_as_text(value: object, written: object) -> None:
    assert json.loads(lines.to_json({"value": value}))["value"] == written


def test_an_object_is_written_as_it_shows_itself_and_never_by_its_fields() -> None:
    @dataclasses.dataclass
    class Holder:
        name: str
        secret: str = dataclasses.field(repr=False)

    written = lines.to_json({"value": Holder("holder", "s3cret-s3cret")})
    assert b"holder" in written
    assert b"s3cret" not in written


def test_an_object_that_fails_to_show_itself_does_not_lose_the_line() -> None:
    class Broken:
        def __str__(self) -> str:
            raise RuntimeError("no")

    assert "Broken" in json.loads(lines.to_json({"value": Broken(), "event": "x"}))["value"]


def test_a_value_that_holds_itself_makes_a_line_all_the_same() -> None:
    knot: list[Any] = []
    knot.append(knot)
    assert b"nested too deeply" in lines.to_json({"value": knot})


@given(st.integers(0, 4_000_000_000_000_000_000))
def test_a_stamp_is_iso_8601_with_a_zone(nanoseconds: int) -> None:
    instant = datetime.fromisoformat(lines.stamp(nanoseconds))
    assert instant.tzinfo is UTC
    assert instant == datetime.fromtimestamp(nanoseconds // 10**9, UTC).replace(
        microsecond=nanoseconds // 1000 % 10**6
    )


def test_an_exception_is_told_with_its_cause_and_its_places_and_without_variables() -> None:
    def fail() -> None:
        password = "s3cret-s3cret"  # noqa: F841 - a variable that must not be told
        try:
            Path("/no/such/file").read_bytes()
        except OSError as error:
            raise RuntimeError("could not") from error

    told = lines.describe(raised(fail))
    assert (told["type"], told["message"]) == ("RuntimeError", "could not")
    assert told["cause"]["type"] == "FileNotFoundError"
    assert all(":" in frame for frame in told["frames"])
    assert told["frames"][-1].rsplit(":", 1)[0].endswith("test_lines.py")
    assert b"s3cret" not in lines.to_json(told)


def test_the_members_of_a_group_of_exceptions_are_told() -> None:
    told = lines.describe(ExceptionGroup("several", [ValueError("one"), KeyError("two")]))
    assert [each["type"] for each in told["exceptions"]] == ["ValueError", "KeyError"]


def test_the_message_of_a_parser_is_withheld_because_it_quotes_what_a_client_sent() -> None:
    told = lines.describe(InvalidHeader(b"api-key : s3cret-s3cret"))
    assert told["message"] == lines.WITHHELD
    assert b"s3cret" not in lines.to_json(told)
