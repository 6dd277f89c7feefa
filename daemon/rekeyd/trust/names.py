"""Which certificates a client is offered that asks for a name (SNI).

The rules (RFC 9525, 6.3; RFC 6066, 3). A name that a certificate has goes before a wildcard that covers it.
`*` stands for exactly one label, and only as the whole of the left-most. Case does not matter, nor one dot at
the end; IDNA names are compared as they travel, as A-labels. An address is no server name. Of each kind of
key (RSA, ECDSA, …) the first certificate in the order of the configuration is taken; different kinds for the
same name are offered together, ECDSA first, and the handshake settles which the client can use. A client that
asks for nothing or for an unknown name gets the default (the first certificate), unless names are strict.

All of it is worked out once: a handshake costs two look-ups, whether there is one certificate or thousands.
Must not know: handshakes.
"""

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Generic, TypeVar

from rekeyd.trust.certificates import Certificate, Material

Choice = tuple[Material, ...]
"""Certificates that are offered together: one of each kind of key, ECDSA first."""

T = TypeVar("T")
U = TypeVar("U")

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*", re.ASCII)
_LONGEST_NAME = 253
_ANY = "*."
_PREFERENCE = ("ECDSA", "Ed25519", "Ed448", "RSA")


@dataclass(frozen=True, slots=True)
class Names(Generic[T]):
    """What is there for each name. `exact` has names, `wildcards` what follows `*.`; in lower case."""

    exact: Mapping[str, T]
    wildcards: Mapping[str, T]
    default: T | None = None

    def find(self, server_name: str | None, *, strict: bool = False) -> T | None:
        """What is there for the name that a client sent (None: it sent none)."""
        name = (server_name or "").lower().removesuffix(".")
        found = self.exact.get(name)
        if found is None and not name.startswith("."):
            found = self.wildcards.get(name.partition(".")[2])
        if found is not None and not _is_address(name):
            return found
        return None if strict else self.default

    def mapped(self, to: Callable[[T], U]) -> "Names[U]":
        """The same names with something else; `to` is called once for each distinct thing."""
        made = {id(each): to(each) for each in self.distinct()}
        return Names(
            {name: made[id(each)] for name, each in self.exact.items()},
            {name: made[id(each)] for name, each in self.wildcards.items()},
            None if self.default is None else made[id(self.default)],
        )

    def distinct(self) -> Iterator[T]:
        """Everything that is there, once; the default first."""
        all_of_it = (*(() if self.default is None else (self.default,)), *self._values())
        return iter({id(each): each for each in all_of_it}.values())

    def others(self) -> Iterator[T]:
        """Everything but the default, once."""
        return (each for each in self.distinct() if each is not self.default)

    def examples(self, *, strict: bool = False) -> Iterator[tuple[str | None, T]]:
        """For each distinct thing a name that leads to it; None is no name, which leads to the default."""
        seen = set()
        if self.default is not None and not strict:
            seen.add(id(self.default))
            yield None, self.default
        wild = ((f"rekeyd-probe.{parent}", each) for parent, each in self.wildcards.items())
        for name, each in (*self.exact.items(), *wild):
            if id(each) not in seen and self.find(name) is each:
                seen.add(id(each))
                yield name, each

    def _values(self) -> Iterator[T]:
        yield from self.exact.values()
        yield from self.wildcards.values()


def index(certificates: Iterable[Material]) -> Names[Choice]:
    """What each name leads to; `certificates` are in the order of the configuration, the default first."""
    claimed: dict[str, list[Material]] = {}
    materials = list(certificates)
    for material in materials:
        for name in _served_names(material.leaf):
            claimed.setdefault(name, []).append(material)
    same: dict[tuple[int, ...], Choice] = {}
    chosen = {name: _interned(_one_of_each_kind(claims), same) for name, claims in claimed.items()}
    return Names(
        {name: choice for name, choice in chosen.items() if not name.startswith(_ANY)},
        {name.removeprefix(_ANY): choice for name, choice in chosen.items() if name.startswith(_ANY)},
        _interned(_default(materials), same) if materials else None,
    )


def choose(certificates: Iterable[Material], server_name: str | None, *, strict: bool = False) -> Choice:
    """What is offered to a client that asks for `server_name`; nothing where names are strict and none fits.

    For one question; where there are many, ask an `index`.
    """
    return index(certificates).find(server_name, strict=strict) or ()


def covered(certificates: Iterable[Material]) -> Callable[[str], bool]:
    """Whether some certificate is good for a name or an address, or for all that a wildcard stands for."""
    names = {name.lower() for material in certificates for name in material.leaf.names}

    def is_covered(name: str) -> bool:
        name = name.lower()
        return name in names or f"{_ANY}{name.partition('.')[2]}" in names

    return is_covered


def _served_names(leaf: Certificate) -> list[str]:
    """The names that a client can ask for: DNS names; the common name where there is no other."""
    addresses = set(leaf.ip_addresses)
    names = (name.lower().removesuffix(".") for name in leaf.names if name not in addresses)
    return [name for name in names if len(name) <= _LONGEST_NAME and _NAME.fullmatch(name)]


def _one_of_each_kind(materials: Iterable[Material]) -> Choice:
    first: dict[str, Material] = {}
    for material in materials:
        first.setdefault(material.leaf.kind, material)
    return tuple(sorted(first.values(), key=_preference))


def _preference(material: Material) -> int:
    kind = material.leaf.kind
    return _PREFERENCE.index(kind) if kind in _PREFERENCE else len(_PREFERENCE)


def _default(materials: list[Material]) -> Choice:
    """The first, with those of other kinds that have the same names."""
    names = set(materials[0].leaf.names)
    return _one_of_each_kind(each for each in materials if set(each.leaf.names) == names)


def _interned(choice: Choice, known: dict[tuple[int, ...], Choice]) -> Choice:
    """The same certificates are one choice, so that there is one context for them."""
    return known.setdefault(tuple(map(id, choice)), choice)


def _is_address(name: str) -> bool:
    if not (name[-1:].isdigit() or ":" in name):
        return False
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
