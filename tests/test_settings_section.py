"""A section: what its declaration says, and that it is frozen, closed and silent."""

import pytest
from pydantic import ValidationError

from rekeyd.settings.section import Section, setting


class Lamp(Section):
    bright: bool = setting(False, "Shine.", reloadable=True)
    colour: str = setting("white", "The colour.", qdrant=True)


def test_a_declaration_keeps_meaning_and_marks() -> None:
    bright, colour = Lamp.model_fields["bright"], Lamp.model_fields["colour"]

    assert (bright.default, bright.description) == (False, "Shine.")
    assert bright.json_schema_extra == {"reloadable": True, "qdrant": False}
    assert colour.json_schema_extra == {"reloadable": False, "qdrant": True}


def test_a_section_is_frozen_and_takes_no_other_key() -> None:
    with pytest.raises(ValidationError):
        Lamp().bright = True  # type: ignore[misc]
    with pytest.raises(ValidationError):
        Lamp.model_validate({"dim": True})


def test_an_error_does_not_show_what_was_given() -> None:
    with pytest.raises(ValidationError) as caught:
        Lamp.model_validate({"colour": ["sw0rdfish"]})
    assert "sw0rdfish" not in str(caught.value)
