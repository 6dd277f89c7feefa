"""Where a file really is, what could change it, and whether anything did.

The rule: a path is followed as the kernel follows it (path_resolution(7)), and every symbolic link on the
way is remembered, for the file changes when a link does: Kubernetes swaps `..data`, certbot re-points
`live/`. What is to be watched are the directories that hold the file and each of those links.

This is done twice a second, for a thousand pairs as for one: a directory is followed once for all that is in
it, and paths are plain text. Only metadata is looked at here; what the bytes say is the reloader's business.
Must not know: what a file is for, or who watches.
"""

# ruff: noqa: PTH112, PTH115, PTH116, PTH118, PTH120 - a thousand pairs cost ten times as much with pathlib

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_MOST_LINKS = 40  # as in Linux
_NOWHERE = frozenset({"", "."})
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

    files: dict[str, tuple[str, Signature | None]]
    directories: dict[Path, Identity | None]
    hops: frozenset[str]
    racy: bool


def survey(paths: Iterable[Path]) -> Survey:
    """Look at these absolute paths now. Raises nothing; it blocks as long as the file system does."""
    ways = _Ways()
    trails = {path: ways.follow(path) for path in map(os.fspath, paths)}
    files = {path: (trail[-1], _signature(trail[-1])) for path, trail in trails.items()}
    hops = frozenset(hop for trail in trails.values() for hop in trail)
    directories = sorted({_nearest(folder) for folder in {hop.rpartition("/")[0] or "/" for hop in hops}})
    changed = max((signature[-1] for _, signature in files.values() if signature), default=0)
    return Survey(
        files,
        {Path(directory): _identity(directory) for directory in directories},
        hops,
        racy=abs(time.time_ns() - changed) < _RACY,
    )


def follow(path: Path) -> tuple[Path, ...]:
    """Each symbolic link on the way, then where it ends; of each all but the last component is resolved."""
    return tuple(map(Path, _Ways().follow(os.fspath(path))))


class _Ways:
    """Follows absolute paths at one moment, and remembers the directories that it came through."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str, ...]] = {"": ("/",)}

    def follow(self, path: str) -> tuple[str, ...]:
        return self._follow(path, _MOST_LINKS)

    def _follow(self, path: str, links: int) -> tuple[str, ...]:
        """The last is where it ends. With no `links` left, a link is taken for the end."""
        above, _, name = path.rpartition("/")
        way = self._known.get(above) or self._directory(above, links)
        end = way[-1]
        if name in _NOWHERE:
            return way
        if name == "..":
            return (*way[:-1], os.path.dirname(end))
        here = f"{end}/{name}" if end != "/" else f"/{name}"
        left = links - len(way) + 1
        target = _target(here) if left > 0 else None
        if target is None:
            return (*way[:-1], here)
        return (*way[:-1], here, *self._follow(os.path.join(end, target), left - 1))

    def _directory(self, path: str, links: int) -> tuple[str, ...]:
        way = self._follow(path, links)
        if links == _MOST_LINKS:  # else it may have been cut short
            self._known[path] = way
        return way


def _target(path: str) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None


def _signature(path: str) -> Signature | None:
    try:
        seen = os.stat(path)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino, seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _identity(directory: str) -> Identity | None:
    try:
        seen = os.stat(directory)
    except OSError:
        return None
    return seen.st_dev, seen.st_ino


def _nearest(directory: str) -> str:
    """The directory, or where it is gone the nearest one above: there it must come back."""
    while not os.path.isdir(directory) and directory != "/":
        directory = os.path.dirname(directory)
    return directory
