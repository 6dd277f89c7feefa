"""Generations as values: numbered, compared part by part, and silent about secrets."""

import json
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.pepper import id_of
from rekeyd.access.policy import Policy
from rekeyd.access.rights import Limits, Right
from rekeyd.access.token_keys import read_key_set, signer_of_secret
from rekeyd.access.tokens import TokenRules
from rekeyd.trust.certificates import read_anchors
from rekeyd.trust.generation import Candidate, Part, changes
from rekeyd.trust.revocations import read_revocations
from support.generations import API_KEY, POLICY, candidate_of, material_of, settings_of
from support.pki import Authority, Leaf
from support.tokens import Issuer, key_set

CA = Authority()
LEAF = CA.intermediate().issue()
OTHER_LEAF = CA.issue("example.org")


def different(old: Candidate, new: Candidate) -> dict[Part, object]:
    return {change.part: change.detail for change in changes(old.generation(1), new.generation(2))}


def ring(**secrets: str) -> KeyRing:
    return KeyRing(Credential.of_secret(name, Right.MANAGE, secret) for name, secret in secrets.items())


def test_a_generation_holds_all_of_its_candidate_and_cannot_change() -> None:
    candidate = candidate_of(LEAF, anchors=read_anchors(CA.pem), ring=ring(a="1"))

    generation = candidate.generation(7)

    assert generation.number == 7
    assert (generation.certificates, generation.client_anchors) == (candidate.certificates, candidate.anchors)
    assert (generation.ring, generation.policy) == (candidate.ring, candidate.policy)
    with pytest.raises(FrozenInstanceError):
        generation.number = 8  # type: ignore[misc]


def test_the_same_files_differ_in_nothing() -> None:
    once, again = (candidate_of(LEAF, anchors=read_anchors(CA.pem), ring=ring(a="1")) for _ in range(2))

    assert different(once, again) == {}


def test_at_start_everything_there_is_new() -> None:
    found = changes(None, candidate_of(LEAF, ring=ring(a="1")).generation(1))

    assert [change.part for change in found] == [Part.SERVER_CERTIFICATE, Part.KEYS, Part.POLICY]


def test_a_certificate_is_told_by_serial_fingerprint_names_and_expiry() -> None:
    found = different(candidate_of(LEAF), candidate_of(OTHER_LEAF))

    assert found == {
        Part.SERVER_CERTIFICATE: {
            "old": described(LEAF, ["localhost", "127.0.0.1"]),
            "new": described(OTHER_LEAF, ["example.org"]),
        }
    }


def described(leaf: Leaf, names: list[str]) -> dict[str, object]:
    digits = f"{leaf.serial:X}"
    return {
        "serial": digits.zfill(len(digits) + len(digits) % 2),
        "sha256": leaf.fingerprint,
        "names": names,
        "not_after": leaf.certificate.not_valid_after_utc.isoformat(),
        "key": "ECDSA P-256",
    }


def test_a_changed_intermediate_is_a_change() -> None:
    reissued = Authority("rekeyd test intermediate", parent=CA)

    found = different(
        candidate_of(LEAF), candidate_of(Leaf(LEAF.certificate, LEAF.private_key, reissued.chain))
    )

    assert found.keys() == {Part.SERVER_CERTIFICATE}
    assert json.dumps(found[Part.SERVER_CERTIFICATE]).count("intermediates") == 1


def test_tls_may_be_turned_off() -> None:
    found = different(candidate_of(LEAF), candidate_of(None))

    assert found[Part.SERVER_CERTIFICATE] == {"old": described(LEAF, ["localhost", "127.0.0.1"]), "new": None}


def test_authorities_are_told_as_added_and_removed_whatever_their_order() -> None:
    one, two, three = (Authority(name) for name in ("one", "two", "three"))
    old = candidate_of(LEAF, anchors=read_anchors(one.pem + two.pem))

    assert different(old, candidate_of(LEAF, anchors=read_anchors(two.pem + one.pem))) == {}
    found = different(old, candidate_of(LEAF, anchors=read_anchors(two.pem + three.pem)))
    assert json.dumps(found[Part.CLIENT_CA]).count("subject") == 2
    assert "'added': [{'subject': 'CN=three'" in str(found)
    assert "'removed': [{'subject': 'CN=one'" in str(found)


