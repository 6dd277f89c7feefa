"""The gRPC side of Qdrant's table of access rights, and a key of each kind, named and spelt as its column."""

import csv
from dataclasses import replace

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.rights import Limits, Reach, Right
from support.qdrant_table import TABLE

POINTS_WHERE_THE_TABLE_IS_SILENT = frozenset(
    ["Count", "Query", "QueryBatch", "QueryGroups", "SearchMatrixOffsets", "SearchMatrixPairs", "Facet"]
)
"""What `prw` may do beside the table, as over HTTP."""


def limited(name: str, reach: Reach) -> Credential:
    made = Credential.of_secret(name, reach.right, name)
    return replace(made, limits=Limits(collections=(("books", reach),)))


RING = KeyRing(
    [
        Credential.of_secret("manage", Right.MANAGE, "manage"),
        Credential.of_secret("read", Right.READ, "read"),
        limited("collection_r", Reach.READ),
        limited("collection_prw", Reach.POINTS),
        limited("collection_rw", Reach.WRITE),
    ]
)


def rows() -> list[dict[str, str]]:
    with TABLE.open() as table:
        found = {row["grpc"]: row for row in csv.DictReader(table, delimiter="\t")}
    del found["-"]
    return list(found.values())
