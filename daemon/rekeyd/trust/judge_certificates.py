"""What must hold of the certificates that rekeyd shows.

The rule: each function looks at a `Case` and complains of each certificate that breaks it. Must not know: how
grave a complaint is (`judge.py`).
"""

import datetime as dt
from collections.abc import Iterator
from itertools import chain, pairwise

from rekeyd.settings import speaks_tls
from rekeyd.trust.case import Case, Complaint, moment
from rekeyd.trust.generation import Part
from rekeyd.trust.names import covered, index

EXPIRY_NEAR = dt.timedelta(days=14)
CLOCKS_DIFFER = dt.timedelta(minutes=10)
"""A certificate that becomes valid within this was issued just now, by a clock that is ahead of ours."""
LEAST_RSA_BITS = 2048
BROKEN_HASHES = {"md5": "MD5", "sha1": "SHA-1"}
_OTHERS = 0o006  # the mode bits that let every user read or write


def expired(case: Case) -> Iterator[Complaint]:
    """Where the one whose place it takes is still good it is refused whatever the settings say."""
    for material, before in case.pairs():
        leaf = material.leaf
        if leaf.not_after < case.now:
            served = before is not None and before.leaf.der == leaf.der
            yield Complaint(
                f"{case.called(material)} expired at {moment(leaf.not_after)}",
                "Renew it, and see why the renewal did not reach this file",
                served=served,
                never=before is not None and not served and before.leaf.not_after >= case.now,
            )


def not_yet_valid(case: Case) -> Iterator[Complaint]:
    for material, before in case.pairs():
        leaf = material.leaf
        if leaf.not_before > case.now:
            yield Complaint(
                f"{case.called(material)} is not valid before {moment(leaf.not_before)}",
                "It goes live by itself then; if it should be valid now, look at this machine's clock",
                until=leaf.not_before,
                served=before is not None and before.leaf.der == leaf.der,
            )


def clock_skew(case: Case) -> Iterator[Complaint]:
    """No certificate can be served before it is valid, unless the clock was set back since."""
    for material, before in case.pairs():
        ahead = material.leaf.not_before - case.now
        if before is not None and before.leaf.not_before > case.now:
            yield Complaint(
                f"this machine's clock says {moment(case.now)}, but what is served is valid from "
                f"{moment(before.leaf.not_before)}: the clock went back",
                "Set the clock, and see that it is kept right (NTP)",
            )
            return
        if dt.timedelta(0) < ahead <= CLOCKS_DIFFER:
            yield Complaint(
                f"{case.called(material)} becomes valid in {ahead.total_seconds():.0f} seconds: its issuer's "
                "clock is ahead, or this machine's is behind",
                "Compare the clocks; an issuer should date a certificate back by some minutes",
            )
            return


def weak_key(case: Case) -> Iterator[Complaint]:
    for material in case.materials:
        bits = material.leaf.rsa_bits
        if bits is not None and bits < LEAST_RSA_BITS:
            yield Complaint(
                f"{case.called(material)} has an RSA key of {bits} bits, fewer than {LEAST_RSA_BITS}",
                "Issue a certificate with an ECDSA P-256 key, or RSA of 2048 bits or more",
            )


def weak_signature(case: Case) -> Iterator[Complaint]:
    for material in case.materials:
        if broken := BROKEN_HASHES.get(material.leaf.signature_hash or ""):
            yield Complaint(
                f"{case.called(material)} is signed with {broken}, which can be forged and clients reject",
                "Have it issued with SHA-256",
            )


def missing(case: Case) -> Iterator[Complaint]:
    wanted = speaks_tls(case.candidate.settings)
    if wanted and not case.materials and not case.unread(Part.SERVER_CERTIFICATE):
        yield Complaint("TLS is on, but there is no certificate", "Set tls.cert and tls.key")