def test_keys_are_told_by_id_and_never_by_secret() -> None:
    found = different(
        candidate_of(LEAF, ring=ring(stays="s3cret-0", goes="s3cret-1", turns="s3cret-2")),
        candidate_of(LEAF, ring=ring(stays="s3cret-0", comes="s3cret-3", turns="s3cret-4")),
    )

    assert found == {Part.KEYS: {"added": ["comes"], "removed": ["goes"], "changed": ["turns"]}}


def test_a_key_whose_right_changes_has_changed() -> None:
    smaller = KeyRing([Credential.of_secret("a", Right.READ, "1")])

    assert different(candidate_of(LEAF, ring=ring(a="1")), candidate_of(LEAF, ring=smaller)) == {
        Part.KEYS: {"changed": ["a"]}
    }


def test_of_very_many_keys_some_are_told_and_all_counted() -> None:
    many = KeyRing(Credential(f"k{n}", Right.READ, b"%d" % n) for n in range(150))

    found: Any = different(candidate_of(LEAF, ring=KeyRing([])), candidate_of(LEAF, ring=many))[Part.KEYS]

    assert (len(found["added"]), found["added_count"]) == (100, 150)


def test_a_key_with_another_secret_limit_or_expiry_has_changed() -> None:
    old = Credential("a", Right.READ, b"1")
    others = [
        [Credential("a", Right.READ, b"2")],
        [old, Credential("a", Right.READ, b"2")],
        [replace(old, expires=1.0)],
        [replace(old, limits=Limits(rate=1.0))],
    ]
    for other in others:
        found = different(candidate_of(LEAF, ring=KeyRing([old])), candidate_of(LEAF, ring=KeyRing(other)))
        assert found == {Part.KEYS: {"changed": ["a"]}}


def test_another_pepper_is_a_change_and_told_by_its_id() -> None:
    rings = [KeyRing([Credential("a", Right.READ, b"1")], pepper=pepper) for pepper in (None, b"x" * 32)]

    found = different(candidate_of(LEAF, ring=rings[0]), candidate_of(LEAF, ring=rings[1]))

    assert found == {Part.KEYS: {"pepper": id_of(b"x" * 32)}}
    assert different(candidate_of(LEAF, ring=rings[1]), candidate_of(LEAF, ring=rings[0])) == {
        Part.KEYS: {"pepper": "none"}
    }


def test_a_policy_that_decides_otherwise_is_a_change() -> None:
    opened = replace(candidate_of(LEAF), policy=Policy.of("other", [], []))

    assert different(candidate_of(LEAF), opened) == {Part.POLICY: {"old": POLICY.name, "new": "other"}}


def test_settings_are_told_by_their_dotted_keys() -> None:
    changed = settings_of(service={"http_port": 7000, "api_key": API_KEY[::-1]}, logging={"level": "debug"})

    found = different(candidate_of(LEAF), candidate_of(LEAF, settings=changed))

    assert found == {Part.SETTINGS: {"changed": ["service.http_port", "service.api_key", "logging.level"]}}


def test_the_first_certificate_is_the_default() -> None:
    generation = candidate_of(OTHER_LEAF, LEAF).generation(1)

    assert generation.default == material_of(OTHER_LEAF)
    assert candidate_of(None).generation(1).default is None


def test_of_several_certificates_the_default_is_told_first_and_the_others_by_name() -> None:
    old = candidate_of(LEAF, CA.issue("a.example"), gone := CA.issue("gone.example"))
    renewed, come = CA.issue("a.example"), CA.issue("new.example")

    detail = different(old, candidate_of(LEAF, come, renewed))[Part.SERVER_CERTIFICATE]

    assert isinstance(detail, dict)
    assert detail.keys() == {"more"}
    assert [(each["name"], each["old"] is None, each["new"] is None) for each in detail["more"]] == [
        ("new.example", True, False),
        ("a.example", False, False),
        ("gone.example", False, True),
    ]
    assert detail["more"][1]["new"] == described(renewed, ["a.example"])
    assert detail["more"][2]["old"] == described(gone, ["gone.example"])


