"""What a key of the settings takes, in words.

Owns: `Kind`, the description that every key's type carries, and `UnusableError`, how a value is turned down.
Must not know: any key, any source of values.

The rule: what an operator wrote is never repeated in a message. It may be a secret in the wrong place; the
key, the line and what is wanted are enough to find it.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,39}", re.ASCII)
_TYPE_NAMES: dict[type, str] = {
    type(None): "null",
    bool: "a boolean",
    int: "an integer",
    float: "a number with a fraction",
    str: "a string",
    list: "a list",
    dict: "a mapping",
}


class UnusableError(ValueError):
    """A value of the right type that can't be used; the words never contain the value."""

    def __init__(self, message: str, fix: str) -> None:
        self.message = message
        self.fix = fix
        super().__init__(message)


@dataclass(frozen=True, slots=True)
class Kind:
    """The kind of value that a key takes.

    `wants` completes the sentence "must be …"; `fix` says how to write it. `accepts` are the Python types
    that YAML may give for it: only for others does a message say what was found instead. The environment's
    text is taken as it is when `text`, else read as YAML. `locate` makes the relative paths in
    a value absolute, whatever the value is. `credential` puts what it means in place of each
    `credential:NAME`, given the folder of the credentials (None: there can be none).
    """

    wants: str
    fix: str
    accepts: tuple[type, ...]
    text: bool = False
    secret: bool = False
    locate: Callable[[Any, Path], Any] | None = None
    credential: Callable[[Any, Path], Any] | None = None

    @property
    def nullable(self) -> bool:
        return type(None) in self.accepts

    def objection(self, value: object) -> tuple[str, str]:
        """Why `value` will not do, and the fix: its type is wrong, or it is out of range, or no choice."""
        if type(value) not in self.accepts:
            return f"must be {self.wants}, not {name_of_type(value)}", self.fix
        if isinstance(value, int | float) and not self.text:
            return f"is out of range: it must be {self.wants}", "Choose one within the range"
        return f"must be {self.wants}", self.fix


def name_of_type(value: Any) -> str:
    return _TYPE_NAMES.get(type(value), "something else")


def alternatives(*choices: str) -> str:
    """`a`, `b` or `c`."""
    quoted = [f"`{choice}`" for choice in choices]
    return f"{', '.join(quoted[:-1])} or {quoted[-1]}"


def is_word(text: str) -> bool:
    """Whether a key's name may be repeated; what is no word may be a value that lost its key."""
    return _WORD.fullmatch(text) is not None
