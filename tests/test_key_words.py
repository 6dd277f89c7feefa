"""A key in a few words."""

import datetime as dt
import ipaddress

from rekeyd.access.key_words import by_id, last_expiry, may
from rekeyd.access.keys import Credential
from rekeyd.access.rights import Limits, Reach, Right

BOOKS = tuple((f"c{n}", Reach.READ) for n in range(5))


def key(key_id: str = "a", limits: Limits | None = None, expires: float | None = None) -> Credential:
    return Credential(key_id, Right.READ, b"", limits or Limits(), expires=expires)


def test_what_a_key_may_do_is_its_right_or_its_collections_and_what_narrows_it() -> None:
    assert may(key()) == "read"
    limits = Limits(BOOKS, (b"/a",), (ipaddress.ip_network("10.0.0.0/8"),), 0.5)
    assert may(key(limits=limits)) == "c0=read,c1=read,c2=read,+2 below /a from 10.0.0.0/8 0.5/s"


def test_a_key_ends_with_its_last_secret() -> None:
    assert last_expiry([key(expires=5.0), key(expires=7.0)]) == dt.datetime.fromtimestamp(7, dt.UTC)
    assert last_expiry([key(expires=5.0), key()]) is None


def test_secrets_of_one_key_belong_together() -> None:
    first, second, third = key("a"), key("b"), key("a", expires=1.0)
    assert by_id([first, second, third]) == {"a": (first, third), "b": (second,)}
