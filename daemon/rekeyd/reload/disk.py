"""The disk to a candidate: the settings file and all that it names, as one consistent snapshot of bytes.

The rule: all files are read, then read again; only when nothing differs are the bytes parsed, and nothing is
read a third time: what is judged is what is served. A change that is seen half way through is waited out for
a moment. Either there is a whole candidate or every problem at once.

Files that can't be read and settings that make no sense raise `SettingsError`. A file that can be read but
does not hold what it should (a torn certificate, the key of another pair) becomes a fault of the candidate,
for the judge to refuse. `rekeyd check`, the start and each reload run this very code. Must not know: what is
served.
"""

import hashlib
import importlib.resources
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml
from pydantic import SecretStr

from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.files import UnreadableError, read_file
from rekeyd.settings import Parsed, Settings, parse, under
from rekeyd.trust.certificates import Anchors, Material, read_anchors, read_material
from rekeyd.trust.generation import Candidate, Finding, Part, Severity
from rekeyd.trust.keys import Credential, KeyRing, Right
from rekeyd.trust.pem import MaterialError
from rekeyd.trust.policy import Policy, parse_policy

ATTEMPTS = 10
PAUSE = 0.02  # seconds


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Bytes that were on disk together. `contents` is by dotted key; `paths` says where each came from."""

    parsed: Parsed
    paths: Mapping[str, Path]
    contents: Mapping[str, bytes] = field(repr=False)
    digest: str


@dataclass(frozen=True, slots=True)
class _Reading:
    """One pass over the files, whatever came of it. Two equal ones make a snapshot."""

    parsed: Parsed | None = field(compare=False)
    source: bytes = field(repr=False)
    paths: Mapping[str, Path]
    contents: Mapping[str, bytes] = field(repr=False)
    problems: tuple[Problem, ...]


class Disk:
    """Where candidates come from: a settings file, the environment, and the files that they name.

    One thread at a time may call `load` or `snapshot`. `paths` may be read at any time.
    """

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self._file = file.absolute()
        self._environ = dict(environ)
        self._running: Settings | None = None
        self._last_parsed: tuple[bytes, Parsed] | None = None
        self.paths: tuple[Path, ...] = (self._file,)
        """What the last attempt looked at, even if it failed: the files to watch."""

    @property
    def parsed(self) -> Parsed | None:
        """The last settings that could be used, with what was said about them."""
        return self._last_parsed[1] if self._last_parsed else None

    def pin(self, running: Settings) -> None:
        """From now on what a reload can't change stays as it is in `running` (see `settings.under`)."""
        self._running = running
        self._last_parsed = None

    def load(self) -> Candidate:
        """What the files say now. Raises `SettingsError`. It blocks for milliseconds: call it in a thread."""
        return _interpreted(self.snapshot())

    def snapshot(self) -> Snapshot:
        """All bytes, seen the same twice in a row. Raises `SettingsError`."""
        before = self._read_all()
        for _ in range(ATTEMPTS):
            again = self._read_all()
            if again == before:
                return self._whole(again)
            before = again
            threading.Event().wait(PAUSE)
        raise SettingsError(
            [
                Problem(
                    str(self._file),
                    "",
                    "it or a file that it names keeps changing while it is read",
                    "Try again",
                )
            ]
        )

    def _read_all(self) -> _Reading:
        try:
            source = read_file(self._file)
        except UnreadableError as error:
            return _Reading(None, b"", {}, {}, (Problem(str(self._file), "", error.message, error.fix),))
        try:
            parsed = self._parsed(source)
        except SettingsError as error:
            return self._read_despite(error, source)
        paths = files_named_by(parsed.settings)
        self.paths = (self._file, *paths.values())
        contents, unreadable = _read_named(paths)
        problems = (parsed.problem(key, why.message, why.fix) for key, why in unreadable.items())
        return _Reading(parsed, source, paths, contents, tuple(problems))

    def _read_despite(self, error: SettingsError, source: bytes) -> _Reading:
        """The settings are of no use; what is wrong with the files that they seem to name is told as well."""
        paths = self._files_named_in(source)
        self.paths = tuple(dict.fromkeys((self._file, *paths.values(), *self.paths)))
        contents, unreadable = _read_named(paths)
        problems = (Problem(str(self._file), key, why.message, why.fix) for key, why in unreadable.items())
        return _Reading(None, source, paths, contents, (*error.problems, *problems))

    def _parsed(self, source: bytes) -> Parsed:
        """The same bytes are parsed once: a certificate that rotates leaves the settings as they were."""
        if self._last_parsed is None or self._last_parsed[0] != source:
            parsed = parse(source, file=self._file, environ=self._environ)
            self._last_parsed = (source, under(parsed, self._running) if self._running else parsed)
        return self._last_parsed[1]

    def _files_named_in(self, source: bytes) -> dict[str, Path]:
        """A guess: certificate and key, if TLS is on and the environment does not say otherwise."""
        try:
            tree = yaml.safe_load(source)
        except (yaml.YAMLError, ValueError, RecursionError):
            return {}
        if not _at(tree, "service.enable_tls"):
            return {}
        wanted = ("tls.cert", "tls.key")
        overridden = {
            f"{prefix}__{key.replace('.', '__')}".upper() for key in wanted for prefix in ("rekeyd", "qdrant")
        }
        if overridden & self._environ.keys():
            return {}
        named = {key: _at(tree, key) for key in wanted}
        return {
            key: self._file.parent / path for key, path in named.items() if path and isinstance(path, str)
        }

    def _whole(self, reading: _Reading) -> Snapshot:
        if reading.parsed is None:
            raise SettingsError(reading.problems)
        contents = {"": reading.source, **reading.contents}
        snapshot = Snapshot(reading.parsed, reading.paths, contents, _digest(contents))
        if reading.problems:
            raise SettingsError([*reading.problems, *_problems_within(snapshot)])
        return snapshot


