"""Succession: which certificate took the place of which."""

from rekeyd.trust.certificates import Material
from rekeyd.trust.succession import succession
from support.generations import material_of
from support.pki import Authority, KeyKind, make_key

CA = Authority()
KEYS = {kind: make_key(kind) for kind in ("p256", "rsa2048")}


def certificate(*names: str, key: KeyKind = "p256") -> Material:
    return material_of(CA.issue(*names, key=KEYS[key]))


A, B = certificate("a.example"), certificate("b.example")


def test_what_stays_follows_itself_wherever_it_stands() -> None:
    followed = succession([A, B], [B, A])

    assert followed.predecessors == (B, A)
    assert followed.ended == ()


def test_a_renewed_certificate_follows_the_one_with_its_names() -> None:
    renewed = certificate("b.example")

    assert succession([A, B], [A, renewed]).predecessors == (A, B)
    assert succession([B, A], [A, renewed]).predecessors == (A, B)


def test_more_names_in_common_count_for_more() -> None:
    old = [certificate("x.example", "y.example", "z.example"), certificate("x.example")]
    new = [certificate("X.example"), certificate("x.example", "y.example")]

    assert succession(old, new).predecessors == (old[1], old[0])


def test_the_same_kind_of_key_goes_before_the_same_names() -> None:
    ecdsa, rsa = certificate("a.example"), certificate("a.example", key="rsa2048")
    new = [certificate("a.example", key="rsa2048"), certificate("a.example")]

    assert succession([ecdsa, rsa], new).predecessors == (rsa, ecdsa)


def test_another_kind_of_key_may_follow_where_there_is_no_other() -> None:
    assert succession([A], [rsa := certificate("a.example", key="rsa2048")]).predecessors == (A,)
    assert succession([A, B], [A, B, rsa]).predecessors == (A, B, None)


def test_what_was_alone_on_both_sides_belongs_together() -> None:
    other = certificate("other.example")

    assert succession([A], [other]).predecessors == (A,)
    assert succession([A, B], [other, B]).predecessors == (A, B)
    two = succession([A], [other, certificate("another.example")])
    assert (two.predecessors, two.ended) == ((None, None), (A,))


def test_nobody_succeeds_twice() -> None:
    followed = succession([A], [certificate("a.example"), certificate("a.example")])

    assert followed.predecessors == (A, None)


def test_at_start_and_at_the_end_there_is_nobody() -> None:
    assert succession([], [A, B]).predecessors == (None, None)
    assert succession([A, B], []).ended == (A, B)
