"""Bytes that were on disk together, as one value.

Must not know: how they were read, or what they mean.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rekeyd.reload.files import File
from rekeyd.reload.folder import Contents
from rekeyd.reload.named import Pair
from rekeyd.settings import Parsed


@dataclass(frozen=True, slots=True)
class Snapshot:
    """`contents` is by dotted key, the settings file under an empty one; `paths` says where each came from.

    `pairs` says which of them are a certificate and its key, `folder` what was in `tls.certificate_dir`.
    """

    parsed: Parsed
    paths: Mapping[str, Path]
    contents: Mapping[str, File] = field(repr=False)
    pairs: tuple[Pair, ...] = ()
    folder: Contents | None = None

    @property
    def digest(self) -> str:
        """A hash over all bytes. Who may read a file is no part of it."""
        digest = hashlib.sha256()
        for key in sorted(self.contents):
            data = self.contents[key].data
            digest.update(f"{key}:{len(data)}:".encode())
            digest.update(data)
        return digest.hexdigest()
