"""Changes to the text of a key file that leave everything else in it as it is.

The rules. In YAML a change is a splice of the text at the places where the parser saw keys begin and end, so
that comments, order, quoting and indentation stay byte for byte. (A round trip through a tree would not do:
it hangs a comment on what stands before it, so that what is appended lands behind the next key's comment.)
Each change is made to the plain values as well, and the new text must say exactly that: where a file is
written in a way that a splice does not fit, nothing is changed, and the operator is told to do it by hand.
JSON has no comments, and is written anew with its indentation.

Pure. Must not know: files, digests, or what a key may be.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml

from rekeyd.access.key_file import END, is_json
from rekeyd.errors import RekeydError
from rekeyd.settings.yaml_source import read_value, read_yaml

NEW_YAML = b"""\
# The keys of rekeyd: `rekeyd keys` edits this file, and so may you. The secrets are not in it, but digests.
# Its last line must be `...`, so that a file which was cut off is noticed.
keys: []
...
"""
NEW_JSON = b'{\n  "keys": []\n}\n'
_PLAIN = re.compile(r"[A-Za-z0-9][A-Za-z0-9 .:/_-]*", re.ASCII)
_INDENT = re.compile(r"^(\s+)\"", re.MULTILINE)


class EditError(RekeydError):
    """The text can't be changed without harm."""


@dataclass(frozen=True, slots=True)
class AddKey:
    """One key more, at the end."""

    entry: Mapping[str, Any] = field(repr=False)


@dataclass(frozen=True, slots=True)
class AddSecret:
    """One secret more for a key, after its others."""

    key: str
    secret: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class EndSecret:
    """The secret of that number (from 0) expires then."""

    key: str
    number: int
    expires: str


@dataclass(frozen=True, slots=True)
class RemoveKey:
    key: str


@dataclass(frozen=True, slots=True)
class NamePepper:
    pepper: str


_INWARD = {EndSecret: 0, AddSecret: 1}
"""At one place in the text what belongs to a secret comes first, then what belongs to its key."""
Edit = AddKey | AddSecret | EndSecret | RemoveKey | NamePepper


def edited(source: bytes, file: str, edits: Iterable[Edit]) -> bytes:
    """The source, which must be a sound key file, with the edits made. Raises `EditError`."""
    edits = tuple(edits)
    if is_json(file):
        return _json(source, edits)
    before = read_yaml(source, file, is_name=_any_name).tree
    wanted = _changed(before, edits)
    text = source.decode("utf-8-sig")
    try:
        made = _spliced(text, edits).encode()
        sound = (
            made.rstrip().endswith(b"\n" + END) and read_yaml(made, file, is_name=_any_name).tree == wanted
        )
    except (RekeydError, yaml.YAMLError, LookupError, TypeError):
        sound = False
    if not sound:
        raise EditError(f"{file} is written in a way that can't be edited without harm: do it by hand")
    return made


def _any_name(_place: str, _name: str) -> bool:
    return True


# The plain values


def _changed(tree: Mapping[str, Any], edits: Iterable[Edit]) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(tree))  # what an alias shares is copied for each
    for edit in edits:
        match edit:
            case AddKey(entry):
                changed["keys"] = [*(changed.get("keys") or []), dict(entry)]
            case AddSecret(key, secret):
                _entry(changed, key)["secrets"].append(dict(secret))
            case EndSecret(key, number, expires):
                _entry(changed, key)["secrets"][number]["expires"] = expires
            case RemoveKey(key):
                changed["keys"].remove(_entry(changed, key))
            case NamePepper(pepper):
                changed["pepper"] = pepper
    return changed


def _entry(tree: Mapping[str, Any], key: str) -> Any:
    return next(entry for entry in tree["keys"] if entry["id"] == key)


def _json(source: bytes, edits: Iterable[Edit]) -> bytes:
    text = source.decode("utf-8-sig")
    found = _INDENT.search(text)
    tree = _changed(json.loads(text), edits)
    return (
        json.dumps(tree, indent=found[1].lstrip("\r\n") if found else None, ensure_ascii=False) + "\n"
    ).encode()


# The text


@dataclass(frozen=True, slots=True)
class _Splice:
    """What stands from `start` to `end` becomes `text`."""

    start: int
    end: int
    text: str


def _spliced(text: str, edits: Iterable[Edit]) -> str:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    page = _Page(text, root)
    in_order = sorted(edits, key=lambda edit: _INWARD.get(type(edit), len(_INWARD)))
    splices = [splice for edit in in_order for splice in page.splices(edit)]
    for splice in sorted(splices, key=lambda s: s.start, reverse=True):
        same = [s for s in splices if s.start == splice.start]
        if len(same) > 1 and splice is not same[0]:
            continue
        end, new = max(s.end for s in same), "".join(s.text for s in same)
        text = text[: splice.start] + new + text[end:]
    return text


