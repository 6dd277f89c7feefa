"""Verdicts: what they hold is for the upstream or the client, and not for whoever prints them."""

from rekeyd.http2.fields import encoded
from rekeyd.http2.handling import Admit, Deny


def test_what_goes_to_the_upstream_is_not_shown() -> None:
    admit = Admit(encoded([(b"api-key", b"the-upstreams-own")]))
    assert b"the-upstreams-own" in admit.literals
    assert "the-upstreams-own" not in repr(admit)


def test_a_denial_is_a_status_and_words() -> None:
    assert Deny(16, "no") == Deny(16, "no", ())
