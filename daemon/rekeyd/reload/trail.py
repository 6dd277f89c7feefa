"""Where a file really is, what could change it, and whether anything did.

The rule: a path is followed as the kernel follows it (path_resolution(7)), and every symbolic link on the
way is remembered, for the file changes when a link does: Kubernetes swaps `..data`, certbot re-points
`live/`. What is to be watched are the directories that hold the file and each of those links.

Only metadata is looked at here; what the bytes say is the reloader's business. Must not know: what a file is
for, or who watches.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

_MOST_LINKS = 40  # as in Linux
_RACY = 2_000_000_000  # nanoseconds; the coarsest timestamps in use (FAT's) are two seconds apart

Signature = tuple[int, ...]
"""Device, inode, size, modification and change time: something in it changes whenever the file does."""

Identity = tuple[int, int]
"""Device and inode: a directory that was recreated under its old name is another one."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What was seen at one moment.

    `files` has where each path leads, with its signature (None where nothing can be seen); `directories` is
    what is to be watched; `hops` are the links and files whose change matters. `racy`: a file changed
    so recently that another change might not show (same size, same timestamp), as git says of its index.
    """

    files: dict[Path, tuple[Path, Signature | None]]
    directories: dict[Path, Identity | None]
    hops: frozenset[Path]
    racy: bool


def survey(paths: Iterable[Path]) -> Survey:
    """Look at these absolute paths now. Raises nothing; it blocks as long as the file system does."""
    files: dict[Path, tuple[Path, Signature | None]] = {}
    hops: set[Path] = set()
    for path in paths:
        trail = list(follow(path))
        files[path] = trail[-1], _signature(trail[-1])
        hops.update(trail)
    directories = {_nearest(hop.parent) for hop in hops}
    changed = max((signature[-1] for _, signature in files.values() if signature), default=0)
    return Survey(
        files,
        {directory: _identity(directory) for directory in sorted(directories)},
        frozenset(hops),
        racy=abs(time.time_ns() - changed) < _RACY,
    )


def follow(path: Path) -> Iterator[Path]:
    """Each symbolic link on the way, then where it ends; of each all but the last component is resolved."""
    at, links = Path("/"), 0
    ahead = list(reversed(path.parts[1:]))
    while ahead:
        name = ahead.pop()
        here = at.parent if name == ".." else at / name
        target = _target(here) if links < _MOST_LINKS else None
        if target is None:
            at = here
            continue
        yield here
        links += 1
        if target.is_absolute():
            at, target = Path("/"), target.relative_to("/")
        ahead.extend(reversed(target.parts))
    yield at


def _target(path: Path) -> Path | None:
    try:
        return path.readlink()
    except OSError:
        return None


def _signature(path: Path) -> Signature | None:
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _identity(directory: Path) -> Identity | None:
    try:
        seen = directory.stat()
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def _nearest(directory: Path) -> Path:
    """The directory, or where it is gone the nearest one above: there it must come back."""
    return next(
        place for place in (directory, *directory.parents) if place == place.parent or _is_there(place)
    )


def _is_there(directory: Path) -> bool:
    try:
        return directory.is_dir()
    except OSError:
        return False
