"""What a credential may do, and within which limits.

The rules: rights are `read`, `write` and `manage`, each including those below it. A credential has its right
everywhere, or on named collections only, where `points` is Qdrant's `prw`: points may be read and written,
and nothing else. `manage` can't be had for one collection: what manages one reaches beyond it (a snapshot is
recovered from any place, an alias names two). Whatever is not named is not allowed, and where a request may
be read in more than one way every reading must be allowed.

Must not know: what a request is, or which right it needs (`policy`).
"""

import enum
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

ANY = "*"
"""At the end of a collection's name: whatever follows."""


class Right(enum.IntEnum):
    """What a credential may do; each right includes those below it."""

    READ = 1
    WRITE = 2
    MANAGE = 3

    def __str__(self) -> str:
        return self.name.lower()


class Reach(enum.Enum):
    """What may be done within one collection."""

    READ = "read"
    POINTS = "points"
    WRITE = "write"

    @property
    def right(self) -> Right:
        return Right.READ if self is Reach.READ else Right.WRITE

    def covers(self, right: Right, *, of_points: bool) -> bool:
        """Whether it is enough for what needs `right`; `of_points`: and looks at points alone."""
        return self.right >= right and (of_points or self is not Reach.POINTS)


@dataclass(frozen=True, slots=True)
class Limits:
    """What narrows a credential.

    `collections` are names (with `*` at the end: prefixes) and what may be done within them; None: there is
    no such limit. `paths` are prefixes of request paths, one of which must match; none: no limit. `networks`
    are those that clients must come from; none: no limit. `rate` is in requests per second.
    """

    collections: tuple[tuple[str, Reach], ...] | None = None
    paths: tuple[bytes, ...] = ()
    networks: tuple[IPNetwork, ...] = ()
    rate: float | None = None

    def admit_client(self, address: str) -> bool:
        """Whether a client may come from `address`; what is no address comes from nowhere."""
        if not self.networks:
            return True
        try:
            ip = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(ip in network for network in self.networks)

    def admit_path(self, path: bytes) -> bool:
        """Whether the path, in normal form, lies below one of the prefixes; `/a` holds `/a` and `/a/b`."""
        if not self.paths:
            return True
        return any(path == prefix.rstrip(b"/") or path.startswith(_folder(prefix)) for prefix in self.paths)

    def admit_collection(self, readings: Iterable[bytes], right: Right, *, of_points: bool) -> bool:
        """Whether `right` is had on a collection, however its name is read."""
        return all(self._reaches(name, right, of_points=of_points) for name in readings)

    def _reaches(self, name: bytes, right: Right, *, of_points: bool) -> bool:
        return any(
            _is_named(name, pattern) and reach.covers(right, of_points=of_points)
            for pattern, reach in self.collections or ()
        )


UNLIMITED = Limits()


def _folder(prefix: bytes) -> bytes:
    return prefix if prefix.endswith(b"/") else prefix + b"/"


def _is_named(name: bytes, pattern: str) -> bool:
    if pattern.endswith(ANY):
        return name.startswith(pattern.removesuffix(ANY).encode())
    return name == pattern.encode()
