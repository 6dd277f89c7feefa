"""Which right a request needs: rules by method and path template, and the paths open to all.

The rules: a literal segment matches itself, byte for byte. `{name}` matches one segment that is not empty,
`{name...}` (last only) whatever is left. A literal wins over a name. What no rule matches needs `manage`, the
highest right. Where a server that reads paths leniently (it decodes literals, has no case, adds or drops a
trailing slash) would find a rule that needs more, the request could mean either, so it counts as matched by
none. Open paths match exactly, for GET, HEAD and OPTIONS.

Must not know: who asks (`access`), or whether a path is in normal form (`paths`).
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

import yaml

from rekeyd.errors import Problem, SettingsError
from rekeyd.trust.keys import Right
from rekeyd.trust.paths import is_normal, layers

OPEN_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})

_ROUTE = re.compile(r"([A-Z]+) (/[!-~]*)")
_ANY_NAME = re.compile(r"\{\w+(\.\.\.)?\}", re.ASCII)
_NAME = re.compile(rb"\{[A-Za-z_][A-Za-z0-9_]*\}")
_REST = re.compile(rb"\{[A-Za-z_][A-Za-z0-9_]*\.\.\.\}")
_CUT = re.compile(rb"[;?#]")
_DEEPEST = 100
"""Segments of a template: `_find` goes as deep."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`method` and `template` (as written) need `right`."""

    method: str
    template: str
    right: Right

    def __str__(self) -> str:
        return f"{self.method} {self.template}: {self.right}"


@dataclass(slots=True)
class _Node:
    """One segment deep into the templates of one method; `spellings`: its literals, `_folded`."""

    literals: dict[bytes, "_Node"] = field(default_factory=dict)
    spellings: dict[str, list["_Node"]] = field(default_factory=dict)
    name: "_Node | None" = None
    rest: Rule | None = None
    here: Rule | None = None

    def literal(self, segment: bytes) -> "_Node":
        if segment not in self.literals:
            node = self.literals[segment] = _Node()
            self.spellings.setdefault(_folded(segment), []).append(node)
        return self.literals[segment]


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one API. Compare policies with `==`: equal means that they decide alike."""

    name: str
    open_paths: frozenset[bytes]
    rules: tuple[Rule, ...]
    _trees: Mapping[bytes, _Node] = field(repr=False, compare=False)

    @classmethod
    def of(cls, name: str, open_paths: Iterable[str], rules: Iterable[Rule]) -> "Policy":
        rules = tuple(rules)
        return cls(name, frozenset(p.encode() for p in open_paths), rules, _grow(rules))

    def opening(self, paths: Iterable[str]) -> "Policy":
        """This policy with more open paths (`access.public`)."""
        return replace(self, open_paths=self.open_paths | {p.encode() for p in paths})

    def is_open(self, method: bytes, path: bytes) -> bool:
        return path in self.open_paths and method in OPEN_METHODS

    def rule_for(self, method: bytes, path: bytes) -> Rule | None:
        """The rule that decides, or None: then `manage` is needed."""
        tree = self._trees.get(method)
        if tree is None or not path.startswith(b"/"):
            return None
        doubts: list[Rule | None] = []
        rule = _find(tree, path.split(b"/")[1:], doubts)
        if rule is not None and any(doubt.right > rule.right for doubt in doubts if doubt is not None):
            return None
        return rule


def _grow(rules: Iterable[Rule]) -> dict[bytes, _Node]:
    trees: dict[bytes, _Node] = {}
    for rule in rules:
        node = trees.setdefault(rule.method.encode(), _Node())
        for segment in rule.template.encode().split(b"/")[1:]:
            if _REST.fullmatch(segment):
                node.rest = rule
                break
            if _NAME.fullmatch(segment):
                node.name = node = node.name or _Node()
            else:
                node = node.literal(segment)
        else:
            node.here = rule
    return trees


def _find(node: _Node, segments: list[bytes], doubts: list[Rule | None]) -> Rule | None:
    """The rule that matches; to `doubts` go those that a lenient server would find.

    Looks at each node once at most, and is as deep as the longest template, however long the path is.
    """
    if not segments:
        if node.here is None:
            slash = node.literals.get(b"")
            doubts += [node.rest, slash.here if slash else None]
        return node.here
    segment, left = segments[0], segments[1:]
    literal = node.literals.get(segment)
    if literal is not None and (rule := _find(literal, left, doubts)):
        return rule
    if not (segment or left):
        doubts.append(node.here)
    _doubt(node, segment, left, doubts)
    if segment and node.name is not None and (rule := _find(node.name, left, doubts)):
        return rule
    return node.rest


def _doubt(node: _Node, segment: bytes, left: list[bytes], doubts: list[Rule | None]) -> None:
    """Where the segment leads a server that decodes it, has no case, trims, or cuts at `;`, `?` or `#`."""
    *_, name = layers(segment) if b"%" in segment else (segment,)
    name, *cut = _CUT.split(name, maxsplit=1)
    for other in node.spellings.get(_folded(name), ()):
        if other is not node.literals.get(segment):
            doubts.append(_find(other, left, doubts))
        if cut:
            doubts.append(other.here)
    if cut and node.name is not None:
        doubts.append(node.name.here)


def _folded(name: bytes) -> str:
    """Alike for names that some comparison without case takes for the same (i with and without its dot, s and
    long s, K and Kelvin)."""
    return name.decode("utf-8", "replace").strip().upper().replace("\u0130", "I").casefold()


def parse_policy(source: bytes, *, file: str) -> Policy:
    """Read a policy file: `open:`, a list of paths, and `rights:`, a mapping `METHOD /template: right`.

    Raises:
        SettingsError: with every problem found.
    """
    problems: list[Problem] = []
    wrong = Problem(file, "", "must be a mapping with `open` and `rights`", "Write both at the top level")
    sections: dict[str, yaml.Node] = {}
    for key, node in _pairs(_root(source, file), wrong, problems):
        if key not in {"open", "rights"}:
            problems.append(Problem(file, key, "is not a key of a policy", "Use `open` and `rights`"))
        elif key in sections:
            problems.append(Problem(file, key, "appears twice", "Keep one"))
        sections[key] = node
    opened = _open_paths(sections.get("open"), file, problems)
    rules = _rules(sections.get("rights"), file, problems)
    if problems:
        raise SettingsError(problems)
    return Policy.of(file, opened, rules)


def _root(source: bytes, file: str) -> yaml.Node | None:
    """The document as nodes. They are never made into values: there, aliases and merges multiply."""
    try:
        root: yaml.Node | None = yaml.compose(source, Loader=yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        fix = "Write `open:` with a list of paths and `rights:` with lines such as `GET /path: read`"
        raise SettingsError([Problem(file, "", "is not YAML", fix)]) from None
    return root


def _is_absent(node: yaml.Node | None) -> bool:
    return node is None or node.tag == "tag:yaml.org,2002:null"


def _pairs(
    node: yaml.Node | None, wrong: Problem, problems: list[Problem]
) -> Iterator[tuple[str, yaml.Node]]:
    """The entries of a mapping in their order, repeated keys too."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            if isinstance(key, yaml.ScalarNode):
                yield key.value.encode("utf-8", "backslashreplace").decode(), value
            else:
                problems.append(wrong)
    elif not _is_absent(node):
        problems.append(wrong)


