"""Who a client is by its certificate, and whether such a one is let in.

The rules. A certificate gets here only after OpenSSL verified it under the client CA; here is judged *which*
of the verified ones may come in (`tls.allowed_clients`: one match is enough, an empty list is no bar). A DNS
name is compared without case, and `*` stands for exactly one label (RFC 9525, 6.3). A URI is compared byte
for byte (SPIFFE IDs have one spelling); `/*` at the end of a pattern stands for one or more path segments,
none empty or a dot segment. A pin is the SHA-256 of the SubjectPublicKeyInfo (RFC 7469, 2.4). Must not know:
connections.
"""

import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from rekeyd.formats.pem import MaterialError
from rekeyd.settings import ClientPattern
from rekeyd.trust.certificates import Anchors, Certificate
from rekeyd.trust.generation import Generation
from rekeyd.trust.revocations import Revocations
from rekeyd.trust.shrinkage import shrinkage

_NO_SEGMENTS = frozenset({"", ".", ".."})


@dataclass(frozen=True, slots=True)
class ClientIdentity:
    """The names in a client certificate. `spki` and `fingerprint` are SHA-256 in lower-case hex."""

    cn: str | None
    dns: tuple[str, ...]
    uris: tuple[str, ...]
    emails: tuple[str, ...]
    spki: str
    issuer: str
    serial: int
    fingerprint: str

    @classmethod
    def of_der(cls, der: bytes) -> "ClientIdentity":
        """Raises `MaterialError` for what OpenSSL took but can't be read here: such a client is nobody."""
        return cls.of(Certificate.from_der(der))

    @classmethod
    def of(cls, certificate: Certificate) -> "ClientIdentity":
        return cls(
            cn=certificate.common_name,
            dns=certificate.dns_names,
            uris=certificate.uris,
            emails=certificate.emails,
            spki=hashlib.sha256(certificate.public_key).hexdigest(),
            issuer=certificate.issuer,
            serial=certificate.serial,
            fingerprint=certificate.sha256,
        )

    def __str__(self) -> str:
        """One name for the log, visible ASCII whatever the certificate holds: URI, DNS name, e-mail or CN."""
        named = (
            *(f"uri:{uri}" for uri in self.uris),
            *(f"dns:{name}" for name in self.dns),
            *(f"email:{address}" for address in self.emails),
            *([f"cn:{self.cn}"] if self.cn else []),
            f"sha256:{self.fingerprint}",
        )
        return named[0].encode("unicode_escape").decode("ascii")


def is_allowed(identity: ClientIdentity, allowed: Collection[ClientPattern]) -> bool:
    """Whether the list lets this client in."""
    return not allowed or any(_matches(identity, pattern) for pattern in allowed)


def is_revoked(identity: ClientIdentity, revocations: Revocations | None) -> bool:
    """Whether a list names this client's certificate."""
    return revocations is not None and revocations.holds(identity.issuer, identity.serial)


def objection(generation: Generation, der: bytes | None, before: Generation | None = None) -> str | None:
    """Why a client with this certificate (None: with none) has no place in `generation`; None where it has.

    OpenSSL verified the certificate, under `before` where that is given, else under this very generation.
    What it rested on then must be believed now as well. Where its issuer is not among the authorities the
    client brought an intermediate, which is not known here: if any authority was lost since, it may be that.
    """
    demand = generation.settings.service.verify_https_client_certificate
    if demand is False:
        return None
    if der is None:
        return "it has no client certificate, and one is required" if demand is True else None
    try:
        certificate = Certificate.from_der(der)
    except MaterialError:
        return "its client certificate can't be read"
    return _objection_to(certificate, generation, before)


def _objection_to(certificate: Certificate, generation: Generation, before: Generation | None) -> str | None:
    identity = ClientIdentity.of(certificate)
    if is_revoked(identity, generation.revocations):
        return "its client certificate is revoked"
    if not is_allowed(identity, generation.settings.tls.allowed_clients):
        return "its client certificate is not among tls.allowed_clients"
    if before is not None and loses_its_authority(certificate, before, generation):
        return "the authority of its client certificate is not believed any more"
    return None


def loses_its_authority(certificate: Certificate, before: Generation, generation: Generation) -> bool:
    """Whether what vouched for it under `before` may be among what is not believed now (see `objection`)."""
    if is_vouched_for(certificate, generation.client_anchors):
        return False
    return bool(shrinkage(before, generation).authorities)


def is_vouched_for(
    certificate: Certificate, anchors: Anchors | None, between: Collection[Certificate] = ()
) -> bool:
    """Whether the issuer, the issuer's issuer and so on are known, up to a root that is believed.

    `between` are the intermediates that come along.
    """
    believed = anchors.certificates if anchors else ()
    authorities = (*believed, *between)
    seen: set[str] = set()
    ahead = [certificate]
    while ahead:
        lower = ahead.pop()
        for authority in authorities:
            if authority.sha256 in seen or not lower.is_issued_by(authority):
                continue
            if authority.subject == authority.issuer and authority in believed:
                return True
            seen.add(authority.sha256)
            ahead.append(authority)
    return False


def _matches(identity: ClientIdentity, pattern: ClientPattern) -> bool:
    match pattern.kind:
        case "cn":
            return identity.cn == pattern.value
        case "dns":
            return any(_is_name(name, pattern.value) for name in identity.dns)
        case "uri":
            return any(_is_uri(uri, pattern.value) for uri in identity.uris)
        case "email":
            return pattern.value in _with_lower_domains(identity.emails)
        case "spki":
            return identity.spki == pattern.value


def _is_name(name: str, pattern: str) -> bool:
    name = name.lower().removesuffix(".")
    if not pattern.startswith("*."):
        return name == pattern
    label, _, parent = name.partition(".")
    return bool(label) and label != "*" and parent == pattern.removeprefix("*.")


def _is_uri(uri: str, pattern: str) -> bool:
    if not pattern.endswith("/*"):
        return uri == pattern
    below = pattern.removesuffix("*")
    return uri.startswith(below) and _NO_SEGMENTS.isdisjoint(uri.removeprefix(below).split("/"))


def _with_lower_domains(addresses: Iterable[str]) -> set[str]:
    """The part before the at sign has case (RFC 5321, 2.4), the domain has none."""
    split = (address.rpartition("@") for address in addresses)
    return {f"{local}{at}{domain.lower()}" for local, at, domain in split}
