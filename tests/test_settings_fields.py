"""Values that the example files in `tests/settings` do not show."""

import ipaddress
from pathlib import Path

import pytest
from pydantic import SecretStr, TypeAdapter, ValidationError

from rekeyd.settings import fields


def test_a_secret_may_hold_any_visible_character_and_spaces_within() -> None:
    text = "".join(map(chr, range(33, 127))) + " x"
    assert TypeAdapter(fields.Secret).validate_python(text) == SecretStr(text)


def test_a_secret_that_no_head_could_hold_is_refused() -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(fields.Secret).validate_python("x" * 5000)


def test_an_empty_secret_is_none() -> None:
    assert TypeAdapter(fields.Secret).validate_python("") is None


def test_an_address_alone_is_a_network_of_one() -> None:
    assert TypeAdapter(fields.Networks).validate_python(["192.0.2.7"]) == (ipaddress.ip_network("192.0.2.7"),)


def test_a_path_in_code_is_absolute_too() -> None:
    adapter = TypeAdapter(fields.FilePath)
    assert adapter.validate_python(Path("/x")) == Path("/x")
    with pytest.raises(ValidationError):
        adapter.validate_python(Path("x"))


@pytest.mark.parametrize("value", [1.2, "1.2", 1.3, "1.3"])
def test_a_tls_version_may_stand_without_quotes(value: object) -> None:
    assert TypeAdapter(fields.TlsVersion).validate_python(value) == str(value)


@pytest.mark.parametrize("value", [1, 1.1, True, "1.20", "TLSv1.3", None])
def test_other_tls_versions_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(fields.TlsVersion).validate_python(value)


@pytest.mark.parametrize("host", ["", "a b", "[::1]", "::1%lo", "h:1", "h/x", "-h", "h\n"])
def test_what_is_no_host_is_refused(host: str) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(fields.Host).validate_python(host)


@pytest.mark.parametrize("value", [float("inf"), float("nan"), 10**400, -1, True, "1"])
def test_odd_numbers_of_seconds_are_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        TypeAdapter(fields.Timeout).validate_python(value)
