"""Where a certificate and its key are: one entry of `tls.certificates`.

Must not know: what is in the files.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekeyd.settings.kinds import UnusableError
from rekeyd.settings.paths import absolute, beside


@dataclass(frozen=True, slots=True)
class PairFiles:
    """Where a certificate and its key are; absolute paths."""

    cert: Path
    key: Path
    key_passphrase_file: Path | None = None


FIX = "Write `- {cert: FILE, key: FILE}`; `key_passphrase_file: FILE` may stand beside them"
_PAIR_MUST_HAVE = ("cert", "key")
_PAIR_MAY_HAVE = (*_PAIR_MUST_HAVE, "key_passphrase_file")


def pair_files(value: Any) -> PairFiles:
    if isinstance(value, PairFiles):
        return value
    if not isinstance(value, Mapping) or not set(_PAIR_MUST_HAVE) <= value.keys() <= set(_PAIR_MAY_HAVE):
        raise UnusableError("must be a mapping with `cert` and `key`", FIX)
    files = {name: absolute(path) for name, path in value.items() if path is not None}
    if not all(isinstance(path, Path) for path in files.values()) or not set(_PAIR_MUST_HAVE) <= files.keys():
        raise UnusableError("must name its files by their paths", FIX)
    return PairFiles(**files)


def pairs_beside(value: Any, folder: Path) -> Any:
    if not isinstance(value, list):
        return value
    return [
        {name: beside(path, folder) for name, path in entry.items()} if isinstance(entry, dict) else entry
        for entry in value
    ]
