"""How a section of the settings and the keys in it are declared.

Must not know: any of them.
"""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


def setting(default: Any, meaning: str, *, reloadable: bool = False, qdrant: bool = False) -> Any:
    """Declare a key. `qdrant`: it is Qdrant's own, so that `QDRANT__…` in the environment sets it as well."""
    return Field(
        default=default,
        description=meaning,
        json_schema_extra={"reloadable": reloadable, "qdrant": qdrant},
    )


class Section(BaseModel):
    """A part of the settings: immutable, without unknown keys, and silent about what it was given."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)