def test_the_default_is_told_as_old_and_new_also_where_there_are_others() -> None:
    a, renewed = CA.issue("a.example"), CA.issue()

    found = different(candidate_of(LEAF, a), candidate_of(renewed, a))

    assert found == {
        Part.SERVER_CERTIFICATE: {
            "old": described(LEAF, ["localhost", "127.0.0.1"]),
            "new": described(renewed, ["localhost", "127.0.0.1"]),
        }
    }


def test_another_default_is_a_change_of_the_default_alone() -> None:
    a = CA.issue("a.example")

    swapped = different(candidate_of(LEAF, a), candidate_of(a, LEAF))[Part.SERVER_CERTIFICATE]
    assert swapped == {
        "old": described(LEAF, ["localhost", "127.0.0.1"]),
        "new": described(a, ["a.example"]),
    }
    inserted = different(candidate_of(LEAF), candidate_of(a, LEAF))[Part.SERVER_CERTIFICATE]
    assert inserted == swapped


def test_another_order_of_the_others_is_a_change() -> None:
    """Which of two for the same name is served may follow from it."""
    one, two = CA.issue("a.example"), CA.issue("a.example")

    found = different(candidate_of(LEAF, one, two), candidate_of(LEAF, two, one))

    assert found == {Part.SERVER_CERTIFICATE: {"reordered": True}}


def test_revocation_lists_are_told_by_issuer_and_by_how_many_are_revoked() -> None:
    old = candidate_of(LEAF, revocations=read_revocations(CA.crl(1, 2)))
    new = candidate_of(LEAF, revocations=read_revocations(CA.crl(2, 3, 4)))

    assert different(old, old) == {}
    assert different(old, new) == {
        Part.CLIENT_CRL: {
            "added": ["CN=rekeyd test CA"],
            "removed": ["CN=rekeyd test CA"],
            "revoked": 2,
            "reinstated": 1,
        }
    }
    assert Part.CLIENT_CRL.label == "client CRL"


def test_no_secret_is_in_a_repr() -> None:
    candidate = candidate_of(LEAF, ring=ring(a="s3cret"))
    body = LEAF.key_pem.splitlines()[1].decode()

    for value in (candidate, candidate.generation(1), material_of(LEAF)):
        assert API_KEY not in repr(value)
        assert "s3cret" not in repr(value)
        assert body not in repr(value)


def tokens(*issuers: Issuer, revoked: frozenset[str] = frozenset()) -> TokenRules:
    return TokenRules(read_key_set(key_set(*issuers)).signers, revoked=revoked)


def test_keys_of_issuers_and_revoked_tokens_are_told_by_their_ids() -> None:
    old = replace(candidate_of(LEAF), tokens=tokens(Issuer("a"), Issuer("b"), revoked=frozenset({"old"})))
    rolled = Issuer("b", name="rolled")
    new = replace(old, tokens=tokens(rolled, Issuer("c"), revoked=frozenset({"z", "y"})))

    assert different(old, new) == {
        Part.TOKENS: {
            "added": ["jwks:c"],
            "removed": ["jwks:a"],
            "changed": ["jwks:b"],
            "revoked": ["y", "z"],
            "reinstated": ["old"],
        }
    }
    again = replace(old, tokens=tokens(Issuer("a"), Issuer("b"), revoked=frozenset({"old"})))
    assert different(old, again) == {}


def test_of_many_revoked_tokens_the_first_are_told_and_how_many_there_are() -> None:
    old = candidate_of(LEAF)
    new = replace(old, tokens=TokenRules(revoked=frozenset(str(number) for number in range(150))))

    detail = dict(changes(old.generation(1), new.generation(2))[0].detail)

    assert (len(detail["revoked"]), detail["revoked_count"]) == (100, 150)


def test_no_secret_that_signs_tokens_is_in_a_repr() -> None:
    secret = "a-made-up-key-that-signs-tokens-as-well"
    candidate = replace(candidate_of(LEAF), tokens=TokenRules((signer_of_secret("api_key", secret),)))
    assert secret not in repr(candidate) + repr(candidate.generation(1)) + repr(candidate.tokens)
