"""What came of a reload, in one set of words for the log, the admin answer, the exit status and the terminal.

The rule: nobody words a reload's result but this module, so that they can't disagree. No secret is in an
outcome: of keys there are ids, of settings names. Must not know: how a reload is done, or who is told.
"""

import datetime as dt
import enum
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from rekeyd.errors import Problem
from rekeyd.trust.generation import Finding, Part, PartChange, Severity


class Result(enum.StrEnum):
    """The three ways in which a reload ends, and one in which it doesn't yet.

    `SETTLING`: what is on disk would be refused, but may be the middle of a change, and nobody asked.
    """

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"
    SETTLING = "settling"


_PARTS_OF_KEYS = {
    "tls.cert": Part.SERVER_CERTIFICATE,
    "tls.key": Part.SERVER_CERTIFICATE,
    "tls.key_passphrase_file": Part.SERVER_CERTIFICATE,
    "tls.certificates": Part.SERVER_CERTIFICATE,
    "tls.certificate_dir": Part.SERVER_CERTIFICATE,
    "tls.crl": Part.CLIENT_CRL,
    "tls.ca_cert": Part.CLIENT_CA,
    "upstream.ca_cert": Part.UPSTREAM_CA,
    "service.api_key": Part.KEYS,
    "service.alt_api_key": Part.KEYS,
    "service.read_only_api_key": Part.KEYS,
    "access.policy": Part.POLICY,
    "access.jwks_file": Part.TOKENS,
    "access.keys_file": Part.KEYS,
    "access.pepper_file": Part.KEYS,
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of one reload.

    `generation` is the number that is served afterwards (None if there is none), `duration` in seconds.
    `problems` are settings and files that can't be used at all (exit status 2 of `serve` and `check`); they
    are among the findings too. `held_until` is set where the files will be good at that moment.
    `restart_needed` names settings that differ from those that the process runs with.
    """

    result: Result
    trigger: str
    generation: int | None
    duration: float
    changes: tuple[PartChange, ...] = ()
    findings: tuple[Finding, ...] = ()
    problems: tuple[Problem, ...] = ()
    restart_needed: tuple[str, ...] = ()
    held_until: dt.datetime | None = None

    @property
    def event(self) -> str:
        """The name of its log line."""
        return f"reload.{self.result}"

    @property
    def refused(self) -> bool:
        return self.result is Result.REFUSED

    @property
    def settling(self) -> bool:
        return self.result is Result.SETTLING

    def fields(self) -> dict[str, object]:
        """All of it as JSON-able values; what there is nothing of is left out, save the first four."""
        optional: dict[str, object] = {
            "parts": {change.part.value: dict(change.detail) for change in self.changes},
            "findings": [_finding_fields(finding) for finding in self.findings],
            "restart_needed": list(self.restart_needed),
            "held_until": self.held_until.isoformat() if self.held_until else None,
        }
        return {
            "outcome": self.result.value,
            "trigger": self.trigger,
            "generation": self.generation,
            "duration": round(self.duration, 6),
            **{name: value for name, value in optional.items() if value},
        }

    def lines(self) -> list[str]:
        """The same for a human at a terminal."""
        return [
            f"{self._headline()} ({self.trigger}, {self.duration * 1000:.0f} ms)",
            *(f"  {line}" for change in self.changes for line in _change_lines(change)),
            *(f"  {finding.severity} ({finding.rule}): {finding}" for finding in self.findings),
            *(["  restart needed for " + ", ".join(self.restart_needed)] if self.restart_needed else []),
        ]

    def _headline(self) -> str:
        if self.result is Result.APPLIED:
            return f"applied: generation {self.generation} is served"
        goes_on = f"generation {self.generation} goes on" if self.generation else "nothing is served"
        if self.held_until:
            return f"refused until {self.held_until:%Y-%m-%d %H:%M:%S} UTC: {goes_on}"
        return f"{self.result}: {goes_on}"


def part_of(key: str) -> Part:
    """The part that a file named by a dotted key belongs to."""
    named = re.match(r"[a-z_.]*[a-z_]", key)  # what follows is a place in a list or folder
    return _PARTS_OF_KEYS.get(named[0] if named else "", Part.SETTINGS)


def findings_of(problems: tuple[Problem, ...]) -> tuple[Finding, ...]:
    """Problems with settings and files, in the form of findings."""
    return tuple(
        Finding(
            problem.rule,
            Severity.REFUSE,
            part_of(problem.key),
            f"{problem.file}: {problem.key}: {problem.message}"
            if problem.key
            else f"{problem.file}: {problem.message}",
            problem.fix,
        )
        for problem in problems
    )


def _finding_fields(finding: Finding) -> dict[str, object]:
    fields: dict[str, object] = {
        "rule": finding.rule,
        "severity": finding.severity.value,
        "part": finding.part.value,
        "message": finding.message,
    }
    if finding.fix:
        fields["fix"] = finding.fix
    return fields


def _change_lines(change: PartChange) -> list[str]:
    detail = change.detail
    if change.part is Part.SERVER_CERTIFICATE:
        return [f"{change.part.label}:", *_certificate_lines(detail)]
    said = "; ".join(f"{name} {_said(value)}" for name, value in detail.items() if value)
    return [f"{change.part.label}: {said}"]


def _certificate_lines(detail: Mapping[str, Any]) -> list[str]:
    lines = _pair_lines(detail) if "old" in detail else []
    for other in detail.get("more", ()):
        lines += [f"  {other['name']}:", *(f"  {line}" for line in _pair_lines(other))]
    return [*lines, "  the same ones, in another order"] if "reordered" in detail else lines


def _pair_lines(detail: Mapping[str, Any]) -> list[str]:
    lines = []
    for age in ("old", "new"):
        certificate = detail[age]
        if certificate:
            names = ", ".join(certificate["names"])
            lines.append(
                f"  {age}: serial {certificate['serial']}, {names}, until {certificate['not_after']}"
            )
            lines.append(f"       sha256 {certificate['sha256']}")
        else:
            lines.append(f"  {age}: none")
    if "intermediates" in detail:
        lines.append(f"  intermediates changed: {len(detail['intermediates'])} now")
    return lines


def _said(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(entry["subject"] if isinstance(entry, dict) else str(entry) for entry in value)
    return str(value)
