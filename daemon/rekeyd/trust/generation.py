"""The generation: everything believed at one moment, as one value, and how two of them differ.

The rule: a `Candidate` becomes a `Generation` whole or not at all. A finding *refuses* it, *holds* it until
a certificate becomes valid, or *warns*; one that refuses or holds is enough for the current generation to
go on.

Must not know: files, the clock, what is acceptable (`judge.py`), or how a generation is served.
"""

import datetime as dt
import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rekeyd.access.key_file import NO_KEY_FILE, KeyFile, KeyOrigin
from rekeyd.access.keys import KeyRing
from rekeyd.access.policy import Policy
from rekeyd.access.tokens import NO_TOKENS, TokenRules
from rekeyd.settings import Settings, describe, has_credential
from rekeyd.trust.certificates import Anchors, Certificate, Material
from rekeyd.trust.revocations import Revocations
from rekeyd.trust.succession import succession

KEYS_TOLD = 100
"""Ids of keys that a change names one by one."""


class Severity(enum.StrEnum):
    """What a finding does to a candidate."""

    REFUSE = "refuse"
    HOLD = "hold"
    WARN = "warn"


class Part(enum.StrEnum):
    """The parts of a generation, as outcomes name them."""

    SETTINGS = "settings"
    SERVER_CERTIFICATE = "server_certificate"
    CLIENT_CA = "client_ca"
    CLIENT_CRL = "client_crl"
    UPSTREAM_CA = "upstream_ca"
    KEYS = "keys"
    TOKENS = "tokens"
    POLICY = "policy"

    @property
    def label(self) -> str:
        """As people write it."""
        return self.value.replace("_", " ").replace(" ca", " CA").replace(" crl", " CRL")


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing found out about a candidate. `until` is set where time alone will mend it. Never a secret."""

    rule: str
    severity: Severity
    part: Part
    message: str
    fix: str = ""
    until: dt.datetime | None = None

    def __str__(self) -> str:
        return f"{self.message}. {self.fix}." if self.fix else f"{self.message}."


@dataclass(frozen=True, slots=True)
class Verdict:
    """All findings about one candidate."""

    findings: tuple[Finding, ...] = ()

    @property
    def refused(self) -> bool:
        """Whether the candidate may not be served now."""
        return any(finding.severity is not Severity.WARN for finding in self.findings)

    @property
    def held_until(self) -> dt.datetime | None:
        """When the candidate may be served, if waiting is all that it needs."""
        if any(finding.severity is Severity.REFUSE for finding in self.findings):
            return None
        return max((f.until for f in self.findings if f.severity is Severity.HOLD and f.until), default=None)


@dataclass(frozen=True, slots=True)
class Generation:
    """Everything that is believed at one moment. Numbers start at 1 and grow with each change.

    `certificates` are in the order of the configuration; the first is the default, none means plaintext.
    """

    number: int
    settings: Settings = field(repr=False)
    certificates: tuple[Material, ...]
    client_anchors: Anchors | None
    ring: KeyRing = field(repr=False)
    policy: Policy = field(repr=False)
    digest: str
    upstream_anchors: Anchors | None = None
    revocations: Revocations | None = None
    tokens: TokenRules = field(default=NO_TOKENS, repr=False)
    open_to_all: bool = field(init=False)
    """Whether no credential is configured, and `service.insecure` says that this is meant."""

    def __post_init__(self) -> None:
        open_to_all = self.settings.service.insecure and not has_credential(self.settings)
        object.__setattr__(self, "open_to_all", open_to_all)

    @property
    def passes_credentials(self) -> bool:
        """Whether those of clients go on: where rekeyd judges no keys they may be the upstream's own."""
        return self.open_to_all and self.settings.upstream.api_key is None

    @property
    def default(self) -> Material | None:
        """What a client gets that asks for no name."""
        return self.certificates[0] if self.certificates else None


