"""From a file and the environment to one value for each key, and where it was written.

Owns: which source wins, what an unknown name is told, and against what a relative path is resolved. Must not
know: whether a value is any good.

The rules: `REKEYD__SECTION__KEY` wins over `QDRANT__SECTION__KEY` (Qdrant's keys only), which wins over the
file. An empty variable is an unset one. A relative path is relative to the folder of the file that names it,
or, from the environment, to the working directory. Qdrant's other keys are left out of account and listed;
any other name is a problem that tells the nearest known one.
"""

import difflib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

from rekeyd.errors import Problem
from rekeyd.settings.kinds import Kind, name_of_type
from rekeyd.settings.qdrant import IGNORED
from rekeyd.settings.schema import Setting, describe, sections
from rekeyd.settings.yaml_source import Document, read_value

OURS = "REKEYD__"
QDRANTS = "QDRANT__"
CREDENTIALS = "CREDENTIALS_DIRECTORY"
"""Where the service manager puts what a setting may name as a credential (systemd.exec(5))."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value was written: in a file (and its line, where known), or in a variable of that name."""

    file: str
    line: int | None = None

    def problem(self, key: str, message: str, fix: str) -> Problem:
        place = f" (line {self.line})" if self.line else ""
        return Problem(self.file, key, message + place, fix)


@dataclass(slots=True)
class Sources:
    """What the sources say: the values of known keys, and where each was written.

    `doubtful` are keys whose value could not be read, or that an unknown name was probably meant to be.
    """

    values: dict[str, Any] = field(default_factory=dict, repr=False)
    origins: dict[str, Origin] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    doubtful: set[str] = field(default_factory=set)
    problems: list[Problem] = field(default_factory=list)

    def add_file(self, document: Document, *, file: str, folder: Path) -> None:
        unread = set()
        for problem in document.problems:
            key = _outermost(problem.key)
            message = problem.message if key == problem.key else f"has a part that {problem.message}"
            self.problems.append(replace(problem, key=key, message=message))
            unread.add(key)
        self.doubtful |= unread
        for key, value in self._leaves(document, document.tree, "", file):
            if key not in unread:
                self._add(_settings()[key].kind, key, value, Origin(file, document.lines.get(key)), folder)

    def _leaves(
        self, document: Document, tree: Mapping[str, Any], prefix: str, file: str
    ) -> Iterator[tuple[str, Any]]:
        for name, value in tree.items():
            key = prefix + name
            origin = Origin(file, document.lines.get(key))
            if key in _settings():
                yield key, value
            elif key in IGNORED:
                self.ignored.add(key)
            elif key not in sections():
                self._unknown(origin, key)
            elif isinstance(value, dict):
                yield from self._leaves(document, value, f"{key}.", file)
            elif value is not None:
                message = f"must be a mapping, not {name_of_type(value)}"
                fix = "Write its keys below it, each indented by two spaces"
                self.problems.append(origin.problem(key, message, fix))

    def add_environment(self, environ: Mapping[str, str], *, cwd: Path) -> None:
        for name, key in _variables(environ, QDRANTS):
            described = _settings().get(key)
            if described and described.qdrant:
                self._add_variable(described, name, environ[name], cwd)
            else:
                self.ignored.add(name)
        for name, key in _variables(environ, OURS):
            if described := _settings().get(key):
                self._add_variable(described, name, environ[name], cwd)
            else:
                self._unknown_variable(name, key)

    def _add_variable(self, described: Setting, name: str, text: str, cwd: Path) -> None:
        if not text:
            return
        try:
            value = _value_of_variable(described.kind, text)
        except ValueError as error:
            message = f"{error}; it must be {described.kind.wants}"
            self.problems.append(Problem(name, described.key, message, described.kind.fix))
            self.doubtful.add(described.key)
        else:
            self._add(described.kind, described.key, value, Origin(name), cwd)

    def _add(self, kind: Kind, key: str, value: Any, origin: Origin, folder: Path) -> None:
        self.values[key] = kind.locate(value, folder) if kind.locate else value
        self.origins[key] = origin

    def _unknown(self, origin: Origin, key: str) -> None:
        nearest = nearest_known(key, (*_settings(), *sections(), *IGNORED))
        self.doubtful.add(nearest)
        fix = f"The nearest known one is `{nearest}`: correct it, or remove it"
        self.problems.append(origin.problem(key, "is not a setting", fix))

    def _unknown_variable(self, name: str, key: str) -> None:
        nearest = nearest_known(key, _settings())
        self.doubtful.add(nearest)
        variable = OURS + nearest.replace(".", "__").upper()
        fix = f"The nearest known one is `{variable}`: correct it, or remove it"
        self.problems.append(Problem(name, "", "is not a setting", fix))


def variables_read(environ: Mapping[str, str]) -> dict[str, str]:
    """All of the environment that bears on settings; they may be secrets."""
    return {
        name: value
        for name, value in environ.items()
        if name == CREDENTIALS or name.upper().startswith((OURS, QDRANTS))
    }


def nearest_known(key: str, known: Iterable[str]) -> str:
    """The known key whose name is most like that of `key`; its own section is looked at first.

    Names are compared before whole keys, in which the section would count for too much.
    """
    candidates = sorted(known)
    prefix, _, name = key.rpartition(".")
    siblings = [candidate for candidate in candidates if candidate.rpartition(".")[0] == prefix]
    for group in (siblings, candidates):
        names = {candidate.rpartition(".")[2]: candidate for candidate in reversed(group)}
        if close := difflib.get_close_matches(name, names, n=1, cutoff=0.6):
            return names[str(close[0])]
    return str(difflib.get_close_matches(key, candidates, n=1, cutoff=0.0)[0])


@cache
def _settings() -> dict[str, Setting]:
    return {described.key: described for described in describe()}


def _outermost(key: str) -> str:
    """The part of a key that is no section: what lies deeper is a value, whose words are not repeated."""
    names = accumulate(key.partition("[")[0].split("."), "{}.{}".format)
    return next((name for name in names if name not in sections()), key)


def _variables(environ: Mapping[str, str], prefix: str) -> Iterator[tuple[str, str]]:
    """The variables with this prefix, and the dotted key of each. As in Qdrant, case does not matter."""
    for name in sorted(environ):
        if name.upper().startswith(prefix):
            yield name, name[len(prefix) :].lower().replace("__", ".")


def _value_of_variable(kind: Kind, text: str) -> Any:
    """Text stays as it is: a key `0123` is not a number. `null` is null, except that a secret may be that."""
    if not kind.text:
        return read_value(text)
    return None if kind.nullable and not kind.secret and text == "null" else text


def nested(values: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted keys as a tree of sections."""
    tree: dict[str, Any] = {}
    for key, value in values.items():
        *path, name = key.split(".")
        section = tree
        for part in path:
            section = section.setdefault(part, {})
        section[name] = value
    return tree
