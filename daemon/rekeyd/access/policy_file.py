"""A policy as it is written down: YAML to a `Policy`, or every problem with it.

    collection: collection_name            # which name in a template is the collection's
    lookups: [lookup_from, with_lookup]    # members of a JSON body that name further collections
    open: [/healthz]
    rights:
      GET /collections/{collection_name}: read
      POST /collections/{collection_name}/points/search: read points
      GET /collections: read shared
    grpc:
      qdrant.Points/Query: read points collection lookup
    messages:                              # where messages name further ones, by the numbers of their fields
      qdrant.Points/Query: {14: LookupLocation}
      LookupLocation: {1: name}

A right is `read`, `write` or `manage`; after it may stand `points`, `shared` and `lookup` (see `Rule`), and
after that of a method of gRPC `collection`: field 1 of its messages names one. A method may be `open`
instead. The policies that ship with rekeyd are such files.

Must not know: how a rule is found, or what is decided.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import yaml

from rekeyd.access.paths import is_normal
from rekeyd.access.policy import GRPC, NAME, REST, Policy, Rule
from rekeyd.access.rights import Right
from rekeyd.errors import Problem, SettingsError
from rekeyd.settings.kinds import alternatives

_KEYS = ("collection", "grpc", "lookups", "messages", "open", "rights")
_MARKS = ("points", "shared", "lookup")
_OPEN, _OF_A_COLLECTION = "open", "collection"
_GRPC_METHOD = re.compile(r"[A-Za-z_][A-Za-z0-9_.]*/[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_FIELD_NUMBER = re.compile(r"[1-9][0-9]{0,8}", re.ASCII)
_MESSAGES = "Write `package.Service/Method: {14: Lookup}` and `Lookup: {1: name}`"
_ROUTE = re.compile(r"([A-Z]+) (/[!-~]*)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*", re.ASCII)
_ANY_NAME = re.compile(r"\{\w+(\.\.\.)?\}", re.ASCII)
_DEEPEST = 100
"""Segments of a template: the search for a rule goes as deep."""


def parse_policy(source: bytes, *, file: str) -> Policy:
    """Read a policy file.

    Raises:
        SettingsError: with every problem found.
    """
    reading = _Reading(file)
    sections = reading.sections(_root(source, file))
    lookups = reading.words("lookups", sections.get("lookups"))
    named = reading.words("collection", sections.get("collection"), many=False)
    opened = reading.open_paths(sections.get("open"))
    rules = reading.rules(sections.get("rights"), collection=named[0] if named else None)
    calls, open_calls = reading.grpc(sections.get("grpc"))
    rules += calls
    messages = reading.messages(sections.get("messages"), [rule for rule in calls if rule.lookup])
    if any(rule.lookup and rule not in calls for rule in rules) and not lookups:
        reading.complain(
            "lookups", "is needed by the rules with `lookup`", "Name the members of a body there"
        )
    if reading.problems:
        raise SettingsError(reading.problems)
    return Policy.of(file, opened, rules, lookups, open_calls, messages)


def _root(source: bytes, file: str) -> yaml.Node | None:
    """The document as nodes. They are never made into values: there, aliases and merges multiply."""
    try:
        root: yaml.Node | None = yaml.compose(source, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        fix = "Write `open:` with a list of paths and `rights:` with lines such as `GET /path: read`"
        raise SettingsError([Problem(file, "", "is not YAML", fix)]) from None
    return root


@dataclass(slots=True)
class _Reading:
    """One file, and what is wrong with it."""

    file: str
    problems: list[Problem] = field(default_factory=list)

    def complain(self, key: str, message: str, fix: str) -> None:
        self.problems.append(Problem(self.file, key, message, fix))

    def sections(self, root: yaml.Node | None) -> dict[str, yaml.Node]:
        sections: dict[str, yaml.Node] = {}
        wrong = ("", "must be a mapping with `open` and `rights`", "Write both at the top level")
        for key, node in self._pairs(root, *wrong):
            if key not in _KEYS:
                self.complain(key, "is not a key of a policy", f"Use {alternatives(*_KEYS)}")
            elif key in sections:
                self.complain(key, "appears twice", "Keep one")
            sections[key] = node
        return sections

    def words(self, key: str, node: yaml.Node | None, *, many: bool = True) -> list[str]:
        """The names that a section consists of; `many`: a list of them."""
        if _is_absent(node):
            return []
        items = node.value if many and isinstance(node, yaml.SequenceNode) else [node]
        words = [_text(item) for item in items]
        if not all(map(_WORD.fullmatch, words)) or (many and not isinstance(node, yaml.SequenceNode)):
            wants = "a list of names" if many else "a name"
            self.complain(key, f"must be {wants}", "Use letters, digits and underscores")
            return []
        return words

    def open_paths(self, node: yaml.Node | None) -> list[str]:
        if _is_absent(node):
            return []
        items = node.value if isinstance(node, yaml.SequenceNode) else [None]
        paths = [_text(item) for item in items]
        if not all(p.isascii() and is_normal(p.encode()) for p in paths):
            wants = "must be a list of paths, each starting with / and in normal form"
            self.complain("open", wants, "Write `open: [/healthz]`")
            return []
        return paths

    def rules(self, node: yaml.Node | None, *, collection: str | None) -> list[Rule]:
        """`collection` is the name in templates that stands for one."""
        wrong = ("rights", "must be a mapping of routes to rights", "Write `GET /path/{name}: read`")
        rules: dict[str, Rule] = {}
        for route, value in self._pairs(node, *wrong):
            rule = self._rule(route, _text(value), collection)
            if rule is None:
                continue
            if (first := rules.setdefault(_shape(route), rule)) is not rule:
                message = f"is for the same requests as `{first.method} {first.template}`"
                self.complain(f"rights.{route}", message, "Keep one")
        return list(rules.values())

    def grpc(self, node: yaml.Node | None) -> tuple[list[Rule], list[str]]:
        """The rules of gRPC's methods, and the paths of those that are open."""
        wrong = ("grpc", "must be a mapping of methods to rights", "Write `package.Service/Method: read`")
        rules: dict[str, Rule | None] = {}
        for method, value in self._pairs(node, *wrong):
            if _GRPC_METHOD.fullmatch(method) is None:
                self.complain(f"grpc.{method}", "is no method", "Write package.Service/Method")
            elif method in rules:
                self.complain(f"grpc.{method}", "appears twice", "Keep one")
            else:
                rules[method] = None if _text(value) == _OPEN else self._grpc_rule(method, _text(value))
        return (
            [rule for rule in rules.values() if rule is not None],
            [f"/{method}" for method, rule in rules.items() if rule is None],
        )

    def messages(self, node: yaml.Node | None, calls: list[Rule]) -> dict[str, dict[int, str]]:
        """Where messages name further collections; methods by their path, kinds of messages by their name."""
        wrong = ("messages", "must be a mapping of methods and messages to their fields", _MESSAGES)
        found: dict[str, dict[int, str]] = {}
        for kind, fields in self._pairs(node, *wrong):
            numbers = {number: _text(value) for number, value in self._pairs(fields, *wrong)}
            if kind in found or not all(map(_FIELD_NUMBER.fullmatch, numbers)):
                self.complain(f"messages.{kind}", "must be there once, with numbers of fields", _MESSAGES)
            found[kind] = {int(n): to for n, to in numbers.items() if _FIELD_NUMBER.fullmatch(n)}
        for kind in sorted({to for fields in found.values() for to in fields.values()} - {*found, "name"}):
            self.complain("messages", f"`{kind}` is no message that is described there", _MESSAGES)
        methods = {_method_of(rule) for rule in calls}
        for kind in sorted(kind for kind in found if "/" in kind and kind not in methods):
            self.complain(
                f"messages.{kind}", "is no method with `lookup` under `grpc`", "Write its full name"
            )
        return {f"/{kind}" if "/" in kind else kind: fields for kind, fields in found.items()}

    def _grpc_rule(self, method: str, value: str) -> Rule | None:
        words = value.split()
        of_one = _OF_A_COLLECTION in words[1:]
        if of_one:
            words.remove(_OF_A_COLLECTION)
        name = "/{collection}" if of_one else ""
        return self._rule(f"GRPC /{method}{name}", " ".join(words), "collection", key=f"grpc.{method}")

    def _rule(self, route: str, value: str, collection: str | None, *, key: str | None = None) -> Rule | None:
        """`key` is what complaints name; None: the route, among the rights."""
        key, (right, *marks) = key or f"rights.{route}", value.split() or [""]
        match = _ROUTE.fullmatch(route)
        if (
            match is None
            or (match[1] == GRPC.decode() and key.startswith("rights."))
            or not _template_is_sound(match[2])
        ):
            self.complain(key, "is no route", "Write METHOD /path/{name} or METHOD /{rest...}")
        elif right.upper() not in Right.__members__:
            self.complain(key, "is no right", "Use read, write or manage")
        elif any(mark not in _MARKS or marks.count(mark) > 1 for mark in marks):
            fix = f"After the right may stand {alternatives(*_MARKS)}, each once"
            self.complain(key, "has a word after the right that is none of a policy's", fix)
        elif (places := _places_of(collection, match[2])) and "shared" in marks:
            self.complain(key, "is of one collection, so it can't be `shared`", "Remove that word")
        elif len(places) > 1:
            self.complain(key, "names a collection more than once", "Give one of them another name")
        else:
            place = places[0] if places else None
            return Rule(
                match[1], match[2], Right[right.upper()], **dict.fromkeys(marks, True), collection=place
            )
        return None

    def _pairs(
        self, node: yaml.Node | None, key: str, message: str, fix: str
    ) -> Iterator[tuple[str, yaml.Node]]:
        """The entries of a mapping in their order, repeated keys too; else the complaint."""
        if isinstance(node, yaml.MappingNode):
            for name, value in node.value:
                if isinstance(name, yaml.ScalarNode):
                    yield name.value.encode("utf-8", "backslashreplace").decode(), value
                else:
                    self.complain(key, message, fix)
        elif not _is_absent(node):
            self.complain(key, message, fix)


