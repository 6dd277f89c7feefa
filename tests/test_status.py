import datetime as dt
import json
from dataclasses import fields, replace
from typing import Any

import pytest

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Right
from rekeyd.access.token_keys import read_key_set, signer_of_secret
from rekeyd.access.tokens import TokenRules
from rekeyd.telemetry.evidence import UNUSED, KeyUse
from rekeyd.telemetry.report import Report
from rekeyd.telemetry.status import SHOWN, State, status_lines, status_of
from rekeyd.trust.generation import Generation
from support.generations import candidate_of, material_of, settings_of
from support.pki import Authority, now
from support.tokens import Issuer, key_set

NOW = now()
BEGAN = dt.datetime(2026, 1, 2, 3, 4, 5, tzinfo=dt.UTC).timestamp()
USED = KeyUse(BEGAN, BEGAN + 1.5, 3, {"expired": 1})
REFUSED = {
    "outcome": "refused",
    "trigger": "watch",
    "generation": 7,
    "duration": 0.01,
    "findings": [
        {
            "rule": "key_mismatch",
            "severity": "refuse",
            "part": "server_certificate",
            "message": "the key does not belong to the certificate",
        }
    ],
}


@pytest.fixture(scope="module")
def generation() -> Generation:
    authority = Authority()
    leaf = authority.issue("db.example.org", "127.0.0.1", not_after=NOW + dt.timedelta(days=44, hours=1))
    other = authority.issue("*.example.org", not_after=NOW + dt.timedelta(hours=5))
    ring = KeyRing(
        [
            Credential.of_secret("api_key", Right.MANAGE, "a secret to be kept"),
            Credential.of_secret("read_only_api_key", Right.READ, "another one"),
        ]
    )
    settings = settings_of(upstream={"http": "http://127.0.0.1:16333"})
    first = candidate_of(leaf, ring=ring, settings=settings).generation(7)
    return replace(first, certificates=(*first.certificates, material_of(other)))


REPORTED = {field.name for field in fields(Report)}


def state_of(generation: Generation | None, **differently: Any) -> State:
    report: dict[str, Any] = {
        "checks": {"upstream": True, "certificate": True},
        "connections": {7: 10, 6: 2},
        "in_use": {"read_only_api_key": 2},
    }
    report |= {name: differently.pop(name) for name in REPORTED & differently.keys()}
    known: dict[str, Any] = {
        "version": "1.2.3",
        "pid": 42,
        "stopping": False,
        "report": Report(**report),
        "generation": generation,
        "use_of": lambda key_id: USED if key_id == "api_key" else UNUSED,
        "evidence_since": dt.datetime(2026, 1, 1, tzinfo=dt.UTC).timestamp(),
        "state_directory": "/var/lib/rekeyd",
    }
    return State(**known | differently)


def said(state: State, at: dt.datetime = NOW) -> str:
    """As `rekeyd status` prints what came over the socket."""
    return "\n".join(status_lines(json.loads(json.dumps(status_of(state, at), default=list))))


def test_a_status_has_everything_that_is_served(generation: Generation) -> None:
    status = status_of(state_of(generation), NOW)
    first, second = status.pop("certificates")
    status["keys"] = list(status["keys"])
    leaf = generation.certificates[0].leaf
    assert first == {
        "serial": leaf.serial_hex,
        "sha256": leaf.sha256,
        "names": ["db.example.org", "127.0.0.1"],
        "not_after": leaf.not_after.isoformat(),
        "key": "ECDSA P-256",
        "default": True,
        "expires_in": 44 * 86400 + 3600,
    }
    assert (second["names"], second["default"], second["expires_in"]) == (["*.example.org"], False, 5 * 3600)
    assert status == {
        "version": "1.2.3",
        "pid": 42,
        "state": "serving",
        "serving": True,
        "checks": {"upstream": True, "certificate": True},
        "generation": 7,
        "keys": [
            {
                "id": "api_key",
                "right": "manage",
                "first_used": "2026-01-02T03:04:05+00:00",
                "last_used": "2026-01-02T03:04:06.500000+00:00",
                "allowed": 3,
                "denied": {"expired": 1},
                "in_use": 0,
            },
            {
                "id": "read_only_api_key",
                "right": "read",
                "first_used": None,
                "last_used": None,
                "allowed": 0,
                "denied": {},
                "in_use": 2,
            },
        ],
        "evidence": {"since": "2026-01-01T00:00:00+00:00", "directory": "/var/lib/rekeyd"},
        "token_keys": [],
        "upstream": {"address": "http://127.0.0.1:16333", "reachable": True},
        "connections": 12,
        "workers": [],
        "connections_by_generation": {"6": 2, "7": 10},
        "cluster": None,
        "last_reload": None,
        "refused_since": None,
        "warnings": [],
    }


def test_a_key_with_two_secrets_is_shown_once_with_its_highest_right(generation: Generation) -> None:
    ring = KeyRing(
        Credential.of_secret("rotated", right, f"its {right} secret") for right in (Right.READ, Right.WRITE)
    )
    status = status_of(state_of(replace(generation, ring=ring)), NOW)
    assert [(key["id"], key["right"]) for key in status["keys"]] == [("rotated", "write")]


def test_no_secret_is_in_a_status(generation: Generation) -> None:
    status = status_of(state_of(generation), NOW)
    told = json.dumps(status, default=list) + str(status) + said(state_of(generation))
    assert "a secret to be kept" not in told
    assert "another one" not in told
    assert all(credential.digest.hex() not in told for credential in generation.ring)


