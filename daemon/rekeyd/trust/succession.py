"""Which certificate took the place of which: what two sets of certificates have to do with one another.

The rules. A certificate that is in both sets is its own successor. Of the others each is paired with one that
is gone: one for the same names and of the same kind of key before one for the same names, the names counted;
what was alone on both sides belongs together whatever its names. Nobody succeeds twice. Must not know: what
follows from it.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from rekeyd.trust.certificates import Material


@dataclass(frozen=True, slots=True)
class Succession:
    """`predecessors` has an entry for each new material, in order; `ended` are old ones without successor."""

    predecessors: tuple[Material | None, ...]
    ended: tuple[Material, ...]


def succession(old: Sequence[Material], new: Sequence[Material]) -> Succession:
    """How `new` follows `old`."""
    kept = {material.leaf.der: material for material in old}
    found: dict[int, Material] = {
        place: kept[material.leaf.der] for place, material in enumerate(new) if material.leaf.der in kept
    }
    staying = {material.leaf.der for material in new}
    gone = [material for material in old if material.leaf.der not in staying]
    coming = [place for place in range(len(new)) if place not in found]
    found |= _paired(gone, {place: new[place] for place in coming})
    taken = {id(material) for material in found.values()}
    left = [material for material in gone if id(material) not in taken]
    unpaired = [place for place in coming if place not in found]
    if len(gone) == len(coming) == len(left) == len(unpaired) == 1:
        found[unpaired[0]] = left.pop()
    return Succession(tuple(found.get(place) for place in range(len(new))), tuple(left))


def _paired(gone: list[Material], coming: dict[int, Material]) -> dict[int, Material]:
    """The best pairs first: same kind, then the number of names in common, then the order."""
    holders: dict[str, list[int]] = {}
    for number, material in enumerate(gone):
        for name in material.leaf.names:
            holders.setdefault(name.lower(), []).append(number)
    ranked = sorted(
        (gone[number].leaf.kind != material.leaf.kind, -shared, place, number)
        for place, material in coming.items()
        for number, shared in _shared_names(material, holders).items()
    )
    pairs: dict[int, Material] = {}
    taken = set()
    for _, _, place, number in ranked:
        if place not in pairs and number not in taken:
            pairs[place] = gone[number]
            taken.add(number)
    return pairs


def _shared_names(material: Material, holders: dict[str, list[int]]) -> dict[int, int]:
    shared: dict[int, int] = {}
    for name in material.leaf.names:
        for number in holders.get(name.lower(), ()):
            shared[number] = shared.get(number, 0) + 1
    return shared
