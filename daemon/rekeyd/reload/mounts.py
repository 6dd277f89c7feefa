"""What is mounted where, and what of it can never change under us.

The rules are those of proc_pid_mountinfo(5): one mount a line, the latest of those that share a mount point
covers the others, odd characters are octal escapes. A file that is itself a mount point is pinned to one
inode: who replaces it outside replaces another file. So is what lies below a mount whose root leads through
one of the dated directories of a Kubernetes volume (`..2026_01_02_03_04_05.678`), as `subPath` mounts do.

Only text comes in. Must not know: where it is read.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

NO_EVENTS = frozenset({"nfs", "nfs4", "cifs", "smb3", "9p", "virtiofs", "vboxsf", "ceph", "glusterfs", "afs"})
"""File systems whose changes may be made on another machine, of which inotify(7) tells nothing."""

_ESCAPE = re.compile(r"\\([0-7]{3})")
_DATED = re.compile(r"/\.\.\d{4}_\d\d_\d\d_")
_DELETED = "//deleted"
_FIELDS_BEFORE = 6
_FIELDS_AFTER = 1


@dataclass(frozen=True, slots=True)
class Mount:
    """One line: `root` is what of the file system is mounted, `point` where, `kind` the system's type."""

    point: Path
    root: str
    kind: str

    @property
    def is_dated(self) -> bool:
        """It shows one dated directory of a Kubernetes volume, and will not follow `..data` to the next."""
        return bool(_DATED.search(self.root))

    @property
    def is_deleted(self) -> bool:
        """What it shows was removed where it came from: it has been replaced there already."""
        return self.root.endswith(_DELETED)

    @property
    def may_lack_events(self) -> bool:
        return self.kind in NO_EVENTS or self.kind == "fuse" or self.kind.startswith("fuse.")


def mounts_in(text: str) -> tuple[Mount, ...]:
    """All mounts of a `mountinfo`, in its order. What can't be read is left out."""
    return tuple(_mounts(text.splitlines()))


def _mounts(lines: Iterable[str]) -> Iterator[Mount]:
    for line in lines:
        before, dash, after = line.partition(" - ")
        head, tail = before.split(), after.split()
        if dash and len(head) >= _FIELDS_BEFORE and len(tail) >= _FIELDS_AFTER:
            yield Mount(Path(_unescaped(head[4])), _unescaped(head[3]), tail[0])


def _unescaped(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mount_of(path: Path, mounts: Sequence[Mount]) -> Mount | None:
    """The mount that an absolute path without links lies on."""
    over = [mount for mount in mounts if path.is_relative_to(mount.point)]
    deepest = max((len(mount.point.parts) for mount in over), default=0)
    return next((mount for mount in reversed(over) if len(mount.point.parts) == deepest), None)
