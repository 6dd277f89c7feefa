"""What comes of a decision names whose key it was, and shows no secret."""

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Right
from rekeyd.access.verdict import GUESSES, Allowed, Denied, Reason, Unverified

KEY = Credential.of_secret("reader", Right.READ, "the secret itself")


def test_a_verdict_says_whose_key_it_was() -> None:
    assert Allowed(Reason.KEY, KEY).key_id == Denied(Reason.EXPIRED, "It has expired", KEY).key_id == "reader"
    assert Allowed(Reason.KEY, KEY).right is Right.READ
    assert (Allowed(Reason.OPEN).key_id, Allowed(Reason.OPEN).right) == (None, None)
    assert Denied(Reason.UNKNOWN_KEY, "Invalid").key_id is None


def test_a_guess_is_what_names_no_sound_key() -> None:
    assert Reason.UNKNOWN_KEY in GUESSES
    assert GUESSES.isdisjoint({Reason.NO_CREDENTIAL, Reason.EXPIRED, Reason.RIGHT_TOO_SMALL})


def test_no_digest_is_shown() -> None:
    shown = repr(Allowed(Reason.KEY, KEY)) + repr(Unverified(b"digest-of-it", lambda: KEY))
    assert "digest" not in shown
    assert KEY.digest.hex() not in shown
