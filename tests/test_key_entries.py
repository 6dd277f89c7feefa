"""One good and one bad value for each rule of an entry, and the words that the bad one gets."""

from typing import Any

import pytest

from rekeyd.access.key_entries import Complaint, Entries
from support.key_files import digest_of, entry


def complaints(*entries: Any) -> list[Complaint]:
    heard: list[Complaint] = []
    Entries(heard.append).keys(list(entries))
    return heard


def said_of(**members: Any) -> list[tuple[str, str]]:
    """Of one key with these members; one that is None is left out."""
    whole = {name: value for name, value in {**entry("a"), **members}.items() if value is not None}
    return [(c.place.removeprefix("keys[1]").removeprefix("."), c.message) for c in complaints(whole)]


GOOD: list[dict[str, Any]] = [
    {"id": "a.b-C9"},
    {"id": "9" * 64},
    {"right": "manage"},
    {"right": None, "collections": {"my coll": "read", "a*": "points", "*": "write"}},
    {"paths": ["/", "/a/b%20c"]},
    {"networks": ["10.0.0.0/8", "2001:db8::/32", "127.0.0.1"]},
    {"rate": 0.1},
    {"rate": 1_000_000},
    {"note": "für die Nacht"},
    {
        "secrets": [
            {"digest": "sha256:" + "AB" * 32, "not_before": "2026-01-01", "expires": "2026-01-01T00:00:00Z"}
        ]
    },
    {"secrets": [{"digest": digest_of("a", n)} for n in range(3)]},
]


@pytest.mark.parametrize("members", GOOD, ids=str)
def test_what_is_sound_is_taken_without_a_word(members: dict[str, Any]) -> None:
    assert said_of(**members) == []


BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"id": "a_b"}, "id", "must name the key"),
    ({"id": "-a"}, "id", "must name the key"),
    ({"id": "a" * 65}, "id", "must name the key"),
    ({"id": "ä"}, "id", "must name the key"),
    ({"id": "a\n"}, "id", "must name the key"),
    ({"id": 7}, "id", "must be text, not an integer"),
    ({"id": True}, "id", "must be text, not a boolean"),
    ({"right": "READ"}, "right", "is no right"),
    ({"right": ["read"]}, "right", "is no right"),
    ({"right": None}, "", "says neither `right` nor `collections`"),
    ({"right": None, "rate": 1}, "", "says neither `right` nor `collections`"),
    ({"collections": {"a": "read"}}, "", "says both `right` and `collections`"),
    (
        {"right": None, "collections": {}},
        "collections",
        "must map names of collections to what may be done there",
    ),
    (
        {"right": None, "collections": ["a"]},
        "collections",
        "must map names of collections to what may be done there",
    ),
    ({"right": None, "collections": {"a*b": "read"}}, "collections", "has a name that no collection has"),
    ({"right": None, "collections": {"": "read"}}, "collections", "has a name that no collection has"),
    ({"right": None, "collections": {"a\x00": "read"}}, "collections", "has a name that no collection has"),
    (
        {"right": None, "collections": {"a": "manage"}},
        "collections",
        "allows what can't be had for one collection",
    ),
    (
        {"right": None, "collections": {"a": None}},
        "collections",
        "allows what can't be had for one collection",
    ),
    ({"paths": "/a"}, "paths", "must be a list of paths"),
    ({"paths": []}, "paths", "must be a list of paths"),
    ({"paths": ["a"]}, "paths", "must be a list of paths"),
    ({"paths": ["/a/../b"]}, "paths", "must be a list of paths"),
    ({"paths": ["/a?b"]}, "paths", "must be a list of paths"),
    ({"networks": "10.0.0.0/8"}, "networks", "must be a list of networks"),
    ({"networks": []}, "networks", "must be a list of networks"),
    ({"networks": ["10.1.2.3/8"]}, "networks", "must be a list of networks"),
    ({"networks": [167772160]}, "networks", "must be a list of networks"),
    ({"networks": ["localhost"]}, "networks", "must be a list of networks"),
    ({"rate": 0}, "rate", "must be a number of requests per second, more than 0 and at most 1000000"),
    ({"rate": -1}, "rate", "must be a number of requests per second, more than 0 and at most 1000000"),
    ({"rate": "5"}, "rate", "must be a number of requests per second, more than 0 and at most 1000000"),
    ({"rate": True}, "rate", "must be a number of requests per second, more than 0 and at most 1000000"),
    (
        {"rate": float("nan")},
        "rate",
        "must be a number of requests per second, more than 0 and at most 1000000",
    ),
    (
        {"rate": float("inf")},
        "rate",
        "must be a number of requests per second, more than 0 and at most 1000000",
    ),
    ({"note": 5}, "note", "must be text of at most 1000 characters"),
    ({"note": "x" * 1001}, "note", "must be text of at most 1000 characters"),
    ({"secrets": None}, "secrets", "must be a list with at least one secret"),
    ({"secrets": []}, "secrets", "must be a list with at least one secret"),
    ({"secrets": {"digest": digest_of("a")}}, "secrets", "must be a list with at least one secret"),
    ({"secrets": [digest_of("a")]}, "secrets[1]", "must be a mapping, not a string"),
    ({"secrets": [{}]}, "secrets[1].digest", "is no digest"),
    ({"secrets": [{"digest": "ab" * 32}]}, "secrets[1].digest", "is no digest"),
    ({"secrets": [{"digest": "sha256:" + "a" * 63}]}, "secrets[1].digest", "is no digest"),
    ({"secrets": [{"digest": "sha256:" + "a" * 65}]}, "secrets[1].digest", "is no digest"),
    ({"secrets": [{"digest": "md5:" + "a" * 64}]}, "secrets[1].digest", "is no digest"),
    ({"secrets": [{"digest": "sha256:" + "g" * 64}]}, "secrets[1].digest", "is no digest"),
    ({"secrets": [{"digest": digest_of("a")}] * 2}, "secrets[2].digest", "stands there twice"),
    (
        {"secrets": [{"digest": digest_of("a"), "expires": 2027}]},
        "secrets[1].expires",
        "must be a date, or a time with its zone",
    ),
    (
        {"secrets": [{"digest": digest_of("a"), "not_before": "2027-01-02", "expires": "2027-01-01"}]},
        "secrets[1].expires",
        "is before `not_before`",
    ),
    ({"secret": "x"}, "", "holds a secret, where only its digest belongs"),
    (
        {"secrets": [{"digest": digest_of("a"), "key": "x"}]},
        "secrets[1]",
        "holds a secret, where only its digest belongs",
    ),
    ({"colection": {}}, "colection", "is unknown"),
    ({"zzz": 1}, "", "has a member that is unknown"),
]


@pytest.mark.parametrize(("members", "place", "message"), BAD, ids=str)
def test_what_is_wrong_is_said_at_its_place_and_gives_no_key(
    members: dict[str, Any], place: str, message: str
) -> None:
    assert (place, message) in said_of(**members)


def test_each_id_is_there_once() -> None:
    [complaint] = complaints(entry("a"), entry("b"), {**entry("b"), "secrets": [{"digest": digest_of("c")}]})
    assert (complaint.place, complaint.message) == ("keys[3].id", "is that of keys[2]")


def test_keys_are_a_list_of_mappings() -> None:
    heard: list[Complaint] = []
    for value in ({"a": 1}, "a", 5):
        Entries(heard.append).keys(value)
    assert [c.message for c in heard] == [
        "must be a list of keys, not a mapping",
        "must be a list of keys, not a string",
        "must be a list of keys, not an integer",
    ]
    assert [c.message for c in complaints("a", None)] == [
        "must be a mapping, not a string",
        "must be a mapping, not null",
    ]
