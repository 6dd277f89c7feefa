"""What `rekeyd status` says: built here from what is, and put into words here for a person.

The rules: `serving` is what readiness says. Everything is asked at the moment of the answer, nothing is kept.
Of keys there are ids, rights and when they were used, each key once, however many secrets it has; no secret
is in a status. Names in a certificate may hold anything, so a
person's terminal gets them escaped. Fields may join; those that are there keep their names.

Pure. Must not know: who asks, and how the state is found out.
"""

import datetime as dt
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

from rekeyd.access.rights import Right
from rekeyd.telemetry.console import safe
from rekeyd.telemetry.evidence import UNUSED, KeyUse
from rekeyd.telemetry.report import Report
from rekeyd.trust.certificates import Material
from rekeyd.trust.generation import Generation, described

SHOWN = 20
"""Certificates and keys that a person is shown; `--json` has all."""
_WIDTH = 14


@dataclass(frozen=True, slots=True)
class State:
    """How the daemon is at this moment.

    `report` is of what serves; `last_reload` is `Outcome.fields()`; `refused_since` is in seconds of the
    epoch, and None where what is on disk is not refused. `use_of` is what is known of a key by its id, since
    `evidence_since` (in seconds of the epoch), kept in `state_directory` (None: not kept).
    """

    version: str
    pid: int
    stopping: bool
    report: Report
    generation: Generation | None
    last_reload: Mapping[str, Any] | None = None
    refused_since: float | None = None
    warnings: Sequence[str] = ()
    use_of: Callable[[str], KeyUse] = lambda _: UNUSED
    evidence_since: float | None = None
    state_directory: str | None = None


def status_of(state: State, now: dt.datetime) -> dict[str, Any]:
    """All of it as JSON-able values, lists also as other sequences. May run in any thread."""
    generation, report = state.generation, state.report
    return {
        "version": state.version,
        "pid": state.pid,
        "state": "stopping" if state.stopping else "serving",
        "serving": all(report.checks.values()) and not state.stopping,
        "checks": dict(report.checks),
        "generation": generation.number if generation is not None else None,
        "certificates": list(_certificates(generation, now)),
        "keys": _Keys(generation, state.use_of, report.in_use),
        "token_keys": _token_keys(generation),
        "evidence": {"since": _iso(state.evidence_since), "directory": state.state_directory},
        "upstream": _upstream(state),
        "connections": sum(report.connections.values()),
        "connections_by_generation": {str(number): n for number, n in sorted(report.connections.items())},
        "workers": list(report.workers),
        "last_reload": None if state.last_reload is None else dict(state.last_reload),
        "cluster": report.cluster,
        "refused_since": _iso(state.refused_since),
        "warnings": list(state.warnings),
    }


def _certificates(generation: Generation | None, now: dt.datetime) -> Iterator[dict[str, Any]]:
    materials: Sequence[Material] = generation.certificates if generation is not None else ()
    for number, material in enumerate(materials):
        leaf = material.leaf
        left = (leaf.not_after - now).total_seconds()
        yield {**described(leaf), "default": number == 0, "expires_in": int(left)}


