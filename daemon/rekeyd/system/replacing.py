"""A file that is replaced whole: whoever reads it, also after a crash, finds the old bytes or the new ones.

Must not know: what the bytes are.
"""

import contextlib
import os
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes, *, mode: int = 0o600) -> None:
    """Put `data` in the place of `path`: written beside it, brought to the disk, renamed.

    Raises OSError, with the old file in its place.
    """
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            os.fchmod(descriptor, mode)
            stream.write(data)
            stream.flush()
            os.fsync(descriptor)
        os.rename(name, path)  # noqa: PTH104 - the name is mkstemp's
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)  # noqa: PTH108 - likewise
        raise
    _bring_to_disk(path.parent)


def _bring_to_disk(folder: Path) -> None:
    """The rename itself, which is an entry of the folder."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
