"""A table is as wide as it must be."""

from rekeyd.telemetry.tables import table


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    rows = list(table(("A", "LONG HEAD", "C"), [("wide cell", "x", ""), ("y", "", "z")]))
    assert rows == ["A          LONG HEAD  C", "wide cell  x", "y                     z"]
