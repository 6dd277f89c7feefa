"""Entries of `tls.allowed_clients`: what is understood, and in which one form it is kept."""

import pytest

from rekeyd.settings import ClientPattern, UnusableError, parse_client_pattern

PIN = "spki:sha256/47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU="
EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


@pytest.mark.parametrize(
    ("text", "kind", "value"),
    [
        ("cn:Backup robot", "cn", "Backup robot"),
        ("CN:a:b", "cn", "a:b"),
        ("dns:Worker.Example.ORG.", "dns", "worker.example.org"),
        ("dns:*.example.org", "dns", "*.example.org"),
        ("uri:spiffe://example.org/ns/Prod/sa/one", "uri", "spiffe://example.org/ns/Prod/sa/one"),
        ("uri:spiffe://example.org/*", "uri", "spiffe://example.org/*"),
        ("uri:urn:uuid:f81d4fae", "uri", "urn:uuid:f81d4fae"),
        ("email:Ops@Example.org", "email", "Ops@example.org"),
        (PIN, "spki", EMPTY),
    ],
)
def test_an_entry_is_read_into_one_form(text: str, kind: str, value: str) -> None:
    pattern = parse_client_pattern(text)

    assert (pattern.kind, pattern.value) == (kind, value)
    assert parse_client_pattern(str(pattern)) == pattern


@pytest.mark.parametrize(
    "text",
    [
        "",
        "example.org",
        "dns:",
        "dns:*",
        "dns:*example.org",
        "dns:a.*.example.org",
        "dns:exämple.org",
        "cn:",
        "cn: padded",
        "cn:a\x07",
        "uri:",
        "uri:no-scheme",
        "uri:spiffe://*",
        "uri:spiffe://example.org/a*",
        "uri:spiffe://example.org/*/b",
        "uri:spiffe://example.org/ ",
        "email:@example.org",
        "email:a b@example.org",
        "spki:sha256/",
        "spki:sha1/2jmj7l5rSw0yVb/vlWAYkK/YBwk=",
        "serial:5",
    ],
)
def test_anything_else_is_turned_down_with_a_remedy(text: str) -> None:
    with pytest.raises(UnusableError) as caught:
        parse_client_pattern(text)
    assert caught.value.fix
    assert not text or text not in caught.value.message


def test_a_pin_is_shown_as_it_is_written() -> None:
    assert str(ClientPattern("spki", EMPTY)) == PIN
