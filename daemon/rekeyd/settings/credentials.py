"""`credential:NAME`: what systemd hands to the service as a file (systemd.exec(5), `LoadCredential=`).

The rules: NAME is the name of a file in `$CREDENTIALS_DIRECTORY`. Where a file is wanted it stands for that
file's path; where a secret is wanted, for what is in it, less one line end. No file is opened here: a secret
that is not read yet is a `Credential`, which gives nothing away and can't be used as a secret. What stands
after `credential:` is not repeated where it is no file's name: it may be a secret in the wrong place.

Must not know: any key by name, or what is in a file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from rekeyd.settings.kinds import UnusableError

PREFIX = "credential:"
FOLDER = "CREDENTIALS_DIRECTORY"
NOWHERE = Path("/run/credentials/CREDENTIALS_DIRECTORY-is-not-set")
"""Where credentials are looked for that nobody handed over. Root alone could make it."""

# What systemd takes for a credential's name: a file name of printable ASCII without a colon.
_NAME = re.compile(r"(?!\.\.?$)[ -.0-9;-~]{1,255}", re.ASCII)

_MAKE_ONE = "Make a key of letters and digits, for example with `openssl rand -hex 32`"


class Credential(SecretStr):
    """A secret that is in a file, and has not been read."""

    def __init__(self, path: Path) -> None:
        super().__init__("")
        self.path = path

    def get_secret_value(self) -> str:
        raise TypeError("a credential was used before it was read")

    def __repr__(self) -> str:
        return "Credential(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Credential) and other.path == self.path

    def __hash__(self) -> int:
        return hash(self.path)

    def __len__(self) -> int:
        raise TypeError("a credential was measured before it was read")

    def __bool__(self) -> bool:
        return True


def credentials_folder(environ: Mapping[str, str]) -> Path:
    """Where the credentials of this process are; `NOWHERE` where it was given none."""
    named = environ.get(FOLDER, "")
    return Path(named) if named.startswith("/") else NOWHERE


def is_reference(value: Any) -> bool:
    return isinstance(value, str) and value.startswith(PREFIX)


def file_in(value: Any, folder: Path) -> Any:
    """`value` with the path of the file in place of each credential; what names none soundly stays."""
    if isinstance(value, dict):
        return {name: file_in(part, folder) for name, part in value.items()}
    if isinstance(value, list):
        return [file_in(part, folder) for part in value]
    path = _path(value, folder)
    return value if path is None else str(path)


def secret_in(value: Any, folder: Path) -> Any:
    """A `Credential` in place of a reference to one; anything else stays."""
    path = _path(value, folder)
    return value if path is None else Credential(path)


def refuse_reference(value: Any) -> None:
    """Raise `UnusableError` for a reference that is left over: it names nothing, or can't stand here."""
    if not is_reference(value):
        return
    if _NAME.fullmatch(value.removeprefix(PREFIX)):
        raise UnusableError(
            "can't be a credential, which is a file that can only be read",
            f"Write a path; `./{PREFIX}…` is a file of such a name",
        )
    raise UnusableError(
        f"begins with `{PREFIX}`, and no name of a credential follows",
        f"Write `{PREFIX}NAME`, where `LoadCredential=NAME:FILE` is in the unit: no slash, no colon",
    )


def secret_of(data: bytes) -> str:
    """The secret that a credential's file holds. Raises `UnusableError`."""
    try:
        text = data.decode().removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError:
        # From None: the original holds the bytes.
        raise UnusableError("is a credential that is not UTF-8", _MAKE_ONE) from None
    if not text:
        raise UnusableError(
            "is a credential that is empty, so there would be no key",
            "Write the key to the file that `LoadCredential=` names, or remove the setting",
        )
    return text


def _path(value: Any, folder: Path) -> Path | None:
    if not is_reference(value):
        return None
    name = value.removeprefix(PREFIX)
    return folder / name if _NAME.fullmatch(name) else None