@dataclass(frozen=True, slots=True)
class Candidate:
    """What the files say now.

    `faults` is what was found while they were read; a part that could not be read is None, a certificate that
    could not be read is missing.
    `digest` is a hash over all input bytes: the same digest means that nothing on disk differs.
    `restart_needed` are the settings whose new values wait for a restart and are not in `settings`.
    """

    settings: Settings = field(repr=False)
    certificates: tuple[Material, ...]
    anchors: Anchors | None
    ring: KeyRing = field(repr=False)
    policy: Policy = field(repr=False)
    digest: str
    upstream_anchors: Anchors | None = None
    revocations: Revocations | None = None
    tokens: TokenRules = field(default=NO_TOKENS, repr=False)
    faults: tuple[Finding, ...] = ()
    restart_needed: tuple[str, ...] = ()
    key_file: KeyFile | None = None
    key_origin: KeyOrigin = NO_KEY_FILE

    def generation(self, number: int) -> Generation:
        """This, believed, under that number."""
        return Generation(
            number=number,
            settings=self.settings,
            certificates=self.certificates,
            client_anchors=self.anchors,
            upstream_anchors=self.upstream_anchors,
            revocations=self.revocations,
            ring=self.ring,
            tokens=self.tokens,
            policy=self.policy,
            digest=self.digest,
        )


@dataclass(frozen=True, slots=True)
class PartChange:
    """One part that differs. `detail` is JSON-able; of keys it holds ids, of settings dotted names."""

    part: Part
    detail: Mapping[str, Any]


def changes(old: Generation | None, new: Generation) -> tuple[PartChange, ...]:
    """What differs, part by part; nothing where only the number does. `old` is None at start."""
    details = {
        Part.SERVER_CERTIFICATE: _certificates_change(old.certificates if old else (), new.certificates),
        Part.CLIENT_CA: _anchors_change(old.client_anchors if old else None, new.client_anchors),
        Part.CLIENT_CRL: _revocations_change(old.revocations if old else None, new.revocations),
        Part.UPSTREAM_CA: _anchors_change(old.upstream_anchors if old else None, new.upstream_anchors),
        Part.KEYS: _keys_change(old.ring if old else KeyRing(()), new.ring),
        Part.TOKENS: _tokens_change(old.tokens if old else NO_TOKENS, new.tokens),
        Part.POLICY: _policy_change(old.policy if old else None, new.policy),
        Part.SETTINGS: _settings_change(old.settings if old else None, new.settings),
    }
    return tuple(PartChange(part, detail) for part, detail in details.items() if detail)


def _certificates_change(old: tuple[Material, ...], new: tuple[Material, ...]) -> dict[str, Any]:
    """`old` and `new` of the default; under `more` the same, with a name, of each other one that differs."""
    followed = succession(old, new)
    pairs = list(zip(followed.predecessors, new, strict=True))
    replaced = bool(pairs) and pairs[0][0] is None
    ended = [gone for gone in followed.ended if not (replaced and gone is old[0])]
    others = [_change(before, after) for before, after in pairs[1:]]
    others += [_change(gone, None) for gone in ended if new or gone is not old[0]]
    change = _change(old[0] if old else None, new[0] if new else None)
    found = {**change, **_filled(more=[{"name": _name_of(other), **other} for other in others if other])}
    if not found and [m.leaf.der for m in old] != [m.leaf.der for m in new]:
        return {"reordered": True}  # which of two for the same name is served may follow from it
    return found


def _name_of(change: Mapping[str, Any]) -> str:
    certificate = change["new"] or change["old"]
    return str(next(iter(certificate["names"]), certificate["serial"]))


def _change(old: Material | None, new: Material | None) -> dict[str, Any]:
    before, after = _ders(old.chain if old else ()), _ders(new.chain if new else ())
    if before == after:
        return {}
    change: dict[str, Any] = {
        "old": described(old.leaf) if old else None,
        "new": described(new.leaf) if new else None,
    }
    if before[:1] == after[:1]:
        change["intermediates"] = [c.sha256 for c in new.chain[1:]] if new else []
    return change


