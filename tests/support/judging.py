"""How tests of the judge ask it."""

import datetime as dt
from typing import Any

from rekeyd.settings import Settings
from rekeyd.trust.generation import Generation, Severity, Verdict
from rekeyd.trust.judge import judge
from support.generations import candidate_of, settings_of
from support.pki import Leaf, now

NOW = now()
VERIFYING = settings_of(
    service={"verify_https_client_certificate": True}, tls={"ca_cert": "/etc/rekeyd/client-ca.pem"}
)


def judging(**rules: str) -> Settings:
    """Settings with these keys under `judge`."""
    return settings_of(judge=rules)


def rules_broken(verdict: Verdict) -> dict[str, Severity]:
    return {finding.rule: finding.severity for finding in verdict.findings}


def generation_of(*leaves: Leaf, **properties: Any) -> Generation:
    return candidate_of(*leaves, **properties).generation(1)


def verdict_on(
    *leaves: Leaf | None, current: Generation | None = None, at: dt.datetime = NOW, **properties: Any
) -> Verdict:
    """What is said of these certificates; `properties` are those of a candidate."""
    return judge(candidate_of(*leaves, **properties), current, at)


def judged(leaf: Leaf | None, current: Leaf | None = None, *, at: dt.datetime = NOW) -> dict[str, Severity]:
    """The rules that one certificate breaks in the place of another."""
    return rules_broken(verdict_on(leaf, current=generation_of(current) if current else None, at=at))
