"""What `rekeyd status` says: built here from what is, and put into words here for a person.

The rules: `serving` is what readiness says. Everything is asked at the moment of the answer, nothing is kept.
Of keys there are ids and rights; no secret is in a status. Names in a certificate may hold anything, so a
person's terminal gets them escaped. Fields may join; those that are there keep their names.

Pure. Must not know: who asks, and how the state is found out.
"""

import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rekeyd.telemetry.console import safe
from rekeyd.trust.certificates import Material
from rekeyd.trust.generation import Generation, described

SHOWN = 20
"""Certificates and keys that a person is shown; `--json` has all."""
_WIDTH = 14


@dataclass(frozen=True, slots=True)
class State:
    """How the daemon is at this moment.

    `checks` are those of readiness; `connections` are open ones by the number of the generation under which
    they were accepted; `last_reload` is `Outcome.fields()`; `refused_since` is in seconds of the epoch, and
    None where what is on disk is not refused; `grpc_health` is what
    the gRPC upstream says of itself, None where gRPC is not served.
    """

    version: str
    pid: int
    stopping: bool
    checks: Mapping[str, bool]
    generation: Generation | None
    connections: Mapping[int, int] = field(default_factory=dict)
    last_reload: Mapping[str, Any] | None = None
    refused_since: float | None = None
    warnings: Sequence[str] = ()
    grpc_health: str | None = None


def status_of(state: State, now: dt.datetime) -> dict[str, Any]:
    """All of it as JSON-able values."""
    generation = state.generation
    return {
        "version": state.version,
        "pid": state.pid,
        "state": "stopping" if state.stopping else "serving",
        "serving": all(state.checks.values()) and not state.stopping,
        "checks": dict(state.checks),
        "generation": generation.number if generation is not None else None,
        "certificates": list(_certificates(generation, now)),
        "keys": _keys(generation),
        "token_keys": _token_keys(generation),
        "upstream": _upstream(state),
        "connections": sum(state.connections.values()),
        "connections_by_generation": {str(number): n for number, n in sorted(state.connections.items())},
        "last_reload": None if state.last_reload is None else dict(state.last_reload),
        "refused_since": _iso(state.refused_since),
        "warnings": list(state.warnings),
    }


def _certificates(generation: Generation | None, now: dt.datetime) -> Iterator[dict[str, Any]]:
    materials: Sequence[Material] = generation.certificates if generation is not None else ()
    for number, material in enumerate(materials):
        leaf = material.leaf
        left = (leaf.not_after - now).total_seconds()
        yield {**described(leaf), "default": number == 0, "expires_in": int(left)}


def _keys(generation: Generation | None) -> list[dict[str, str]]:
    if generation is None:
        return []
    return [{"id": credential.id, "right": str(credential.right)} for credential in generation.ring]


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
        "reachable": state.checks.get("upstream"),
    }
    if state.grpc_health is not None:
        told["grpc"] = {"address": str(upstream.grpc) if upstream else None, "health": state.grpc_health}
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
    yield "connections", _connections_said(status)
    upstream = status.get("upstream") or {}
    grpc = upstream.get("grpc") or {}
    known = {
        "upstream": [upstream.get("address")],
        "grpc_upstream": [grpc.get("address"), str(grpc.get("health", "")).replace("_", " ")],
    }
    for name, good in status.get("checks", {}).items():
        about = ", ".join(each for each in known.get(name, ()) if each)
        yield name, ("ok" if good else "FAILS") + (f" ({about})" if about else "")
    yield from _reload_said(status)
    for warning in status.get("warnings", ()):
        yield "warning", str(warning)


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
    if keys:
        yield "keys", _shown([f"{each['id']} ({each['right']})" for each in keys])


def _token_keys_said(keys: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    if keys:
        said = _shown([f"{each['id']} ({each['algorithms'][0]})" for each in keys])
        yield "token keys", f"{len(keys)}: {said}"


def _shown(texts: Sequence[str]) -> str:
    more = [f"and {len(texts) - SHOWN} more"] if len(texts) > SHOWN else []
    return ", ".join([*texts[:SHOWN], *more])


def _connections_said(status: Mapping[str, Any]) -> str:
    by_generation = status.get("connections_by_generation", {})
    said = [f"{count} of generation {number}" for number, count in by_generation.items()]
    return f"{status.get('connections')}" + (f": {', '.join(said)}" if said else "")


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