class _Keys(Sequence[dict[str, Any]]):
    """Each id once, with the highest right that one of its secrets has: the ring has those first.

    An entry is made when it is asked for: a hundred thousand at once would rouse the garbage collector, which
    holds up every thread while it looks at everything.
    """

    def __init__(
        self, generation: Generation | None, use_of: Callable[[str], KeyUse], in_use: Mapping[str, int]
    ) -> None:
        self._rights: dict[str, Right] = {}
        for credential in generation.ring if generation is not None else ():
            self._rights.setdefault(credential.id, credential.right)
        self._ids = list(self._rights)
        self._use_of = use_of
        self._in_use = in_use

    def __len__(self) -> int:
        return len(self._ids)

    @overload
    def __getitem__(self, at: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, at: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, at: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(at, slice):
            return [self._entry(key_id) for key_id in self._ids[at]]
        return self._entry(self._ids[at])

    def _entry(self, key_id: str) -> dict[str, Any]:
        entry = _key(key_id, str(self._rights[key_id]), self._use_of(key_id))
        return {**entry, "in_use": self._in_use.get(key_id, 0)}


def _key(key_id: str, right: str, use: KeyUse) -> dict[str, Any]:
    return {
        "id": key_id,
        "right": right,
        "first_used": _iso(use.first_used),
        "last_used": _iso(use.last_used),
        "allowed": use.allowed,
        "denied": dict(use.denied),
    }


def _token_keys(generation: Generation | None) -> list[dict[str, Any]]:
    """The keys that vouch for tokens."""
    if generation is None:
        return []
    return [{"id": each.id, "algorithms": list(each.algorithms)} for each in generation.tokens.signers]


def _upstream(state: State) -> dict[str, Any]:
    upstream = state.generation.settings.upstream if state.generation is not None else None
    address = upstream.http if upstream is not None else None
    told: dict[str, Any] = {
        "address": None if address is None else str(address),
        "reachable": state.report.checks.get("upstream"),
    }
    if state.report.grpc_health is not None:
        told["grpc"] = {
            "address": str(upstream.grpc) if upstream else None,
            "health": state.report.grpc_health,
        }
    return told


def _iso(seconds: float | None) -> str | None:
    return None if seconds is None else dt.datetime.fromtimestamp(seconds, dt.UTC).isoformat()


# For a person.


def status_lines(status: Mapping[str, Any]) -> Iterator[str]:
    """The same for a person at a terminal, from the JSON that the daemon answered."""
    for label, text in _said(status):
        yield safe(f"{label:<{_WIDTH}}{text}".rstrip())


def _said(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    head = f"rekeyd {status.get('version')}, pid {status.get('pid')}: {status.get('state')}"
    yield head.ljust(_WIDTH), "" if status.get("serving") else ", but not ready"
    yield "generation", str(status.get("generation"))
    yield from _certificates_said(status.get("certificates", ()))
    yield from _keys_said(status.get("keys", ()))
    yield from _token_keys_said(status.get("token_keys", ()))
    yield from _evidence_said(status.get("evidence") or {})
    yield "connections", _connections_said(status)
    upstream = status.get("upstream") or {}
    yield from _checks_said(status, upstream)
    yield from _cluster_said(status.get("cluster"))
    yield from _reload_said(status)
    for warning in status.get("warnings", ()):
        yield "warning", str(warning)


def _checks_said(status: Mapping[str, Any], upstream: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    grpc = upstream.get("grpc") or {}
    known = {
        "upstream": [upstream.get("address")],
        "grpc_upstream": [grpc.get("address"), str(grpc.get("health", "")).replace("_", " ")],
    }
    for name, good in status.get("checks", {}).items():
        about = ", ".join(each for each in known.get(name, ()) if each)
        yield name, ("ok" if good else "FAILS") + (f" ({about})" if about else "")


def _certificates_said(certificates: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Those first that expire first."""
    soonest = sorted(certificates, key=lambda each: each["expires_in"])
    for each in soonest[:SHOWN]:
        default = " (default)" if each["default"] and len(certificates) > 1 else ""
        yield "certificate", ", ".join(each["names"]) + default
        yield "", f"until {each['not_after']}, {_left(each['expires_in'])}; {each['key']}"
        yield "", f"serial {each['serial']}, sha256 {each['sha256']}"
    if len(soonest) > SHOWN:
        yield "", f"and {len(soonest) - SHOWN} more, which expire later"


def _keys_said(keys: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    for number, each in enumerate(keys[:SHOWN]):
        yield "" if number else "keys", f"{each['id']} ({each['right']}): {_use_said(each)}"
    if len(keys) > SHOWN:
        yield "", f"and {len(keys) - SHOWN} more"


def _use_said(key: Mapping[str, Any]) -> str:
    counts = key.get("denied") or {}
    denied = ", ".join(f"{count} {reason.replace('_', ' ')}" for reason, count in counts.items())
    last = key.get("last_used")
    used = f"last used {last}, {key.get('allowed')} allowed" if last else "not used"
    if key.get("in_use"):
        used += f", {key['in_use']} running"
    return f"{used}; denied: {denied}" if denied else used


def _evidence_said(evidence: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    if evidence.get("since"):
        kept = f"kept in {evidence['directory']}" if evidence.get("directory") else "not kept"
        yield "uses", f"known since {evidence['since']}, {kept}"


def _token_keys_said(keys: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    if keys:
        said = [f"{each['id']} ({each['algorithms'][0]})" for each in keys[:SHOWN]]
        more = [f"and {len(keys) - SHOWN} more"] if len(keys) > SHOWN else []
        yield "token keys", f"{len(keys)}: {', '.join([*said, *more])}"


def _connections_said(status: Mapping[str, Any]) -> str:
    by_generation = status.get("connections_by_generation", {})
    said = [f"{count} of generation {number}" for number, count in by_generation.items()]
    return f"{status.get('connections')}" + (f": {', '.join(said)}" if said else "")


def _cluster_said(cluster: Mapping[str, Any] | None) -> Iterator[tuple[str, str]]:
    if not cluster:
        return
    inbound = cluster["inbound"]
    ways = [
        (f"in to {inbound['upstream']}", inbound),
        *((f"to {each['peer']}", each) for each in cluster["peers"]),
    ]
    for number, (name, way) in enumerate(ways):
        failing = f", {way['failures']} attempts failed: {way['problem']}" if way["failures"] else ""
        yield "" if number else "peers", f"{name}: {way['tunnels']} open, {way['state']}{failing}"


def _reload_said(status: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    last = status.get("last_reload")
    if last:
        yield "last reload", f"{last['outcome']} ({last['trigger']})"
        for finding in last.get("findings", ()):
            yield "", f"{finding['severity']}: {finding['message']}"
    if status.get("refused_since"):
        yield "refused since", str(status["refused_since"])


def _left(seconds: float) -> str:
    if seconds < 0:
        return "EXPIRED"
    for unit, length in (("days", 86_400), ("hours", 3_600)):
        if seconds >= 2 * length:
            return f"{seconds // length:.0f} {unit} left"
    return f"{seconds // 60:.0f} minutes left"