def _open_paths(node: yaml.Node | None, file: str, problems: list[Problem]) -> list[str]:
    if _is_absent(node):
        return []
    items = node.value if isinstance(node, yaml.SequenceNode) else [None]
    paths = [item.value if isinstance(item, yaml.ScalarNode) else "" for item in items]
    if not all(p.isascii() and is_normal(p.encode()) for p in paths):
        problems.append(
            Problem(
                file,
                "open",
                "must be a list of paths, each starting with / and in normal form",
                "Write `open: [/healthz]`",
            )
        )
        return []
    return paths


def _rules(node: yaml.Node | None, file: str, problems: list[Problem]) -> list[Rule]:
    wrong = Problem(file, "rights", "must be a mapping of routes to rights", "Write `GET /path/{name}: read`")
    rules: dict[str, Rule] = {}
    for route, value in _pairs(node, wrong, problems):
        key, right = f"rights.{route}", value.value if isinstance(value, yaml.ScalarNode) else ""
        match = _ROUTE.fullmatch(route)
        if match is None or not _template_is_sound(match[2]):
            problems.append(
                Problem(file, key, "is no route", "Write METHOD /path/{name} or METHOD /{rest...}")
            )
        elif right.upper() not in Right.__members__:
            problems.append(Problem(file, key, "is no right", "Use read, write or manage"))
        elif (first := rules.get(shape := _shape(route))) is not None:
            message = f"is for the same requests as `{first.method} {first.template}`"
            problems.append(Problem(file, key, message, "Keep one"))
        else:
            rules[shape] = Rule(match[1], match[2], Right[right.upper()])
    return list(rules.values())


def _shape(route: str) -> str:
    """Alike for routes that match the same requests: what a name is called makes no difference."""
    return _ANY_NAME.sub(r"{\1}", route)


def _template_is_sound(template: str) -> bool:
    """Whether a request can match it: literals are normal and not encoded, names stand where they may."""
    segments = [s.encode() for s in template.split("/")[1:]]
    if len(segments) > _DEEPEST or any(_REST.fullmatch(s) for s in segments[:-1]):
        return False
    literals = [s for s in segments if not (_NAME.fullmatch(s) or _REST.fullmatch(s))]
    return (
        not any(b"%" in s for s in literals)
        and b"" not in segments[:-1]
        and all(is_normal(b"/" + s) for s in literals)
    )
