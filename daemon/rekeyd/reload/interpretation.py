"""What the bytes of a snapshot mean: a candidate, and what is wrong with it.

The rules: nothing is read here, so that what is judged is what was read. A file that does not hold what it
should (a torn certificate, the key of another pair) is a fault of the candidate, for the judge to refuse; a
policy that makes no sense is a mistake in the settings. What was worked out from the very same bytes the last
time is taken from there, so that one certificate of a thousand can be renewed for the price of one. Must not
know: what is served.
"""

import hashlib
import importlib.resources
from collections.abc import Callable, Hashable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import TypeVar

from rekeyd.access.claims import Terms
from rekeyd.access.key_file import NO_KEY_FILE, KeyOrigin
from rekeyd.access.policy import Policy
from rekeyd.access.policy_file import parse_policy
from rekeyd.access.token_keys import Signer, read_key_set, signer_of_secret
from rekeyd.access.tokens import TokenRules
from rekeyd.errors import Problem, SettingsError
from rekeyd.formats.pem import MaterialError
from rekeyd.reload.files import File
from rekeyd.reload.keyring import Keys, identity_of, keys_of, static_keys_of
from rekeyd.reload.named import KEY_FILE, PEPPER, Pair
from rekeyd.reload.snapshot import Snapshot
from rekeyd.settings import Settings
from rekeyd.trust.certificates import Anchors, Material, Origin, read_anchors, read_material
from rekeyd.trust.generation import Candidate, Finding, Part, Severity
from rekeyd.trust.private_keys import passphrase_in
from rekeyd.trust.revocations import Revocations, read_revocations

T = TypeVar("T")


class Interpreter:
    """Remembers what came of certificates and keys. One thread at a time may use it."""

    def __init__(self) -> None:
        self._known: dict[Hashable, object] = {}
        self._used: dict[Hashable, object] = {}

    def candidate(self, snapshot: Snapshot) -> Candidate:
        """What the snapshot says. Raises `SettingsError`."""
        try:
            policy = _policy(snapshot)
        except SettingsError as error:
            raise SettingsError(self.problems(snapshot)) from error
        faults = [
            Finding("settings", Severity.WARN, Part.SETTINGS, _said(problem), problem.fix)
            for problem in snapshot.parsed.warnings
        ]
        keys, origin = self._keys(snapshot, faults)
        candidate = Candidate(
            settings=snapshot.parsed.settings,
            certificates=self._certificates(snapshot, faults),
            anchors=_anchors(snapshot, "tls.ca_cert", Part.CLIENT_CA, faults),
            revocations=self._revocations(snapshot, faults),
            upstream_anchors=_anchors(snapshot, "upstream.ca_cert", Part.UPSTREAM_CA, faults),
            ring=keys.ring,
            tokens=self._tokens(snapshot, keys, faults),
            key_file=keys.key_file,
            key_origin=origin,
            policy=policy,
            digest=snapshot.digest,
            faults=tuple(faults),
            restart_needed=snapshot.parsed.restart_needed,
        )
        self._known, self._used = self._used, {}
        return candidate

    def problems(self, snapshot: Snapshot) -> list[Problem]:
        """All that is wrong inside the files that could be read, once there is to be no candidate."""
        problems: list[Problem] = []
        if "access.policy" in snapshot.contents:
            try:
                _policy(snapshot)
            except SettingsError as error:
                problems.extend(error.problems)
        faults: list[Finding] = []
        self._certificates(snapshot, faults)
        _anchors(snapshot, "tls.ca_cert", Part.CLIENT_CA, faults)
        self._revocations(snapshot, faults)
        _anchors(snapshot, "upstream.ca_cert", Part.UPSTREAM_CA, faults)
        keys, _ = self._keys(snapshot, faults)
        self._tokens(snapshot, keys, faults)
        file = snapshot.parsed.file
        return [*problems, *(Problem(file, "", fault.message, fault.fix, fault.rule) for fault in faults)]

    def _certificates(self, snapshot: Snapshot, faults: list[Finding]) -> tuple[Material, ...]:
        found = [self._material(snapshot, pair, faults) for pair in snapshot.pairs]
        faults.extend(_halves(snapshot))
        return tuple(material for material in found if material is not None)

    def _material(self, snapshot: Snapshot, pair: Pair, faults: list[Finding]) -> Material | None:
        chain, key = snapshot.contents.get(pair.certificate), snapshot.contents.get(pair.key)
        secret = snapshot.contents.get(pair.passphrase) if pair.passphrase else None
        if chain is None or key is None or (pair.passphrase and secret is None):
            return None
        origin = Origin(str(snapshot.paths[pair.certificate]), str(snapshot.paths[pair.key]), key.mode)
        passphrase = passphrase_in(secret.data) if secret else None
        identity = (origin, *map(_hash, (chain.data, key.data, passphrase or b"")))
        try:
            return self._once(
                identity, lambda: read_material(chain.data, key.data, passphrase, origin=origin)
            )
        except MaterialError as error:
            path = snapshot.paths[pair.key if error.source == "key" else pair.certificate]
            faults.append(_fault(error, Part.SERVER_CERTIFICATE, path))
            return None

    def _revocations(self, snapshot: Snapshot, faults: list[Finding]) -> Revocations | None:
        file = snapshot.contents.get("tls.crl")
        if file is None:
            return None
        try:
            return self._once(("tls.crl", _hash(file.data)), lambda: read_revocations(file.data))
        except MaterialError as error:
            faults.append(_fault(error, Part.CLIENT_CRL, snapshot.paths["tls.crl"]))
            return None

    def _tokens(self, snapshot: Snapshot, keys: Keys, faults: list[Finding]) -> TokenRules:
        access = snapshot.parsed.settings.access
        terms = Terms(access.jwt_leeway, access.jwt_issuer, access.jwt_audience)
        issuers = self._issuer_keys(snapshot, faults)
        bound = (signer.bound_to(str(terms.issuer), str(terms.audience)) for signer in issuers)
        revoked = keys.key_file.revoked_tokens if keys.key_file is not None else frozenset()
        return TokenRules((*_static_signers(snapshot.parsed.settings), *bound), terms, revoked)

    def _issuer_keys(self, snapshot: Snapshot, faults: list[Finding]) -> tuple[Signer, ...]:
        file = snapshot.contents.get("access.jwks_file")
        if file is None:
            return ()
        path = snapshot.paths["access.jwks_file"]
        try:
            found = self._once(("access.jwks_file", _hash(file.data)), lambda: read_key_set(file.data))
        except MaterialError as error:
            faults.append(_fault(error, Part.TOKENS, path))
            return ()
        faults.extend(_passed_over(called, path) for called in found.passed_over)
        return found.signers

    def _keys(self, snapshot: Snapshot, faults: list[Finding]) -> tuple[Keys, KeyOrigin]:
        """Where the key file can't be used the keys of the settings are left, and a fault."""
        settings = snapshot.parsed.settings
        file, pepper = snapshot.contents.get(KEY_FILE), snapshot.contents.get(PEPPER)
        identity = identity_of(settings, file, pepper)
        try:
            keys = self._once(identity, lambda: keys_of(settings, file, pepper))
        except SettingsError as error:
            faults += [
                Finding(p.rule, Severity.REFUSE, Part.KEYS, f"{p.file}: {_said(p)}", p.fix)
                for p in error.problems
            ]
            keys = static_keys_of(settings)
        return keys, _origin_of(settings, keys, file, pepper)

    def _once(self, identity: Hashable, make: Callable[[], T]) -> T:
        made = self._used.get(identity) or self._known.get(identity) or make()
        self._used[identity] = made
        return made  # type: ignore[return-value]  # what was made for an identity is of its kind


