"""The judge: what must hold before a candidate may be believed.

The rule: each thing that is looked at is one entry of `RULES`: a name that stays the same (it is in logs),
the part it speaks of, how grave it is, and a function that looks at the `Case` and complains or does not. A
new rule is one function and one line.

Must not know: files, the clock (`now` is part of the case), or what becomes of the verdict.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rekeyd.trust.certificates import Certificate
from rekeyd.trust.generation import Candidate, Finding, Generation, Part, Severity, Verdict

EXPIRY_NEAR = dt.timedelta(days=14)
LEAST_RSA_BITS = 2048
BROKEN_HASHES = {"md5": "MD5", "sha1": "SHA-1"}


@dataclass(frozen=True, slots=True)
class Case:
    """What is judged: a candidate, beside what is served (None at start), at a moment."""

    candidate: Candidate
    current: Generation | None
    now: dt.datetime

    @property
    def leaf(self) -> Certificate | None:
        return self.candidate.material.leaf if self.candidate.material else None

    @property
    def chain(self) -> tuple[Certificate, ...]:
        return self.candidate.material.chain if self.candidate.material else ()

    @property
    def current_chain(self) -> tuple[Certificate, ...]:
        return self.current.server.chain if self.current and self.current.server else ()

    def unread(self, part: Part) -> bool:
        """Whether the part is missing because it could not be read, which is then a fault already."""
        return any(fault.part is part for fault in self.candidate.faults)


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong, the remedy, and when it ends by itself (if it does)."""

    message: str
    fix: str
    until: dt.datetime | None = None


@dataclass(frozen=True, slots=True)
class Rule:
    """A name, what it is about, how grave it is, and the function that looks."""

    name: str
    part: Part
    severity: Severity
    look: Callable[[Case], Iterator[Complaint]]


def judge(candidate: Candidate, current: Generation | None, now: dt.datetime) -> Verdict:
    """What is to be said of `candidate` at the moment `now`, while `current` (None at start) is served."""
    case = Case(candidate, current, now)
    findings = [
        Finding(rule.name, rule.severity, rule.part, complaint.message, complaint.fix, complaint.until)
        for rule in RULES
        for complaint in rule.look(case)
    ]
    return Verdict((*candidate.faults, *findings))


def _expired(case: Case) -> Iterator[Complaint]:
    if case.leaf and case.leaf.not_after < case.now:
        yield Complaint(
            f"the certificate with serial {case.leaf.serial_hex} expired at {_moment(case.leaf.not_after)}",
            "Renew it, and see why the renewal did not reach this file",
        )


def _not_yet_valid(case: Case) -> Iterator[Complaint]:
    if case.leaf and case.leaf.not_before > case.now:
        yield Complaint(
            f"the certificate with serial {case.leaf.serial_hex} is not valid before "
            f"{_moment(case.leaf.not_before)}",
            "It goes live by itself at that moment; if it should be valid now, look at this machine's clock",
            until=case.leaf.not_before,
        )


def _weak_key(case: Case) -> Iterator[Complaint]:
    if case.leaf and case.leaf.rsa_bits is not None and case.leaf.rsa_bits < LEAST_RSA_BITS:
        yield Complaint(
            f"the certificate's RSA key has {case.leaf.rsa_bits} bits, fewer than {LEAST_RSA_BITS}",
            "Issue a certificate with an ECDSA P-256 key, or RSA of 2048 bits or more",
        )


def _weak_signature(case: Case) -> Iterator[Complaint]:
    if case.leaf and (broken := BROKEN_HASHES.get(case.leaf.signature_hash or "")):
        yield Complaint(
            f"the certificate is signed with {broken}, which can be forged and which clients reject",
            "Have it issued with SHA-256",
        )


def _certificate_missing(case: Case) -> Iterator[Complaint]:
    if (
        case.candidate.settings.service.enable_tls
        and not case.leaf
        and not case.unread(Part.SERVER_CERTIFICATE)
    ):
        yield Complaint("TLS is on, but there is no certificate", "Set tls.cert and tls.key")


def _client_ca_missing(case: Case) -> Iterator[Complaint]:
    service = case.candidate.settings.service
    wanted = service.enable_tls and service.verify_https_client_certificate
    if wanted and not case.candidate.anchors and not case.unread(Part.CLIENT_CA):
        yield Complaint(
            "client certificates are to be verified, but there is no CA to verify them with",
            "Set tls.ca_cert to the CA that issues them",
        )


def _client_ca_without_ca(case: Case) -> Iterator[Complaint]:
    anchors = case.candidate.anchors
    if anchors and not any(certificate.is_ca for certificate in anchors.certificates):
        yield Complaint(
            "no certificate in the client CA file is a CA's, so no client could be believed",
            "Put the issuing CA's certificate there, not that of a client or server",
        )


