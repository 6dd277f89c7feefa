"""Which right a request needs: rules by method and path template, and the paths open to all.

The rules: a literal segment matches itself, byte for byte. `{name}` matches one segment that is not empty,
`{name...}` (last only) whatever is left. A literal wins over a name. What no rule matches needs `manage`, the
highest right. Where a server that reads paths leniently (it decodes literals, has no case, adds or drops a
trailing slash) would find a rule that needs more, the request could mean either, so it counts as matched by
none. Open paths match exactly, for GET, HEAD and OPTIONS. A method of gRPC is a path that is asked for with
`GRPC`: `/package.Service/Method`, with the collection behind it where it is of one.

Must not know: who asks (`access`), or how a policy is written
down (`policy_file`).
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from rekeyd.access.paths import is_normal, layers
from rekeyd.access.rights import Right

GRPC = b"GRPC"
"""The method by which calls of gRPC are asked for; no request of HTTP may have it."""
OPEN_METHODS = frozenset({b"GET", b"HEAD", b"OPTIONS"})

NAME = re.compile(rb"\{[A-Za-z_][A-Za-z0-9_]*\}")
"""A segment of a template that matches any one segment."""
REST = re.compile(rb"\{[A-Za-z_][A-Za-z0-9_]*\.\.\.\}")
"""A last segment that matches whatever is left."""
_CUT = re.compile(rb"[;?#]")
REMEMBERED = 4096
"""Readings that a policy remembers; then it begins anew."""
_LONGEST_REMEMBERED = 256
"""Bytes of a path, so that what clients ask for can't fill the memory."""


@dataclass(frozen=True, slots=True)
class Rule:
    """`method` and `template` (as written) need `right`.

    `points`: it looks at points alone, so that `Reach.POINTS` is enough. `shared`: it is of no collection,
    and also for who is limited to some. `lookup`: its body may name further collections. `collection` is the
    place of the segment that names the collection, counted from 0.
    """

    method: str
    template: str
    right: Right
    points: bool = False
    shared: bool = False
    lookup: bool = False
    collection: int | None = None

    def __str__(self) -> str:
        marks = [name for name in ("points", "shared", "lookup") if getattr(self, name)]
        return f"{self.method} {self.template}: {' '.join([str(self.right), *marks])}"

    def collection_in(self, path: bytes) -> bytes | None:
        """The name of the collection in a path that this rule matches, as it is written there."""
        return None if self.collection is None else path.split(b"/")[self.collection + 1]


@dataclass(slots=True)
class _Node:
    """One segment deep into the templates of one method; `spellings`: its literals, `_folded`."""

    literals: dict[bytes, "_Node"] = field(default_factory=dict, hash=False)
    spellings: dict[str, list["_Node"]] = field(default_factory=dict)
    name: "_Node | None" = None
    rest: Rule | None = None
    here: Rule | None = None

    def literal(self, segment: bytes) -> "_Node":
        if segment not in self.literals:
            node = self.literals[segment] = _Node()
            self.spellings.setdefault(_folded(segment), []).append(node)
        return self.literals[segment]


class Reading(NamedTuple):
    """What a policy says of a method and a path, whoever asks."""

    is_open: bool
    normal: bool
    """Whether every server reads the path alike (`paths`)."""
    rule: Rule | None
    """The rule that decides; None: then `manage` is needed. There is none for a path that isn't normal."""


@dataclass(frozen=True, slots=True)
class Policy:
    """The rules of one API. Compare policies with `==`: equal means that they decide alike."""

    name: str
    open_paths: frozenset[bytes]
    rules: tuple[Rule, ...]
    _trees: Mapping[bytes, _Node] = field(repr=False, compare=False)
    lookups: tuple[str, ...] = ()
    """Members of a JSON body whose values name further collections."""
    open_calls: frozenset[bytes] = frozenset()
    """The same for gRPC as `open_paths` for HTTP."""
    messages: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    """Where messages of gRPC name further collections: by the path of a method, or the kind of a message
    within it, and the number of a field: the kind of the message there, or `name`."""
    _readings: dict[tuple[bytes, bytes], Reading] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        name: str,
        open_paths: Iterable[str],
        rules: Iterable[Rule],
        lookups: Iterable[str] = (),
        open_calls: Iterable[str] = (),
        messages: Mapping[str, Mapping[int, str]] | None = None,
    ) -> "Policy":
        rules = tuple(rules)
        paths, calls = (frozenset(path.encode() for path in each) for each in (open_paths, open_calls))
        return cls(name, paths, rules, _grow(rules), tuple(lookups), calls, messages or {})

    def opening(self, paths: Iterable[str]) -> "Policy":
        """This policy with more open paths (`access.public`)."""
        opened = self.open_paths | {p.encode() for p in paths}
        return replace(self, open_paths=opened, _readings={})

    def read(self, method: bytes, path: bytes) -> Reading:
        """What is said of `method` on `path`; remembered, since few are asked for again and again."""
        reading = self._readings.get((method, path))
        if reading is None:
            normal = is_normal(path)
            rule = self.rule_for(method, path) if normal else None
            reading = Reading(self.is_open(method, path), normal, rule)
            if len(path) <= _LONGEST_REMEMBERED:
                if len(self._readings) >= REMEMBERED:
                    self._readings.clear()
                self._readings[method, path] = reading
        return reading

    def is_open(self, method: bytes, path: bytes) -> bool:
        if method == GRPC:
            return path in self.open_calls
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
            if REST.fullmatch(segment):
                node.rest = rule
                break
            if NAME.fullmatch(segment):
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
