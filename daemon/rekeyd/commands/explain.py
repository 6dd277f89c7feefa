"""`rekeyd check --explain`: which rule decides about a request, and who may make it.

The rule: the answer is found by the very functions that decide (`access`, `policy`), so that it is what
happens. No secret is needed to ask, and none is told: of keys there are ids.

Must not know: where settings come from, or how a line is printed.
"""

from collections.abc import Iterator
from dataclasses import replace

from rekeyd.access.admission import Ask, admit
from rekeyd.access.keys import Credential
from rekeyd.access.paths import is_normal
from rekeyd.access.policy import Policy, Rule
from rekeyd.access.rights import Right
from rekeyd.access.verdict import Allowed
from rekeyd.trust.generation import Candidate

SHOWN = 50
"""Keys that are named."""
_WIDTH = 10


def explain(asked: str, candidate: Candidate, now: float) -> Iterator[str]:
    """Lines about `asked`, such as `GET /collections`, at `now` in seconds of the epoch.

    Raises:
        ValueError: it is not a method and a path.
    """
    method, _, target = asked.strip().partition(" ")
    path = target.strip().partition("?")[0].encode("utf-8", "surrogateescape")
    if not (method.isalpha() and method.isupper() and path.startswith(b"/")):
        raise ValueError("write a method and a path, such as 'GET /collections'")
    ask = Ask(method.encode(), path)
    yield f"{method} {path.decode('ascii', 'backslashreplace')}"
    for label, text in _said(ask, candidate, now):
        yield f"  {label:<{_WIDTH}}{text}"


def _said(ask: Ask, candidate: Candidate, now: float) -> Iterator[tuple[str, str]]:
    policy = candidate.policy
    yield "policy", policy.name
    if policy.is_open(ask.method, ask.path):
        yield "open", "to everybody, whatever credential comes along"
        return
    rule = policy.rule_for(ask.method, ask.path) if is_normal(ask.path) else None
    yield "rule", _rule_said(ask, rule)
    yield "needs", _need_said(ask, rule, policy)
    yield from _keys_said(ask, candidate, now)


def _rule_said(ask: Ask, rule: Rule | None) -> str:
    if rule is not None:
        return str(rule)
    if not is_normal(ask.path):
        return "none, because the path is not in normal form: two servers could read it differently"
    return "none, or more than one by a lenient reading: so the highest right"


def _need_said(ask: Ask, rule: Rule | None, policy: Policy) -> str:
    if rule is None:
        return f"{Right.MANAGE}, without limits"
    parts = [str(rule.right)]
    collection = rule.collection_in(ask.path)
    if collection is not None:
        parts.append(f"on the collection {collection.decode('ascii', 'backslashreplace')}")
    if rule.points:
        parts.append("(`points` is enough)")
    if rule.shared:
        parts.append("(of any collection)")
    if rule.lookup:
        parts.append(f"and read on each collection that the body names in {' or '.join(policy.lookups)}")
    return " ".join(parts)


def _keys_said(ask: Ask, candidate: Candidate, now: float) -> Iterator[tuple[str, str]]:
    """Networks are left out of account: nobody asks from anywhere yet."""
    may: dict[str, None] = {}
    why: dict[str, str] = {}
    for credential in candidate.ring:
        verdict = admit(ask, _from_anywhere(credential), candidate.policy, now)
        if isinstance(verdict, Allowed):
            may[credential.id] = None
        else:
            why[credential.id] = verdict.reason
    yield "may", _listed(list(may)) or "no key"
    refused = [f"{key} ({reason})" for key, reason in why.items() if key not in may]
    if refused:
        yield "may not", _listed(refused)


def _from_anywhere(credential: Credential) -> Credential:
    return replace(credential, limits=replace(credential.limits, networks=()))


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more