def _hash(data: bytes) -> bytes:
    """What is remembered is known by its hash, so that no second copy of a key lies about."""
    return hashlib.sha256(data).digest()


def _said(problem: Problem) -> str:
    return f"{problem.key} {problem.message}" if problem.key else problem.message


def _halves(snapshot: Snapshot) -> list[Finding]:
    """What `tls.certificate_dir` holds that is no pair; and that it holds none."""
    contents = snapshot.folder
    if contents is None:
        return []
    part = Part.SERVER_CERTIFICATE
    if not contents.pairs and not contents.halves:
        message = f"{contents.folder}: there is no certificate in this folder"
        fix = "Put certificates with their keys there, or remove tls.certificate_dir"
        return [Finding("empty", Severity.REFUSE, part, message, fix)]
    return [
        Finding(
            "pair_incomplete",
            Severity.REFUSE,
            part,
            f"{contents.folder / half.name}: {half.message}",
            half.fix,
        )
        for half in contents.halves
    ]


def _anchors(snapshot: Snapshot, key: str, part: Part, faults: list[Finding]) -> Anchors | None:
    file = snapshot.contents.get(key)
    if file is None:
        return None
    try:
        return read_anchors(file.data)
    except MaterialError as error:
        faults.append(_fault(error, part, snapshot.paths[key]))
        return None


def _passed_over(called: str, path: Path) -> Finding:
    message = (
        f"{path}: {called} is passed over: it is not for verifying tokens, or of a kind that is not known"
    )
    return Finding("key_passed_over", Severity.WARN, Part.TOKENS, message)


def _fault(error: MaterialError, part: Part, path: Path) -> Finding:
    return Finding(error.reason, Severity.REFUSE, part, f"{path}: {error.message}", error.fix)


def _static_signers(settings: Settings) -> Iterator[Signer]:
    """Secrets are kept for as long as they must verify, and no longer."""
    service = settings.service
    if service.jwt_rbac:
        for key_id, secret in (("api_key", service.api_key), ("alt_api_key", service.alt_api_key)):
            if secret is not None:
                yield signer_of_secret(key_id, secret.get_secret_value())


def _origin_of(settings: Settings, keys: Keys, file: File | None, pepper: File | None) -> KeyOrigin:
    access = settings.access
    return KeyOrigin(
        file=str(access.keys_file) if file else "",
        mode=file.mode if file else NO_KEY_FILE.mode,
        pepper_file=str(access.pepper_file) if pepper else "",
        pepper_mode=pepper.mode if pepper else NO_KEY_FILE.pepper_mode,
        pepper=keys.ring.pepper_id,
    )


def _policy(snapshot: Snapshot) -> Policy:
    access = snapshot.parsed.settings.access
    if isinstance(access.policy, Path):
        policy = _parsed_policy(snapshot.contents["access.policy"].data, str(access.policy))
    else:
        policy = _shipped_policy(access.policy)
    return policy.opening(access.public) if access.public else policy


@lru_cache(maxsize=2)
def _parsed_policy(source: bytes, file: str) -> Policy:
    return parse_policy(source, file=file)


@lru_cache
def _shipped_policy(name: str) -> Policy:
    shipped = importlib.resources.files("rekeyd") / "policies" / f"{name}.yaml"
    return parse_policy(shipped.read_bytes(), file=name)