class _Page:
    """A text and the nodes that PyYAML saw in it."""

    def __init__(self, text: str, root: yaml.Node | None) -> None:
        self._text = text
        self._root = root

    def splices(self, edit: Edit) -> Iterator[_Splice]:
        match edit:
            case AddKey(entry):
                yield self._with_key(entry)
            case AddSecret(key, secret):
                yield self._appended(_member(self._key(key), "secrets")[1], secret)
            case EndSecret(key, number, expires):
                yield self._with_expiry(_member(self._key(key), "secrets")[1].value[number], expires)
            case RemoveKey(key):
                yield self._without(key)
            case NamePepper(pepper):
                yield self._at_the_top("pepper", pepper)

    def _key(self, key: str) -> Any:
        keys = _member(self._root, "keys")[1]
        return next(entry for entry in keys.value if _member(entry, "id")[1].value == key)

    def _with_key(self, entry: Mapping[str, Any]) -> _Splice:
        try:
            name, keys = _member(self._root, "keys")
        except LookupError:
            return self._at_the_end("keys:\n" + _block(entry, 2) + "\n")
        if isinstance(keys, yaml.SequenceNode) and keys.value:
            return self._appended(keys, entry)
        after = name.end_mark.index
        return _Splice(
            after, max(self._end(keys), after + 1), ":\n" + _block(entry, name.start_mark.column + 2)
        )

    def _appended(self, items: Any, entry: Mapping[str, Any]) -> _Splice:
        last = self._end(items.value[-1])
        if items.flow_style:
            return _Splice(last, last, ", " + _flow(entry))
        after = self._line_end(last)
        return _Splice(after, after, "\n" + _block(entry, items.start_mark.column))

    def _with_expiry(self, secret: Any, expires: str) -> _Splice:
        with_quotes = json.dumps(expires)
        try:
            value = _member(secret, "expires")[1]
        except LookupError:
            last = self._end(secret)
            if secret.flow_style:
                last = self._end(secret.value[-1][1])
                return _Splice(last, last, f", expires: {with_quotes}")
            after = self._line_end(last)
            return _Splice(after, after, f"\n{' ' * secret.start_mark.column}expires: {expires}")
        start = value.start_mark.index
        return _Splice(start, self._end(value), with_quotes if self._text[start] in "\"'" else expires)

    def _without(self, key: str) -> _Splice:
        name, keys = _member(self._root, "keys")
        items, gone = keys.value, self._key(key)
        number = items.index(gone)
        if len(items) == 1:
            return _Splice(name.end_mark.index, self._end(keys), ": []")
        if not keys.flow_style:
            start = self._text.rindex("\n", 0, gone.start_mark.index) + 1
            return _Splice(start, self._line_end(self._end(gone)) + 1, "")
        if number + 1 < len(items):
            return _Splice(gone.start_mark.index, items[number + 1].start_mark.index, "")
        return _Splice(self._end(items[number - 1]), self._end(gone), "")

    def _at_the_top(self, name: str, value: str) -> _Splice:
        if self._root is None:
            return self._at_the_end(f'{name}: "{value}"\n')
        start = self._root.start_mark.index
        if self._text[start] == "{":
            return _Splice(start + 1, start + 1, f'"{name}": "{value}", ')
        return _Splice(start, start, f'{name}: "{value}"\n')

    def _at_the_end(self, text: str) -> _Splice:
        """Before the mark that ends the document."""
        start = self._text.rindex("\n" + END.decode()) + 1
        return _Splice(start, start, text)

    def _end(self, node: Any) -> int:
        """Where what is written of a node ends. (PyYAML's own mark is past the comments that follow.)"""
        if isinstance(node, yaml.ScalarNode) or node.flow_style or not node.value:
            start: int = node.start_mark.index
            return start + len(self._text[start : node.end_mark.index].rstrip())
        last = node.value[-1]
        end: int = self._end(last[1] if isinstance(last, tuple) else last)
        return end

    def _line_end(self, at: int) -> int:
        found = self._text.find("\n", at)
        return len(self._text) if found < 0 else found


def _member(mapping: Any, name: str) -> tuple[yaml.Node, Any]:
    for key, value in mapping.value if isinstance(mapping, yaml.MappingNode) else ():
        if key.value == name:
            return key, value
    raise LookupError(name)


def _block(entry: Mapping[str, Any], indent: int) -> str:
    """An item of a list, in block style; lists of mappings within it too."""
    lines: list[str] = []
    for name, value in entry.items():
        if isinstance(value, list) and value and isinstance(value[0], Mapping):
            lines += [f"{name}:", *(_block(item, 2) for item in value)]
        else:
            lines.append(f"{name}: {_written(value)}")
    pad = " " * indent
    whole = "\n".join(lines).replace("\n", f"\n{pad}  ")
    return f"{pad}- {whole}"


def _written(value: Any) -> str:
    """A scalar without quotes only where it is read as itself."""
    if (
        isinstance(value, str)
        and _PLAIN.fullmatch(value)
        and not value.endswith((":", " "))
        and ": " not in value
    ):
        try:
            if read_value(value) == value:
                return value
        except ValueError:
            pass
    return _flow(value)


def _flow(value: Any) -> str:
    """JSON is YAML."""
    return json.dumps(value, ensure_ascii=False)
