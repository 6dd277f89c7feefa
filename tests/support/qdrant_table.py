"""Qdrant's table of access rights: which kind of credential may do what."""

import csv
import re
from dataclasses import dataclass
from pathlib import Path

TABLE = Path(__file__).parents[1] / "data" / "qdrant-access.tsv"
KINDS = ("read", "collection_r", "collection_prw", "collection_rw", "manage", "open")
"""The columns: a right on everything, on one collection (Qdrant's words for tokens), and nobody at all."""

LOOKS_FURTHER = {
    "search/groups": "with_lookup names a collection",
    "recommend": "lookup_from names a collection",
    "recommend/batch": "lookup_from names a collection",
    "recommend/groups": "lookup_from and with_lookup do",
    "discover": "lookup_from names a collection",
    "discover/batch": "lookup_from names a collection",
    "query": "lookup_from names a collection, in prefetches too",
    "query/batch": "lookup_from names a collection, in prefetches too",
    "query/groups": "lookup_from and with_lookup do",
}
"""Operations on points whose path does not say all, and why the body is needed."""

POINTS_WHERE_THE_TABLE_IS_SILENT = frozenset(
    {
        "GET /collections/{collection_name}/points/{id}",
        "POST /collections/{collection_name}/points/count",
        "POST /collections/{collection_name}/points/query",
        "POST /collections/{collection_name}/points/query/batch",
        "POST /collections/{collection_name}/points/query/groups",
        "POST /collections/{collection_name}/points/search/matrix/offsets",
        "POST /collections/{collection_name}/points/search/matrix/pairs",
        "POST /collections/{collection_name}/facet",
    }
)
"""What `prw` may do beside the table, as Qdrant itself lets it (it needs none of its "extras")."""


@dataclass(frozen=True)
class Operation:
    """A row of the table, REST side. `allowed` has what it says of each kind; None: nothing."""

    method: str
    template: str
    allowed: dict[str, bool | None]

    def __str__(self) -> str:
        return f"{self.method} {self.template}"

    @property
    def of_a_collection(self) -> bool:
        return "{collection_name}" in self.template

    @property
    def needs_the_body(self) -> bool:
        return self.method == "POST" and self.template.partition("/points/")[2] in LOOKS_FURTHER

    def path(self, collection: str = "my%20name") -> str:
        """The template with its names filled in."""
        return re.sub(r"\{\w+\}", "x", self.template.replace("{collection_name}", collection))

    def is_for(self, kind: str) -> bool:
        """What the table says; and where it says nothing of `prw`, what Qdrant does."""
        said = self.allowed[kind]
        return str(self) in POINTS_WHERE_THE_TABLE_IS_SILENT if said is None else said


def operations() -> list[Operation]:
    rows = csv.DictReader(TABLE.read_text().splitlines(), delimiter="\t")
    return [_operation(row) for row in rows if row["rest"] != "-"]


def _operation(row: dict[str, str]) -> Operation:
    method, template = row["rest"].split(" ")
    words = {"yes": True, "no": False, "-": None}
    allowed = {kind: words[row[kind]] for kind in KINDS}
    if allowed["open"]:  # for everybody, whatever the table leaves out
        allowed = dict.fromkeys(KINDS, True)
    return Operation(method, template, allowed)
