"""What must hold of the own certificate, so that peers take it.

The rule: peers have the same `tls.ca_cert`. Whoever could not come in here with the own certificate can't get
in anywhere; that is found before a half changed authority tears the cluster apart. Must not know: how grave a
complaint is (`judge.py`).
"""

from collections.abc import Iterator

from rekeyd.trust.case import Case, Complaint
from rekeyd.trust.certificates import Material
from rekeyd.trust.clients import is_vouched_for

_PURPOSES = {"1.3.6.1.5.5.7.3.1": "serverAuth", "1.3.6.1.5.5.7.3.2": "clientAuth"}
_ANY = "2.5.29.37.0"


def unbelieved(case: Case) -> Iterator[Complaint]:
    material, anchors = _shown_to_peers(case), case.candidate.anchors
    if material is None or anchors is None:
        return
    if not is_vouched_for(material.leaf, anchors, between=material.chain[1:]):
        yield Complaint(
            f"{case.called(material)} is not vouched for by tls.ca_cert, so peers that have the same file "
            "refuse it",
            "When the authority changes: first have the old and the new one in tls.ca_cert everywhere, then "
            "replace tls.cert everywhere, then remove the old one",
        )


def unfit(case: Case) -> Iterator[Complaint]:
    """It is a server's to those who connect, and a client's to those who are connected to."""
    material = _shown_to_peers(case)
    purposes = material.leaf.purposes if material is not None else None
    if material is None or purposes is None or _ANY in purposes:
        return
    if lacking := [name for oid, name in _PURPOSES.items() if oid not in purposes]:
        yield Complaint(
            f"{case.called(material)} is not for {' and '.join(lacking)} (extended key usage), so peers "
            "refuse it",
            "Issue it for serverAuth and clientAuth: between peers each node is both",
        )


def _shown_to_peers(case: Case) -> Material | None:
    if not case.candidate.settings.cluster.p2p.enable_tls or not case.materials:
        return None
    return case.materials[0]
