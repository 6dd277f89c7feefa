"""YAML text -> plain values, and the line on which each key stands.

Owns: what counts as YAML here, and what is said when it is not. An item of a list has a place as a key has:
`keys[3].right`, counted from 1. Must not know: which keys there are.

The rules: one document; a key once in its mapping; only the types that settings have (a date is text, as in
YAML 1.2; a tag such as `!x` is a mistake, most likely a secret without quotes). PyYAML's own messages quote
what they found, which may be a secret, so none of them is passed on. Where PyYAML was built with libyaml that
reads, five times as fast; the words are the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from rekeyd.errors import Problem, SettingsError
from rekeyd.settings.kinds import is_word

_PLAIN = "tag:yaml.org,2002:"
_SCALARS = frozenset({_PLAIN + name for name in ("null", "bool", "int", "float", "str")})
_QUOTE = "Put a value in quotes that begins with `&`, `*`, `!`, `%`, `@` or a backtick"


@dataclass(frozen=True, slots=True)
class Document:
    """A parsed file: its tree of plain values, the line of each dotted key, and what is wrong with it."""

    tree: Mapping[str, Any]
    lines: Mapping[str, int]
    problems: tuple[Problem, ...] = ()


_WITH_LIBYAML: bool = yaml.__with_libyaml__
_Fastest: Any = yaml.CSafeLoader if _WITH_LIBYAML else yaml.SafeLoader


class _Loader(_Fastest):  # type: ignore[misc]  # a class of either kind
    """PyYAML's safe loader, for which a date, `=` and `<<` are text."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in _SCALARS]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


IsName = Callable[[str, str], bool]
"""Whether the mapping at a place may have a key of that name; what may not is never repeated."""


def _any_word(_place: str, name: str) -> bool:
    return is_word(name)


def read_yaml(source: bytes, file: str, *, is_name: IsName = _any_word) -> Document:
    """Read a whole file; an empty one is an empty mapping. Raises SettingsError when it can't be parsed."""
    text = _decode(source, file)
    try:
        tree, reader = _load(text, file, is_name)
    except (yaml.YAMLError, RecursionError) as error:
        problem = _problem_of(error, text, file)
    else:
        if tree is None or isinstance(tree, dict):
            return Document(tree or {}, reader.lines, tuple(reader.problems))
        fix = "Begin with a section, such as `service:`"
        problem = Problem(file, "", "its top level is not a mapping", fix)
    raise SettingsError([problem])


def read_value(text: str) -> Any:
    """Read one value, as an environment variable has it. Raises ValueError, which does not name the value."""
    try:
        value, reader = _load(text, "", _any_word)
    except (yaml.YAMLError, RecursionError):
        raise ValueError("is not a YAML value") from None
    if reader.problems:
        raise ValueError("is not a YAML value")
    return value


def _load(text: str, file: str, is_name: IsName) -> "tuple[Any, _Reader]":
    loader = _Loader(text)
    root = loader.get_single_node()
    reader = _Reader(file, loader.construct_object, is_name)
    return (None if root is None else reader.read(root, "")), reader


def _decode(source: bytes, file: str) -> str:
    try:
        return source.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = source.count(b"\n", 0, error.start) + 1
    raise SettingsError([Problem(file, "", f"is not UTF-8 text (line {line})", "Save it as UTF-8")])


@dataclass(slots=True)
class _Reader:
    """Turns PyYAML's nodes into values. A node that is reached twice, by an alias, is read once."""

    file: str
    scalar: Callable[[yaml.Node], Any]
    is_name: IsName
    lines: dict[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    _read: dict[int, Any] = field(default_factory=dict)

    def read(self, node: yaml.Node, key: str) -> Any:
        if id(node) in self._read:
            return self._read[id(node)]
        match node:
            case yaml.ScalarNode() if node.tag in _SCALARS:
                return self._scalar(node, key)
            case yaml.SequenceNode(tag="tag:yaml.org,2002:seq"):
                items: list[Any] = []
                self._read[id(node)] = items
                items.extend(self._item(item, f"{key}[{n}]") for n, item in enumerate(node.value, start=1))
                return items
            case yaml.MappingNode(tag="tag:yaml.org,2002:map"):
                return self._mapping(node, key)
            case _:
                self._complain(node, key, "has a tag (`!`), which settings don't use", _QUOTE)
                return None

    def _item(self, node: yaml.Node, place: str) -> Any:
        self.lines.setdefault(place, node.start_mark.line + 1)
        return self.read(node, place)

    def _scalar(self, node: yaml.ScalarNode, key: str) -> Any:
        try:
            return self.scalar(node)
        except (ValueError, LookupError):  # `!!int x`, `!!bool x`, a number of thousands of digits
            self._complain(node, key, "can't be read as the type that it claims to be", _QUOTE)
            return None

    def _mapping(self, node: yaml.MappingNode, key: str) -> dict[str, Any]:
        """Keys are the text as it is written, so that `on` and `1` are words like any other."""
        entries: dict[str, Any] = {}
        self._read[id(node)] = entries
        for name_node, value_node in node.value:
            name = name_node.value
            if not isinstance(name, str) or not self.is_name(key, name):
                self._complain(name_node, key, "has a key that is not a word", "Correct or remove it")
                continue
            dotted = f"{key}.{name}" if key else name
            if name in entries:
                fix = f"Keep one; the first is in line {self.lines[dotted]}"
                self._complain(name_node, dotted, "appears twice", fix)
            self.lines.setdefault(dotted, name_node.start_mark.line + 1)
            entries[name] = self.read(value_node, dotted)
        return entries

    def _complain(self, node: yaml.Node, key: str, message: str, fix: str) -> None:
        line = node.start_mark.line + 1
        self.problems.append(Problem(self.file, key, f"{message} (line {line})", fix))


def _problem_of(error: Exception, text: str, file: str) -> Problem:
    """Our own words for an error of PyYAML's, whose words quote the text."""
    if isinstance(error, yaml.reader.ReaderError):
        before = text.encode()[: error.position] if _WITH_LIBYAML else text[: error.position].encode()
        line = before.count(b"\n") + 1
        return Problem(file, "", f"has a control character (line {line})", "Remove it")
    mark = getattr(error, "problem_mark", None)
    said, context = (str(getattr(error, part, "")) for part in ("problem", "context"))
    if mark is None or "nesting depth" in said:
        return Problem(file, "", "is nested too deeply", "Remove some of the brackets")
    place = f"line {mark.line + 1}, column {mark.column + 1}"
    if "'\\t'" in said or ("start any token" in said and _sign_at(mark, text) == "\t"):
        return Problem(file, "", f"has a tab where YAML wants spaces ({place})", "Indent with spaces")
    if context.startswith("expected a single document"):
        fix = "Keep one, without a line `---` between"
        return Problem(file, "", f"holds a second document ({place})", fix)
    if any(sign in said for sign in ("alias", "anchor", "cannot start any token")):
        return Problem(file, "", f"has a value with a sign that YAML gives a meaning to ({place})", _QUOTE)
    return Problem(
        file, "", f"is not valid YAML ({place})", "Look at the colons, quotes and indentation there"
    )


def _sign_at(mark: yaml.Mark, text: str) -> str:
    lines = text.splitlines()
    return lines[mark.line][mark.column : mark.column + 1] if mark.line < len(lines) else ""