def files_named_by(settings: Settings) -> dict[str, Path]:
    """The input files by dotted key. What is switched off isn't read: Qdrant's own file names absent ones."""
    tls, service = settings.tls, settings.service
    named = {
        "tls.cert": tls.cert if service.enable_tls else None,
        "tls.key": tls.key if service.enable_tls else None,
        "tls.ca_cert": tls.ca_cert
        if service.enable_tls and service.verify_https_client_certificate
        else None,
        "upstream.ca_cert": settings.upstream.ca_cert,
        "access.policy": settings.access.policy if isinstance(settings.access.policy, Path) else None,
    }
    return {key: path for key, path in named.items() if path is not None}


def _read_named(paths: Mapping[str, Path]) -> tuple[dict[str, bytes], dict[str, UnreadableError]]:
    contents, unreadable = {}, {}
    for key, path in paths.items():
        try:
            contents[key] = read_file(path)
        except UnreadableError as error:
            unreadable[key] = error
    return contents, unreadable


def _interpreted(snapshot: Snapshot) -> Candidate:
    try:
        policy = _policy(snapshot)
    except SettingsError as error:
        raise SettingsError(_problems_within(snapshot)) from error
    faults = [
        Finding("settings", Severity.WARN, Part.SETTINGS, _said(problem), problem.fix)
        for problem in snapshot.parsed.warnings
    ]
    return Candidate(
        settings=snapshot.parsed.settings,
        material=_material(snapshot, faults),
        anchors=_anchors(snapshot, "tls.ca_cert", Part.CLIENT_CA, faults),
        upstream_anchors=_anchors(snapshot, "upstream.ca_cert", Part.UPSTREAM_CA, faults),
        ring=_ring(snapshot.parsed.settings),
        policy=policy,
        digest=snapshot.digest,
        faults=tuple(faults),
        restart_needed=snapshot.parsed.restart_needed,
    )


def _problems_within(snapshot: Snapshot) -> list[Problem]:
    """All that is wrong inside the files that could be read, once there is to be no candidate."""
    problems: list[Problem] = []
    if "access.policy" in snapshot.paths.keys() & snapshot.contents.keys():
        try:
            _policy(snapshot)
        except SettingsError as error:
            problems.extend(error.problems)
    faults: list[Finding] = []
    _material(snapshot, faults)
    _anchors(snapshot, "tls.ca_cert", Part.CLIENT_CA, faults)
    _anchors(snapshot, "upstream.ca_cert", Part.UPSTREAM_CA, faults)
    file = snapshot.parsed.file
    return [*problems, *(Problem(file, "", fault.message, fault.fix) for fault in faults)]


def _said(problem: Problem) -> str:
    return f"{problem.key} {problem.message}" if problem.key else problem.message


def _material(snapshot: Snapshot, faults: list[Finding]) -> Material | None:
    chain, key = snapshot.contents.get("tls.cert"), snapshot.contents.get("tls.key")
    if chain is None or key is None:
        return None
    try:
        return read_material(chain, key)
    except MaterialError as error:
        path = snapshot.paths["tls.key" if error.source == "key" else "tls.cert"]
        faults.append(_fault(error, Part.SERVER_CERTIFICATE, path))
        return None


def _anchors(snapshot: Snapshot, key: str, part: Part, faults: list[Finding]) -> Anchors | None:
    pem = snapshot.contents.get(key)
    if pem is None:
        return None
    try:
        return read_anchors(pem)
    except MaterialError as error:
        faults.append(_fault(error, part, snapshot.paths[key]))
        return None


def _fault(error: MaterialError, part: Part, path: Path) -> Finding:
    return Finding(error.reason, Severity.REFUSE, part, f"{path}: {error.message}", error.fix)


def _ring(settings: Settings) -> KeyRing:
    service = settings.service
    static = (
        ("api_key", Right.MANAGE, service.api_key),
        ("alt_api_key", Right.MANAGE, service.alt_api_key),
        ("read_only_api_key", Right.READ, service.read_only_api_key),
    )
    return KeyRing(_credential(key_id, right, secret) for key_id, right, secret in static if secret)


def _credential(key_id: str, right: Right, secret: SecretStr) -> Credential:
    return Credential.of_secret(key_id, right, secret.get_secret_value())


def _policy(snapshot: Snapshot) -> Policy:
    access = snapshot.parsed.settings.access
    if isinstance(access.policy, Path):
        policy = _parsed_policy(snapshot.contents["access.policy"], str(access.policy))
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


def _digest(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for key in sorted(contents):
        digest.update(f"{key}:{len(contents[key])}:".encode())
        digest.update(contents[key])
    return digest.hexdigest()


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
