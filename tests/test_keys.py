"""API keys as digests: who is found, who isn't, and what is never shown."""

import hashlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.keys import Credential, KeyRing, digest_of
from rekeyd.access.rights import Right

WRITER = Credential.of_secret("api_key", Right.MANAGE, "secret-of-the-writer")
READER = Credential.of_secret("read_only_api_key", Right.READ, "secret-of-the-reader")


def test_a_secret_is_kept_as_its_sha256_alone() -> None:
    assert WRITER.digest == digest_of(b"secret-of-the-writer")
    assert WRITER.digest == hashlib.sha256(b"secret-of-the-writer").digest()
    assert b"secret-of-the-writer" not in pickle.dumps(WRITER)


def test_neither_secret_nor_digest_is_in_a_repr() -> None:
    shown = repr(WRITER) + repr(KeyRing([WRITER])) + str(WRITER)
    assert "secret" not in shown
    assert "digest" not in shown
    assert WRITER.digest.hex() not in shown


@pytest.mark.parametrize(
    ("subject", "told"),
    [
        (None, None),
        ("system:serviceaccount:ci/deploy@example.org", b"system:serviceaccount:ci/deploy@example.org"),
        (" root", b"%20root"),
        ("%20root", b"%2520root"),
        ("ä", b"%C3%A4"),
    ],
)
def test_no_two_subjects_are_told_alike(subject: str | None, told: bytes | None) -> None:
    assert Credential("ci", Right.READ, b"", subject=subject).told_subject == told


def test_a_key_ring_finds_each_credential_by_its_secret() -> None:
    ring = KeyRing([READER, WRITER])
    assert ring.find(b"secret-of-the-writer") is WRITER
    assert ring.find(b"secret-of-the-reader") is READER
    assert len(ring) == 2
    assert set(ring) == {READER, WRITER}


@pytest.mark.parametrize(
    "guess",
    [
        b"",
        b"secret-of-the-write",
        b"secret-of-the-writer ",
        b" secret-of-the-writer",
        b"Secret-of-the-writer",
        b"secret-of-the-writer\x00",
        b"\xff\xfe",
        WRITER.digest,
        WRITER.digest.hex().encode(),
        b"x" * 100_000,
    ],
)
def test_nothing_but_the_secret_itself_is_found(guess: bytes) -> None:
    assert KeyRing([WRITER]).find(guess) is None


@given(st.binary())
def test_an_empty_ring_knows_nobody(guess: bytes) -> None:
    ring = KeyRing([])
    assert not ring
    assert ring.find(guess) is None


def test_an_empty_secret_opens_nothing_even_if_somebody_configured_it() -> None:
    assert KeyRing([Credential.of_secret("api_key", Right.MANAGE, "")]).find(b"") is None


def test_a_key_beyond_ascii_is_compared_as_utf8() -> None:
    ring = KeyRing([Credential.of_secret("api_key", Right.MANAGE, "schlüssel")])
    assert ring.find("schlüssel".encode()) is not None
    assert ring.find("schlüssel".encode("latin-1")) is None


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_credentials_with_one_secret_the_higher_right_is_found_and_the_other_told(
    turned: bool,
) -> None:
    low = Credential.of_secret("read_only_api_key", Right.READ, "same")
    high = Credential.of_secret("api_key", Right.MANAGE, "same")
    ring = KeyRing([high, low] if turned else [low, high])
    assert ring.find(b"same") is high
    assert ring.shadowed == (("read_only_api_key", "api_key"),)
    assert len(ring) == 1


def test_of_two_credentials_with_one_secret_and_one_right_the_first_is_found() -> None:
    first, second = (Credential.of_secret(key_id, Right.MANAGE, "same") for key_id in ("a", "b"))
    ring = KeyRing([first, second])
    assert ring.find(b"same") is first
    assert ring.shadowed == (("b", "a"),)


@given(st.sets(st.text(st.characters(codec="utf-8"), min_size=1), max_size=20), st.binary(min_size=1))
def test_a_ring_finds_its_secrets_and_no_others(secrets: set[str], guess: bytes) -> None:
    ring = KeyRing(Credential.of_secret(secret, Right.READ, secret) for secret in secrets)
    for secret in secrets:
        found = ring.find(secret.encode())
        assert found is not None
        assert found.id == secret
    assert (ring.find(guess) is not None) == (guess in {secret.encode() for secret in secrets})
