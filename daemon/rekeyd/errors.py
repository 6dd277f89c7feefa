"""Errors that an operator can mend.

Owns: the form in which a mistake in settings or files is told: the file, the key, what is wrong and what to
do. Must not know: where a problem was found, or how it is printed.
"""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake and its remedy. No field ever holds a secret.

    `file` is the path as the operator wrote it (or the name of an environment variable), `key` the dotted
    setting (`tls.cert`) or empty, `message` what is wrong, `fix` what to do about it. `rule` is a short name
    of what was broken that stays the same.
    """

    file: str
    key: str
    message: str
    fix: str
    rule: str = "settings"

    def __str__(self) -> str:
        place = f"{self.file}: {self.key}" if self.key else self.file
        return f"{place}: {self.message}. {self.fix}." if self.fix else f"{place}: {self.message}."


class RekeydError(Exception):
    """The root of what rekeyd raises on purpose."""


class SettingsError(RekeydError):
    """The settings can't be used; every problem at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(map(str, self.problems)))
