"""The judge: what must hold before a candidate may be believed.

The rules of judging. Each thing that is looked at is one entry of `RULES`: a name that stays the same (it is
in logs), the part it speaks of, how grave it is, and a function that looks at the `Case` and complains or
does not. A new rule is one function and one line. Where `judge.NAME` is a setting it says how grave the rule
is (`allow`: not at all), with two exceptions. What is served already is not refused because time went by (an
expired certificate must not keep a key from being revoked): it warns. And an expired certificate never takes
the place of one that is still good.

Must not know: files, the clock (`now` is part of the case), or what becomes of the verdict.
"""

import datetime as dt
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rekeyd.trust import judge_certificates as certificates
from rekeyd.trust import judge_clients as clients
from rekeyd.trust import judge_keys as keys
from rekeyd.trust import judge_peers as peers
from rekeyd.trust.case import Case, Complaint
from rekeyd.trust.generation import Candidate, Finding, Generation, Part, Severity, Verdict


@dataclass(frozen=True, slots=True)
class Rule:
    """A name, what it is about, how grave it is if no setting says otherwise, and the function that looks."""

    name: str
    part: Part
    severity: Severity
    look: Callable[[Case], Iterator[Complaint]]


def judge(candidate: Candidate, current: Generation | None, now: dt.datetime) -> Verdict:
    """What is to be said of `candidate` at the moment `now`, while `current` (None at start) is served."""
    case = Case.of(candidate, current, now)
    findings = [
        Finding(rule.name, severity, rule.part, complaint.message, complaint.fix, complaint.until)
        for rule in RULES
        for complaint in rule.look(case)
        if (severity := _severity(rule, complaint, case)) is not None
    ]
    return Verdict((*candidate.faults, *findings))


def _severity(rule: Rule, complaint: Complaint, case: Case) -> Severity | None:
    """None where nobody wants to know."""
    if complaint.never:
        return Severity.REFUSE
    wanted = getattr(case.candidate.settings.judge, rule.name, rule.severity.value)
    if wanted == "allow":
        return None
    return Severity.WARN if complaint.served else Severity(wanted)


RULES: tuple[Rule, ...] = (
    Rule("expired", Part.SERVER_CERTIFICATE, Severity.REFUSE, certificates.expired),
    Rule("not_yet_valid", Part.SERVER_CERTIFICATE, Severity.HOLD, certificates.not_yet_valid),
    Rule("weak_key", Part.SERVER_CERTIFICATE, Severity.REFUSE, certificates.weak_key),
    Rule("weak_signature", Part.SERVER_CERTIFICATE, Severity.REFUSE, certificates.weak_signature),
    Rule("certificate_missing", Part.SERVER_CERTIFICATE, Severity.REFUSE, certificates.missing),
    Rule("client_ca_missing", Part.CLIENT_CA, Severity.REFUSE, clients.ca_missing),
    Rule("client_ca_without_ca", Part.CLIENT_CA, Severity.REFUSE, clients.ca_without_ca),
    Rule("crl_expired", Part.CLIENT_CRL, Severity.REFUSE, clients.crl_expired),
    Rule("crl_not_yet_valid", Part.CLIENT_CRL, Severity.HOLD, clients.crl_not_yet_valid),
    Rule("crl_of_another_issuer", Part.CLIENT_CRL, Severity.REFUSE, clients.crl_of_another_issuer),
    Rule("crl_badly_signed", Part.CLIENT_CRL, Severity.REFUSE, clients.crl_badly_signed),
    Rule("crl_unsupported", Part.CLIENT_CRL, Severity.REFUSE, clients.crl_unsupported),
    Rule("peer_unbelieved", Part.SERVER_CERTIFICATE, Severity.REFUSE, peers.unbelieved),
    Rule("peer_unfit", Part.SERVER_CERTIFICATE, Severity.REFUSE, peers.unfit),
    Rule("expiry_backwards", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.expiry_backwards),
    Rule("names_lost", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.names_lost),
    Rule("certificate_shadowed", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.shadowed),
    Rule("chain_disordered", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.chain_disordered),
    Rule("chain_incomplete", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.chain_incomplete),
    Rule("intermediate_expired", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.intermediate_expired),
    Rule("expires_soon", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.expires_soon),
    Rule("clock_skew", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.clock_skew),
    Rule("key_exposed", Part.SERVER_CERTIFICATE, Severity.WARN, certificates.key_exposed),
    Rule("client_ca_expired", Part.CLIENT_CA, Severity.WARN, clients.ca_expired),
    Rule("crl_incomplete", Part.CLIENT_CRL, Severity.WARN, clients.crl_incomplete),
    Rule("crl_backwards", Part.CLIENT_CRL, Severity.WARN, clients.crl_backwards),
    Rule("keys_emptied", Part.KEYS, Severity.REFUSE, keys.emptied),
    Rule("no_key", Part.KEYS, Severity.REFUSE, keys.nobody),
    Rule("pepper_missing", Part.KEYS, Severity.REFUSE, keys.pepper_missing),
    Rule("pepper_mismatch", Part.KEYS, Severity.REFUSE, keys.pepper_mismatch),
    Rule("key_expires_soon", Part.KEYS, Severity.WARN, keys.expires_soon),
    Rule("key_expired", Part.KEYS, Severity.WARN, keys.expired),
    Rule("key_file_writable", Part.KEYS, Severity.WARN, keys.file_writable),
    Rule("pepper_exposed", Part.KEYS, Severity.WARN, keys.pepper_exposed),
    Rule("secrets_shadowed", Part.KEYS, Severity.WARN, keys.secrets_shadowed),
)
