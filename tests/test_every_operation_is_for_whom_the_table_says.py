"""Every row of Qdrant's table times every kind of credential, over TLS, at the real daemon.

The table has one answer for each; where it says nothing of `prw` the answer is Qdrant's own (see
`support.qdrant_table`). Operations whose path does not say all (`LOOKS_FURTHER`) are asked with a body that
names no other collection, with one that does, and with one that can't be seen into.
"""

import asyncio
import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
import pytest

from conftest import StartDaemon
from support.daemon import Daemon
from support.generations import Site
from support.key_files import entry, secret_of, write
from support.live import Connection, live_site
from support.qdrant_table import LOOKS_FURTHER, Operation, operations
from support.tokens import AUDIENCE, ISSUER, Issuer, in_an_hour, key_set

API_KEY, ALT_KEY = "4f1c0d9e8b7a69584736251403f2e1d0", "e1d04f1c0d9e8b7a69584736251403f2"
READ_KEY = "read-only-4f1c0d9e8b7a6958473625"
REST = operations()
ISSUERS = (Issuer("e", "ES256"), Issuer("d", "EdDSA"), Issuer("r"))
NAMES_NONE = b'{"query": [0.1], "limit": 1}'
NAMES_ANOTHER = b'{"query": 7, "lookup_from": {"collection": "papers"}}'
PACKED = gzip.compress(NAMES_NONE)
HIDES_IT = b'{"query": 7, "lookup\\u005ffrom": {"collection": "papers"}}'

CLAIMS: Mapping[str, Any] = {
    "read": "r",
    "manage": "m",
    "collection_r": [{"collection": "books", "access": "r"}],
    "collection_prw": [{"collection": "books", "access": "prw"}],
    "collection_rw": [{"collection": "books", "access": "rw"}],
}
REACHES: Mapping[str, str] = {"collection_r": "read", "collection_prw": "points", "collection_rw": "write"}


@dataclass(frozen=True)
class Bearer:
    """Somebody with a credential; `kind` is their column of the table."""

    name: str
    credential: str | None
    kind: str
    known: bool = True

    def __str__(self) -> str:
        return self.name

    @property
    def limited(self) -> bool:
        return self.kind.startswith("collection")

    def may(self, operation: Operation) -> bool:
        """`write` is no column: it reads what a reader may, and writes what `rw` may in any collection."""
        if self.kind == "write":
            return operation.is_for("read") or operation.is_for("collection_rw")
        return operation.is_for(self.kind)


def bearers() -> list[Bearer]:
    signed = {
        kind: jwt.encode({"exp": in_an_hour(), "access": access}, API_KEY, algorithm="HS256")
        for kind, access in CLAIMS.items()
    }
    return [
        Bearer("nobody", None, "open", known=False),
        Bearer("a stranger", "not-a-key-at-all", "open", known=False),
        Bearer("api_key", API_KEY, "manage"),
        Bearer("alt_api_key", ALT_KEY, "manage"),
        Bearer("read_only_api_key", READ_KEY, "read"),
        *(Bearer(f"key {right}", secret_of(right), right) for right in ("read", "write", "manage")),
        *(Bearer(f"key {reach}-books", secret_of(f"{reach}-books"), kind) for kind, reach in REACHES.items()),
        *(Bearer(f"token {kind}", token, kind) for kind, token in signed.items()),
        *(
            Bearer(f"token {kind} of {issuer.algorithm}", issuer.token(access=access), kind)
            for issuer in ISSUERS
            for kind, access in CLAIMS.items()
        ),
    ]


def site_in(folder: Path) -> Site:
    site = live_site(
        folder,
        service={
            "api_key": API_KEY,
            "alt_api_key": ALT_KEY,
            "read_only_api_key": READ_KEY,
            "jwt_rbac": True,
        },
        access={
            "keys_file": "keys.yaml",
            "jwks_file": "issuer.json",
            "jwt_issuer": ISSUER,
            "jwt_audience": AUDIENCE,
            "failures_per_minute": 100_000,
        },
        tls={"watch": False},
    )
    in_books = [
        {
            key: value
            for key, value in {**entry(f"{reach}-books"), "collections": {"books": reach}}.items()
            if key != "right"
        }
        for reach in REACHES.values()
    ]
    write(folder / "keys.yaml", *(entry(right, right) for right in ("read", "write", "manage")), *in_books)
    (folder / "issuer.json").write_bytes(key_set(*ISSUERS))
    return site


async def test_every_operation_is_for_whom_the_table_says(start_daemon: StartDaemon, tmp_path: Path) -> None:
    everybody = bearers()
    secrets = [bearer.credential for bearer in everybody if bearer.credential and bearer.known]
    site = site_in(tmp_path)
    daemon = await start_daemon(site.file, secrets=secrets)
    wrong = [
        line
        for each in await asyncio.gather(*(asks_all(daemon, site, who) for who in everybody))
        for line in each
    ]
    assert not wrong, "\n".join(wrong)
    assert len(everybody) == 31
    assert len(REST) == 79


async def asks_all(daemon: Daemon, site: Site, who: Bearer) -> list[str]:
    """Whatever is answered otherwise than the table says."""
    wrong = []
    async with Connection.to(daemon, site.authority) as client:

        async def ask(operation: Operation, collection: str, body: bytes = b"", **headers: str) -> int:
            answer = await client.ask(
                operation.path(collection),
                method=operation.method,
                key=who.credential,
                body=body,
                headers=headers,
            )
            return answer.status

        for operation in REST:
            refused = 403 if who.known else 401
            body = NAMES_NONE if operation.method == "POST" else b""
            expected = {"books": 200 if who.may(operation) else refused}
            if operation.of_a_collection:
                expected["papers"] = refused if who.limited else expected["books"]
            for collection, status in expected.items():
                said = await ask(operation, collection, body)
                if said != status:
                    wrong.append(f"{who}: {operation} of {collection}: {said}, not {status}")
            if operation.needs_the_body and who.may(operation):
                status = 403 if who.limited else 200
                said_of = [await ask(operation, "books", body) for body in (NAMES_ANOTHER, HIDES_IT)]
                said_of.append(await ask(operation, "books", PACKED, **{"Content-Encoding": "gzip"}))
                if set(said_of) != {status}:
                    wrong.append(f"{who}: {operation}, naming another collection: {said_of}, not {status}")
    return wrong


def test_the_rows_that_need_the_body_are_those_that_say_why() -> None:
    needy = {operation.template.partition("/points/")[2] for operation in REST if operation.needs_the_body}
    assert needy == set(LOOKS_FURTHER)


@pytest.mark.parametrize("kind", ["read", "manage", *REACHES])
def test_every_column_has_a_bearer_of_each_sort(kind: str) -> None:
    sorts = {str(who).split(" ")[0] for who in bearers() if who.kind == kind}
    assert {"key", "token"} <= sorts
