"""What `rekeyd check` and `rekeyd status` tell a person.

The rule: `check` runs the very code that `serve` runs (load, judge, build, probe), so that what it calls good
is served. No secret is in a report: of keys there are ids and rights. Must not know: how a report is printed.
"""

import datetime as dt
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar

import yaml

from rekeyd.access.key_words import by_id, last_expiry, may
from rekeyd.access.keys import Credential
from rekeyd.access.tokens import TokenRules
from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.contexts import ContextError, serving_of
from rekeyd.reload.diagnosis import diagnose
from rekeyd.reload.disk import Disk
from rekeyd.settings import Admin, Parsed, parse
from rekeyd.system.admin_client import socket_named_by
from rekeyd.system.state import check_state
from rekeyd.telemetry.audit import check_audit
from rekeyd.telemetry.console import safe
from rekeyd.telemetry.tables import table
from rekeyd.trust.certificates import Certificate
from rekeyd.trust.generation import Candidate, Finding, Severity
from rekeyd.trust.judge import judge

SHOWN = 20
"""Keys that are listed."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Report:
    """What was found. `unservable` is why the judged material can't be served all the same.

    `doubts` is what will keep a later reload from working.
    """

    candidate: Candidate
    findings: tuple[Finding, ...]
    doubts: tuple[Finding, ...]
    ignored: tuple[str, ...]
    unservable: ContextError | None
    now: dt.datetime

    @property
    def good(self) -> bool:
        return self.unservable is None and all(f.severity is Severity.WARN for f in self.findings)

    def lines(self) -> Iterator[str]:
        """Tables of certificates and keys, then what was found."""
        yield from _certificates(self.candidate, self.now)
        yield from _keys(self.candidate.ring)
        yield from _token_keys(self.candidate.tokens)
        for finding in (*self.findings, *self.doubts):
            yield f"{finding.severity} ({finding.rule}): {finding}"
        if self.unservable is not None:
            yield f"refuse (context): {self.unservable}"
        if self.ignored:
            yield f"ignored: {', '.join(self.ignored)}"


def check(disk: Disk, now: dt.datetime) -> Report:
    """Judge what the files say.

    Raises:
        SettingsError: there is nothing that could be judged, or a start could not write what it must.
    """
    candidate = disk.load()
    verdict = judge(candidate, None, now)
    _check_places(disk.parsed, verdict.findings)
    unservable = None
    if not verdict.refused:
        try:
            serving_of(candidate.generation(1))
        except ContextError as error:
            unservable = error
    ignored = disk.parsed.ignored if disk.parsed is not None else ()
    doubts = diagnose(candidate.settings, os.environ)
    return Report(candidate, verdict.findings, doubts, ignored, unservable, now)


def _check_places(parsed: Parsed | None, findings: Sequence[Finding]) -> None:
    """Where a start would write: raises SettingsError, with what else would be refused, if it could not."""
    if parsed is None:
        return
    problems = [*_problems(check_audit, parsed), *_problems(check_state, parsed.settings.state)]
    if problems:
        refused = (found for found in findings if found.severity is not Severity.WARN)
        problems += [Problem(parsed.file, "", each.message, each.fix, each.rule) for each in refused]
        raise SettingsError(problems)


def _problems(look: Callable[[_T], None], at: _T) -> tuple[Problem, ...]:
    try:
        look(at)
    except SettingsError as error:
        return error.problems
    return ()


def _certificates(candidate: Candidate, now: dt.datetime) -> Iterator[str]:
    rows: list[tuple[str, Certificate]] = []
    for material in candidate.certificates:
        leaf, *rest = material.chain
        rows += [("server", leaf), *(("  issuer", certificate) for certificate in rest)]
    for name, anchors in (("client CA", candidate.anchors), ("upstream CA", candidate.upstream_anchors)):
        rows += [(name, certificate) for certificate in anchors.certificates] if anchors is not None else []
    if rows:
        yield from table(
            ("CERTIFICATE", "NAMES", "KEY", "VALID UNTIL", "DAYS", "SERIAL", "SHA-256"),
            [
                (
                    use,
                    ", ".join(c.names) or c.subject,
                    c.key,
                    f"{c.not_after:%Y-%m-%d %H:%M} UTC",
                    str((c.not_after - now).days),
                    c.serial_hex,
                    c.sha256[:16],
                )
                for use, c in rows
            ],
        )


def _keys(ring: Iterable[Credential]) -> Iterator[str]:
    keys = by_id(ring)
    rows = [
        (
            key_id,
            safe(may(secrets[0])),
            f"{ends:%Y-%m-%d %H:%M} UTC" if (ends := last_expiry(secrets)) else "",
        )
        for key_id, secrets in islice(keys.items(), SHOWN)
    ]
    if rows:
        yield from table(("KEY", "RIGHT", "EXPIRES"), rows)
    if len(keys) > SHOWN:
        yield f"and {len(keys) - SHOWN} more keys: `rekeyd keys list` has them all"


def _token_keys(tokens: TokenRules) -> Iterator[str]:
    """Whose tokens get in."""
    rows = [(signer.id, ", ".join(signer.algorithms)) for signer in tokens.signers]
    if rows:
        yield from table(("TOKEN KEY", "ALGORITHMS"), rows)


def socket_named_in(file: Path, environ: Mapping[str, str]) -> Path | None:
    """Where the daemon that runs with `file` answers; a file that has problems is read as far as it can be.

    Raises:
        SettingsError: the file can't be read.
    """
    try:
        source = file.read_bytes()
    except OSError as error:
        raise SettingsError(
            [Problem(str(file), "", f"can't be read ({error.strerror})", "Give -c or --socket")]
        ) from None
    try:
        return socket_named_by(parse(source, file=file.absolute(), environ=environ).settings.admin, environ)
    except SettingsError:
        # The daemon still runs with what it read before, and its refusal is the answer that is wanted.
        named = environ.get("REKEYD__ADMIN__SOCKET") or _socket_written_in(source)
        return file.absolute().parent / named if named else socket_named_by(Admin(), environ)


def _socket_written_in(source: bytes) -> str | None:
    try:
        tree = yaml.safe_load(source)
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    admin = tree.get("admin") if isinstance(tree, dict) else None
    named = admin.get("socket") if isinstance(admin, dict) else None
    return named if isinstance(named, str) else None
