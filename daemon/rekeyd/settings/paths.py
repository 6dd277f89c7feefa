"""Paths as settings have them: made absolute, and refused where no file can have them.

Owns: what a relative path is relative to, once the folder is known. Must not know: which setting it is of, or
what is on the disk.
"""

from pathlib import Path
from typing import Any

from rekeyd.settings.credentials import is_reference, refuse_reference
from rekeyd.settings.kinds import UnusableError
from rekeyd.settings.upstream_address import check_socket_path


def absolute(value: Any) -> Any:
    if isinstance(value, Path):
        value = str(value)
    if not isinstance(value, str):
        return value
    refuse_reference(value)
    if not value:
        raise UnusableError("is empty", "Name a file, or leave the key out")
    if any(ord(character) < ord(" ") for character in value):
        raise UnusableError("has a control character in its path", "Remove it")
    if not value.startswith("/"):
        raise UnusableError("is not an absolute path", "Begin it with a slash")
    return Path(value)


def absolute_socket(value: Any) -> Any:
    path = absolute(value)
    if isinstance(path, Path):
        check_socket_path(str(path))
    return path


def beside(value: Any, folder: Path) -> Any:
    return str(folder / value) if isinstance(value, str) and value and not is_reference(value) else value


def socket_beside(value: Any, folder: Path) -> Any:
    if not isinstance(value, str):
        return value
    scheme, colon, path = value.partition(":")
    return f"{scheme}:{beside(path, folder)}" if colon and scheme.lower() == "unix" else value


def policy_beside(value: Any, folder: Path) -> Any:
    return beside(value, folder) if isinstance(value, str) and ("/" in value or "." in value) else value
