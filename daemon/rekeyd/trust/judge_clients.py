"""What must hold of the authorities and lists by which client certificates are verified.

The rule: whatever would make OpenSSL refuse every client is found here before it does. Must not know: how
grave a complaint is (`judge.py`).
"""

from collections.abc import Iterator

from rekeyd.trust.case import Case, Complaint, moment
from rekeyd.trust.certificates import Certificate
from rekeyd.trust.generation import Part
from rekeyd.trust.revocations import RevocationList, without_list


def ca_missing(case: Case) -> Iterator[Complaint]:
    service, p2p = case.candidate.settings.service, case.candidate.settings.cluster.p2p
    wanted = p2p.enable_tls or (service.enable_tls and service.verify_https_client_certificate)
    if wanted and not case.candidate.anchors and not case.unread(Part.CLIENT_CA):
        yield Complaint(
            "client certificates are to be verified, but there is no CA to verify them with",
            "Set tls.ca_cert to the CA that issues them",
        )


def ca_without_ca(case: Case) -> Iterator[Complaint]:
    anchors = case.candidate.anchors
    if anchors and not any(certificate.is_ca for certificate in anchors.certificates):
        yield Complaint(
            "no certificate in the client CA file is a CA's, so no client could be believed",
            "Put the issuing CA's certificate there, not that of a client or server",
        )


def ca_expired(case: Case) -> Iterator[Complaint]:
    served = case.current.client_anchors if case.current else None
    for certificate in _authorities(case):
        if certificate.not_after < case.now:
            yield Complaint(
                f"the client CA {certificate.subject} expired at {moment(certificate.not_after)}, so its "
                "clients are refused",
                "Put the CA's new certificate beside it, then remove this one",
                served=served is not None and certificate in served.certificates,
            )


def crl_expired(case: Case) -> Iterator[Complaint]:
    served = {each.der for each in _served_lists(case)}
    for each in _lists(case):
        if each.next_update is not None and each.next_update < case.now:
            yield Complaint(
                f"the CRL of {each.issuer} was to be replaced by {moment(each.next_update)}, so "
                "OpenSSL refuses every client of that CA",
                "Get the current one from the CA, and see why it did not reach this file",
                served=each.der in served,
            )


def crl_not_yet_valid(case: Case) -> Iterator[Complaint]:
    served = {each.der for each in _served_lists(case)}
    for each in _lists(case):
        if each.this_update > case.now:
            yield Complaint(
                f"the CRL of {each.issuer} is not valid before {moment(each.this_update)}",
                "It goes live by itself then; if it should be valid now, look at this machine's clock",
                until=each.this_update,
                served=each.der in served,
            )


def crl_of_another_issuer(case: Case) -> Iterator[Complaint]:
    known = {certificate.subject for certificate in _authorities(case)}
    for each in _lists(case):
        if known and each.issuer not in known:
            yield Complaint(
                f"the CRL of {each.issuer} is not of a CA in tls.ca_cert",
                "Add that CA to tls.ca_cert, or remove its list",
            )


def crl_badly_signed(case: Case) -> Iterator[Complaint]:
    for each in _lists(case):
        issuers = [certificate for certificate in _authorities(case) if certificate.subject == each.issuer]
        if issuers and not any(each.is_signed_by(issuer) for issuer in issuers):
            yield Complaint(
                f"the signature of the CRL of {each.issuer} is not that CA's",
                "Get it anew from the CA; if the CA changed its key, replace its certificate as well",
            )


def crl_unsupported(case: Case) -> Iterator[Complaint]:
    for each in _lists(case):
        if each.unsupported:
            yield Complaint(
                f"the CRL of {each.issuer} can't be used: {each.unsupported}",
                "Use a complete list of the CA",
            )


def crl_incomplete(case: Case) -> Iterator[Complaint]:
    anchors, revocations = case.candidate.anchors, case.candidate.revocations
    if anchors is None or revocations is None:
        return
    for certificate in without_list(revocations, anchors):
        yield Complaint(
            f"there is no CRL of {certificate.subject}: clients that it issued are refused, and "
            "authorities that it revoked are not noticed",
            "Add its list to tls.crl",
        )


def crl_backwards(case: Case) -> Iterator[Complaint]:
    """An older list knows less: what was revoked since would be let in again."""
    served = {each.issuer: each for each in _served_lists(case)}
    for each in _lists(case):
        before = served.get(each.issuer)
        if before is not None and each.this_update < before.this_update:
            yield Complaint(
                f"the CRL of {each.issuer} is of {moment(each.this_update)}, before the one that "
                f"it replaces, of {moment(before.this_update)}",
                "Check that it is not an older one put back",
            )


def _authorities(case: Case) -> tuple[Certificate, ...]:
    return case.candidate.anchors.certificates if case.candidate.anchors else ()


def _lists(case: Case) -> tuple[RevocationList, ...]:
    return case.candidate.revocations.lists if case.candidate.revocations else ()


def _served_lists(case: Case) -> tuple[RevocationList, ...]:
    served = case.current.revocations if case.current else None
    return served.lists if served else ()
