"""`etc/rekeyd.yaml` is the reference of all settings: complete, true, and a good place to start."""

import re
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from rekeyd.errors import SettingsError
from rekeyd.settings import describe, parse

FILE = Path(__file__).parent.parent / "etc" / "rekeyd.yaml"
SETTING = re.compile(r"^(?P<indent> +)(?P<off># )?(?P<name>[a-z0-9_]+):(?: (?P<value>.*))?$")
SECTION = re.compile(r"^(?P<indent> *)(?P<name>[a-z0-9_]+):$")


@dataclass(frozen=True)
class Entry:
    """A key as the file shows it, with the comment above it in one line."""

    key: str
    value: Any
    commented_out: bool
    comment: str


def entries() -> list[Entry]:
    return list(_entries())


def _entries() -> Iterator[Entry]:
    path: list[str] = []
    comment: list[str] = []
    for line in FILE.read_text().splitlines():
        if found := SECTION.match(line):
            path = [*path[: len(found["indent"]) // 2], found["name"]]
            comment = []
        elif found := SETTING.match(line):
            key = ".".join([*path[: len(found["indent"]) // 2], found["name"]])
            yield Entry(key, yaml.safe_load(found["value"]), found["off"] is not None, " ".join(comment))
            comment = []
        elif line.lstrip().startswith("# "):
            comment.append(line.lstrip()[2:])
        else:
            comment = []


def as_written(default: object) -> object:
    if isinstance(default, tuple):
        return list(default)
    return str(default) if isinstance(default, Path) else default


def test_every_setting_is_there_once_and_in_the_order_of_its_declaration() -> None:
    assert [entry.key for entry in entries()] == [described.key for described in describe()]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.key)
def test_a_setting_is_shown_with_its_meaning_and_default(entry: Entry) -> None:
    described = next(described for described in describe() if described.key == entry.key)
    assert entry.comment.startswith(described.meaning)
    assert entry.comment.endswith("Reloads." if described.reloadable else "Restart.")
    if entry.commented_out:
        assert entry.value == as_written(described.default)
    else:
        stated = re.search(r"Default: (.*)\. (?:Reloads|Restart)\.$", entry.comment)
        assert stated is not None
        assert yaml.safe_load(stated[1]) == as_written(described.default)


def test_as_it_ships_it_lacks_a_key_and_nothing_else() -> None:
    with pytest.raises(SettingsError) as caught:
        parse(FILE.read_bytes(), file=FILE, environ={}, cwd=Path("/"))
    assert [problem.key for problem in caught.value.problems] == ["service.api_key"]


@pytest.mark.parametrize("uncommented", [False, True])
def test_with_a_key_it_can_be_used_with_or_without_the_defaults_written_out(uncommented: bool) -> None:
    text = FILE.read_text()
    if uncommented:
        text = re.sub(r"(?m)^( +)# ([a-z0-9_]+: \S.*)$", r"\1\2", text)
    found = parse(text.encode(), file=FILE, environ={"REKEYD__SERVICE__API_KEY": "k" * 32}, cwd=Path("/"))
    assert (found.warnings, found.ignored) == ((), ())
    assert found.settings.service.enable_tls
    for entry in entries():
        if entry.commented_out:
            described = next(described for described in describe() if described.key == entry.key)
            assert found.settings.value(entry.key) == described.default


def test_no_line_is_too_long_for_a_terminal() -> None:
    assert all(len(line) <= 120 for line in FILE.read_text().splitlines())
    assert textwrap.dedent(FILE.read_text()).startswith("# ")