def described(certificate: Certificate) -> dict[str, Any]:
    return {
        "serial": certificate.serial_hex,
        "sha256": certificate.sha256,
        "names": list(certificate.names),
        "not_after": certificate.not_after.isoformat(),
        "key": certificate.key,
    }


def _anchors_change(old: Anchors | None, new: Anchors | None) -> dict[str, Any]:
    before = {c.der: c for c in old.certificates} if old else {}
    after = {c.der: c for c in new.certificates} if new else {}
    return _filled(
        added=[_named(c) for der, c in after.items() if der not in before],
        removed=[_named(c) for der, c in before.items() if der not in after],
    )


def _revocations_change(old: Revocations | None, new: Revocations | None) -> dict[str, Any]:
    """Lists by issuer, and how many certificates are revoked now that were not, or are not any more."""
    before = {each.der: each.issuer for each in old.lists} if old else {}
    after = {each.der: each.issuer for each in new.lists} if new else {}
    if before.keys() == after.keys():
        return {}
    was, now = frozenset(old.entries() if old else ()), frozenset(new.entries() if new else ())
    lists = _filled(
        added=[issuer for der, issuer in after.items() if der not in before],
        removed=[issuer for der, issuer in before.items() if der not in after],
    )
    return {**lists, "revoked": len(now - was), "reinstated": len(was - now)}


def _named(certificate: Certificate) -> dict[str, str]:
    return {"subject": certificate.subject, "sha256": certificate.sha256}


def _keys_change(old: KeyRing, new: KeyRing) -> dict[str, Any]:
    """Ids of keys; where there are many, the first of them and how many there are. The id of a new pepper."""
    if old is new:
        return {}
    touched = {key.id for key in new if old.with_digest(key.digest) != key}
    touched |= {key.id for key in old if new.with_digest(key.digest) is None}
    pepper = {} if old.pepper_id == new.pepper_id else {"pepper": new.pepper_id or "none"}
    return {
        **_counted(
            added=[key for key in new.ids if key not in old.ids],
            removed=[key for key in old.ids if key not in new.ids],
            changed=[key for key in new.ids if key in touched and key in old.ids],
        ),
        **pepper,
    }


def _tokens_change(old: TokenRules, new: TokenRules) -> dict[str, Any]:
    """Ids of the keys that vouch for tokens, and ids of tokens."""
    if old == new:
        return {}
    before, after = ({signer.id: signer for signer in rules.signers} for rules in (old, new))
    return _counted(
        added=[name for name in after if name not in before],
        removed=[name for name in before if name not in after],
        changed=[name for name in after if name in before and after[name] != before[name]],
        revoked=sorted(new.revoked - old.revoked),
        reinstated=sorted(old.revoked - new.revoked),
    )


def _counted(**lists: list[str]) -> dict[str, Any]:
    """Where there are many, the first of them and how many there are."""
    told = _filled(**lists)
    counts = {f"{name}_count": len(ids) for name, ids in told.items() if len(ids) > KEYS_TOLD}
    return {**{name: ids[:KEYS_TOLD] for name, ids in told.items()}, **counts}


def _policy_change(old: Policy | None, new: Policy) -> dict[str, Any]:
    return {} if old == new else {"old": old.name if old else None, "new": new.name}


def _settings_change(old: Settings | None, new: Settings) -> dict[str, Any]:
    if old is None:
        return {}  # at start every key is new, which says nothing
    keys = (described.key for described in describe())
    return _filled(changed=[key for key in keys if old.value(key) != new.value(key)])


def _filled(**lists: list[Any]) -> dict[str, Any]:
    return {name: entries for name, entries in lists.items() if entries}


def _ders(certificates: tuple[Certificate, ...]) -> list[bytes]:
    return [certificate.der for certificate in certificates]