def _is_absent(node: yaml.Node | None) -> bool:
    return node is None or node.tag == "tag:yaml.org,2002:null"


def _text(node: yaml.Node | None) -> str:
    return node.value if isinstance(node, yaml.ScalarNode) else ""


def _places_of(collection: str | None, template: str) -> list[int]:
    """Which segments of a template name the collection, counted from 0."""
    segments = template.split("/")[1:]
    return [place for place, segment in enumerate(segments) if segment == f"{{{collection}}}"]


def _shape(route: str) -> str:
    """Alike for routes that match the same requests: what a name is called makes no difference."""
    return _ANY_NAME.sub(r"{\1}", route)


def _template_is_sound(template: str) -> bool:
    """Whether a request can match it: literals are normal and not encoded, names stand where they may."""
    segments = [s.encode() for s in template.split("/")[1:]]
    if len(segments) > _DEEPEST or any(REST.fullmatch(s) for s in segments[:-1]):
        return False
    literals = [s for s in segments if not (NAME.fullmatch(s) or REST.fullmatch(s))]
    return (
        not any(b"%" in s for s in literals)
        and b"" not in segments[:-1]
        and all(is_normal(b"/" + s) for s in literals)
    )


def _method_of(rule: Rule) -> str:
    """The full name of the method that a rule of gRPC is for."""
    return "/".join(rule.template.split("/")[1:3])
