"""What the judge looks at, and how a rule complains.

Owns: the words in which a certificate is called, the same in every complaint. Must not know: any rule.
"""

import datetime as dt
from collections.abc import Iterator
from dataclasses import dataclass

from rekeyd.trust.certificates import Material
from rekeyd.trust.generation import Candidate, Generation, Part
from rekeyd.trust.succession import succession


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong, the remedy, and when it ends by itself (if it does).

    `served`: the same is served already, and only time went by. `never`: no setting allows it.
    """

    message: str
    fix: str
    until: dt.datetime | None = None
    served: bool = False
    never: bool = False


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged: a candidate, beside what is served (None at start), at a moment.

    `predecessors` has for each certificate of the candidate the one whose place it takes.
    """

    candidate: Candidate
    current: Generation | None
    now: dt.datetime
    predecessors: tuple[Material | None, ...]

    @classmethod
    def of(cls, candidate: Candidate, current: Generation | None, now: dt.datetime) -> "Case":
        served = current.certificates if current else ()
        return cls(candidate, current, now, succession(served, candidate.certificates).predecessors)

    @property
    def materials(self) -> tuple[Material, ...]:
        return self.candidate.certificates

    def pairs(self) -> Iterator[tuple[Material, Material | None]]:
        """Each certificate of the candidate, and the one whose place it takes."""
        return zip(self.materials, self.predecessors, strict=True)

    def unread(self, part: Part) -> bool:
        """Whether the part is missing because it could not be read, which is then a fault already."""
        return any(fault.part is part for fault in self.candidate.faults)

    def called(self, material: Material) -> str:
        """The certificate as messages name it; where there are several, with its file."""
        serial = f"the certificate with serial {material.leaf.serial_hex}"
        several = len(self.materials) > 1 and material.origin.certificate
        return f"{material.origin.certificate}: {serial}" if several else serial


def moment(when: dt.datetime) -> str:
    """A time as messages have it."""
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")