@pytest.mark.parametrize(
    ("differently", "state", "serving"),
    [
        ({}, "serving", True),
        ({"checks": {"upstream": False}}, "serving", False),
        ({"stopping": True}, "stopping", False),
    ],
)
def test_serving_is_what_readiness_says(
    generation: Generation, differently: dict[str, Any], state: str, serving: bool
) -> None:
    status = status_of(state_of(generation, **differently), NOW)
    assert (status["state"], status["serving"]) == (state, serving)


def test_before_the_first_generation_there_is_a_status_too() -> None:
    state = state_of(None, checks={}, connections={})
    status = status_of(state, NOW)
    assert (status["generation"], status["certificates"], list(status["keys"])) == (None, [], [])
    assert "generation    None" in said(state)


def test_a_person_sees_what_expires_first_and_who_holds_on_to_what(generation: Generation) -> None:
    state = state_of(
        generation,
        last_reload=REFUSED,
        refused_since=dt.datetime(2026, 11, 23, 18, tzinfo=dt.UTC).timestamp(),
        warnings=["a key goes over plaintext"],
        checks={"upstream": False, "certificate": True},
    )
    default, other = (material.leaf for material in generation.certificates)
    assert said(state).splitlines() == [
        "rekeyd 1.2.3, pid 42: serving, but not ready",
        "generation    7",
        "certificate   *.example.org",
        f"              until {other.not_after.isoformat()}, 5 hours left; ECDSA P-256",
        f"              serial {other.serial_hex}, sha256 {other.sha256}",
        "certificate   db.example.org, 127.0.0.1 (default)",
        f"              until {default.not_after.isoformat()}, 44 days left; ECDSA P-256",
        f"              serial {default.serial_hex}, sha256 {default.sha256}",
        (
            "keys          api_key (manage): last used 2026-01-02T03:04:06.500000+00:00, 3 allowed; "
            "denied: 1 expired"
        ),
        "              read_only_api_key (read): not used, 2 running",
        "uses          known since 2026-01-01T00:00:00+00:00, kept in /var/lib/rekeyd",
        "connections   12: 2 of generation 6, 10 of generation 7",
        "upstream      FAILS (http://127.0.0.1:16333)",
        "certificate   ok",
        "last reload   refused (watch)",
        "              refuse: the key does not belong to the certificate",
        "refused since 2026-11-23T18:00:00+00:00",
        "warning       a key goes over plaintext",
    ]


def test_an_expired_certificate_is_said_to_be_so(generation: Generation) -> None:
    later = NOW + dt.timedelta(days=44)
    assert "EXPIRED" in said(state_of(generation), later)
    assert "60 minutes left" in said(state_of(generation), later)


def test_a_person_is_not_shown_thousands_of_anything(generation: Generation) -> None:
    (material, *_) = generation.certificates
    keys = KeyRing(Credential.of_secret(f"key-{n}", Right.READ, f"secret {n}") for n in range(500))
    many = replace(generation, certificates=(material,) * 1000, ring=keys)
    text = said(state_of(many))
    assert len(text.splitlines()) < 4 * SHOWN + 12
    assert f"and {1000 - SHOWN} more, which expire later" in text
    assert f"and {500 - SHOWN} more" in text
    assert len(status_of(state_of(many), NOW)["certificates"]) == 1000


def test_a_name_in_a_certificate_can_not_steer_the_terminal(generation: Generation) -> None:
    (material, *_) = generation.certificates
    odd = replace(material.leaf, dns_names=("\x1b[2J\nwarning       all is well",))
    state = state_of(replace(generation, certificates=(replace(material, chain=(odd,)),)))
    assert "\x1b" not in said(state)
    assert not any(line.startswith("warning") for line in said(state).splitlines())


def test_how_peers_are_is_said_where_there_are_any(generation: Generation) -> None:
    well = {"tunnels": 3, "state": "reached", "failures": 0, "problem": None}
    ill = {"tunnels": 0, "state": "failing", "failures": 7, "problem": "Connection refused"}
    cluster = {
        "inbound": {"upstream": "127.0.0.1:16335", **well},
        "peers": [{"peer": "node-2:6335", **well}, {"peer": "node-3:6335", **ill}],
    }
    state = state_of(generation, cluster=cluster)
    assert status_of(state, NOW)["cluster"] == cluster
    lines = said(state).splitlines()
    assert "peers         in to 127.0.0.1:16335: 3 open, reached" in lines
    assert "              to node-2:6335: 3 open, reached" in lines
    assert "              to node-3:6335: 0 open, failing, 7 attempts failed: Connection refused" in lines


def test_keys_that_vouch_for_tokens_are_counted_and_named(generation: Generation) -> None:
    secret = "another-secret-to-be-kept-of-32-characters"
    signers = (
        signer_of_secret("api_key", secret),
        *read_key_set(key_set(Issuer("a"), Issuer("e", "ES256"))).signers,
    )
    state = state_of(replace(generation, tokens=TokenRules(signers)))

    assert status_of(state, NOW)["token_keys"] == [
        {"id": "api_key", "algorithms": ["HS256"]},
        {"id": "jwks:a", "algorithms": ["RS256"]},
        {"id": "jwks:e", "algorithms": ["ES256"]},
    ]
    assert "token keys    3: api_key (HS256), jwks:a (RS256), jwks:e (ES256)" in said(state)
    assert secret not in str(status_of(state, NOW))


def test_the_grpc_side_of_the_upstream_is_told_where_it_is_served(generation: Generation) -> None:
    upstream = {"http": "http://127.0.0.1:16333", "grpc": "127.0.0.1:16334"}
    both = replace(generation, settings=settings_of(upstream=upstream))
    checks = {"upstream": True, "grpc_upstream": False}
    told = said(state_of(both, checks=checks, grpc_health="not_serving"))
    assert "grpc_upstream FAILS (http://127.0.0.1:16334, not serving)" in " ".join(told.split())
    assert "grpc" not in said(state_of(generation))