def expiry_backwards(case: Case) -> Iterator[Complaint]:
    for material, before in case.pairs():
        if before is not None and material.leaf.not_after < before.leaf.not_after:
            yield Complaint(
                f"{case.called(material)} expires at {moment(material.leaf.not_after)}, before the one that "
                f"it replaces, at {moment(before.leaf.not_after)}",
                "Check that it is not an older one put back",
            )


def names_lost(case: Case) -> Iterator[Complaint]:
    """A name may move from one certificate to another."""
    if not case.materials or case.current is None:
        return
    is_covered = covered(case.materials)
    before = dict.fromkeys(name for material in case.current.certificates for name in material.leaf.names)
    if lost := [name for name in before if not is_covered(name)]:
        yield Complaint(
            f"no certificate covers {', '.join(lost)} any more",
            "Clients that use such a name will fail; issue a certificate with every name that is in use",
        )


def shadowed(case: Case) -> Iterator[Complaint]:
    """Each name leads to another one, or is none that a client can ask for."""
    names = index(case.materials)
    default = None if case.candidate.settings.tls.strict_sni else names.default
    offered = (*(default or ()), *chain.from_iterable((*names.exact.values(), *names.wildcards.values())))
    reachable = set(map(id, offered))
    for material in case.materials:
        if id(material) not in reachable:
            yield Complaint(
                f"{case.called(material)} is never served: another one before it has its names "
                f"({', '.join(material.leaf.names)}), or no client can ask for them",
                "Remove it, or the other one; clients ask for DNS names only",
            )


def chain_disordered(case: Case) -> Iterator[Complaint]:
    for material in case.materials:
        for place, (lower, upper) in enumerate(pairwise(material.chain), start=1):
            if not lower.is_issued_by(upper):
                yield Complaint(
                    f"{case.called(material)}: certificate {place} of its chain was issued by "
                    f"{lower.issuer}, but what follows it is {upper.subject}",
                    "Order the file leaf first, each certificate followed by its issuer's",
                )
                break


def chain_incomplete(case: Case) -> Iterator[Complaint]:
    """No chain says that it is whole; a leaf alone is suspicious where an intermediate is known to exist."""
    for material, before in case.pairs():
        leaf = material.leaf
        if len(material.chain) > 1:
            continue
        lost = before is not None and len(before.chain) > 1 and leaf.is_issued_by(before.chain[1])
        if lost or (leaf.publishes_issuer and leaf.issuer != leaf.subject):
            yield Complaint(
                f"{case.called(material)} is alone in its file, without that of its issuer {leaf.issuer}",
                "Append the intermediates (certbot: use fullchain.pem), or clients that lack them will fail",
            )


def intermediate_expired(case: Case) -> Iterator[Complaint]:
    for material, before in case.pairs():
        for certificate in material.chain[1:]:
            if certificate.not_after < case.now:
                yield Complaint(
                    f"{case.called(material)}: the intermediate {certificate.subject} expired at "
                    f"{moment(certificate.not_after)}",
                    "Take the one that is current from the issuer",
                    served=before is not None and certificate in before.chain,
                )


def expires_soon(case: Case) -> Iterator[Complaint]:
    """Within 14 days; of a short-lived certificate in the last third of its life, when renewal is overdue."""
    for material, before in case.pairs():
        leaf = material.leaf
        near = min(EXPIRY_NEAR, (leaf.not_after - leaf.not_before) / 3)
        if case.now <= leaf.not_after <= case.now + near:
            yield Complaint(
                f"{case.called(material)} expires at {moment(leaf.not_after)}",
                "Renew it",
                served=before is not None and before.leaf.der == leaf.der,
            )


def key_exposed(case: Case) -> Iterator[Complaint]:
    """In the order of the files, each once."""
    modes = {m.origin.key: m.origin.key_mode for m in case.materials if m.origin.key_mode is not None}
    for file, mode in modes.items():
        if mode & _OTHERS:
            yield Complaint(
                f"{file} holds a private key, and its mode {mode:04o} lets every user of this machine at it",
                f"Run `chmod o= {file}`",
            )