def _expiry_backwards(case: Case) -> Iterator[Complaint]:
    old = case.current_chain[0] if case.current_chain else None
    if old and case.leaf and case.leaf.not_after < old.not_after:
        yield Complaint(
            f"the new certificate expires at {_moment(case.leaf.not_after)}, before the current one at "
            f"{_moment(old.not_after)}",
            "Check that it is not an older one put back",
        )


def _names_lost(case: Case) -> Iterator[Complaint]:
    leaf, before = case.leaf, case.current_chain[0].names if case.current_chain else ()
    if leaf and (lost := [name for name in before if not _covers(leaf, name)]):
        yield Complaint(
            f"the new certificate no longer covers {', '.join(lost)}",
            "Clients that use such a name will fail; issue it with every name that is in use",
        )


def _chain_disordered(case: Case) -> Iterator[Complaint]:
    for place, (lower, upper) in enumerate(zip(case.chain, case.chain[1:], strict=False), start=1):
        if not lower.is_issued_by(upper):
            yield Complaint(
                f"certificate {place} of the chain was issued by {lower.issuer}, "
                f"but what follows it is {upper.subject}",
                "Order the file leaf first, each certificate followed by its issuer's",
            )
            return


def _chain_incomplete(case: Case) -> Iterator[Complaint]:
    """No chain says that it is whole; a leaf alone is suspicious where an intermediate is known to exist."""
    leaf = case.leaf
    if leaf is None or len(case.chain) > 1:
        return
    lost = len(case.current_chain) > 1 and leaf.is_issued_by(case.current_chain[1])
    if lost or (leaf.publishes_issuer and leaf.issuer != leaf.subject):
        yield Complaint(
            f"the file holds the certificate alone, without that of its issuer {leaf.issuer}",
            "Append the intermediates (certbot: use fullchain.pem), or clients that lack them will fail",
        )


def _intermediate_expired(case: Case) -> Iterator[Complaint]:
    for certificate in case.chain[1:]:
        if certificate.not_after < case.now:
            yield Complaint(
                f"the intermediate {certificate.subject} expired at {_moment(certificate.not_after)}",
                "Take the one that is current from the issuer",
            )


def _expires_soon(case: Case) -> Iterator[Complaint]:
    """Within 14 days; of a short-lived certificate in the last third of its life, when renewal is overdue."""
    leaf = case.leaf
    if leaf is None:
        return
    near = min(EXPIRY_NEAR, (leaf.not_after - leaf.not_before) / 3)
    if case.now <= leaf.not_after <= case.now + near:
        yield Complaint(f"the certificate expires at {_moment(leaf.not_after)}", "Renew it")


def _secrets_shadowed(case: Case) -> Iterator[Complaint]:
    for shadowed, first in case.candidate.ring.shadowed:
        yield Complaint(
            f"the key {shadowed} has the same secret as {first}, so it is never the one that is found",
            "Give each key a secret of its own",
        )


def _covers(certificate: Certificate, name: str) -> bool:
    """Whether a client that asks for `name` accepts it; a wildcard stands for one label (RFC 9525, 6.3)."""
    known = {other.lower() for other in certificate.names}
    _, _, parent = name.lower().partition(".")
    return name.lower() in known or f"*.{parent}" in known


def _moment(when: dt.datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S UTC")


RULES: tuple[Rule, ...] = (
    Rule("expired", Part.SERVER_CERTIFICATE, Severity.REFUSE, _expired),
    Rule("not_yet_valid", Part.SERVER_CERTIFICATE, Severity.HOLD, _not_yet_valid),
    Rule("weak_key", Part.SERVER_CERTIFICATE, Severity.REFUSE, _weak_key),
    Rule("weak_signature", Part.SERVER_CERTIFICATE, Severity.REFUSE, _weak_signature),
    Rule("certificate_missing", Part.SERVER_CERTIFICATE, Severity.REFUSE, _certificate_missing),
    Rule("client_ca_missing", Part.CLIENT_CA, Severity.REFUSE, _client_ca_missing),
    Rule("client_ca_without_ca", Part.CLIENT_CA, Severity.REFUSE, _client_ca_without_ca),
    Rule("expiry_backwards", Part.SERVER_CERTIFICATE, Severity.WARN, _expiry_backwards),
    Rule("names_lost", Part.SERVER_CERTIFICATE, Severity.WARN, _names_lost),
    Rule("chain_disordered", Part.SERVER_CERTIFICATE, Severity.WARN, _chain_disordered),
    Rule("chain_incomplete", Part.SERVER_CERTIFICATE, Severity.WARN, _chain_incomplete),
    Rule("intermediate_expired", Part.SERVER_CERTIFICATE, Severity.WARN, _intermediate_expired),
    Rule("expires_soon", Part.SERVER_CERTIFICATE, Severity.WARN, _expires_soon),
    Rule("secrets_shadowed", Part.KEYS, Severity.WARN, _secrets_shadowed),
)
