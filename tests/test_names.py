"""Names: who asks for what gets which certificates."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.trust.certificates import Material
from rekeyd.trust.names import choose, covered, index
from support.generations import material_of
from support.pki import Authority, KeyKind, make_key

CA = Authority()
KEYS = {kind: make_key(kind) for kind in ("p256", "rsa2048", "ed25519")}


def a_certificate(*names: str, key: KeyKind = "p256") -> Material:
    return material_of(CA.issue(*names, key=KEYS[key]))


DEFAULT = a_certificate("default.example")
A = a_certificate("a.example.org")
A_RSA = a_certificate("a.example.org", key="rsa2048")
WILD = a_certificate("*.example.org")
ALL = (DEFAULT, WILD, A)


def test_an_exact_name_goes_before_a_wildcard_whatever_their_order() -> None:
    assert choose(ALL, "a.example.org") == (A,)
    assert choose((DEFAULT, A, WILD), "a.example.org") == (A,)


@pytest.mark.parametrize(
    "name", ["b.example.org", "B.EXAMPLE.ORG", "b.example.org.", "xn--mnchen-3ya.example.org"]
)
def test_a_wildcard_covers_any_one_label(name: str) -> None:
    assert choose(ALL, name) == (WILD,)


@pytest.mark.parametrize("name", ["b.c.example.org", "example.org", ".example.org", "badexample.org", "org"])
def test_a_wildcard_covers_no_more_and_no_less_than_one_label(name: str) -> None:
    assert choose(ALL, name) == (DEFAULT,)
    assert choose(ALL, name, strict=True) == ()


@pytest.mark.parametrize("name", ["A.example.ORG", "a.example.org."])
def test_case_and_a_dot_at_the_end_do_not_matter(name: str) -> None:
    assert choose(ALL, name) == (A,)
    assert choose((DEFAULT, a_certificate("A.Example.org.")), "a.example.org")[0].leaf.dns_names == (
        "A.Example.org.",
    )


@pytest.mark.parametrize("pattern", ["a*.example.org", "*a.example.org", "a.*.example.org", "*.*.org", "*"])
def test_a_star_elsewhere_than_as_the_whole_first_label_means_nothing(pattern: str) -> None:
    assert choose((DEFAULT, a_certificate(pattern)), "aa.example.org", strict=True) == ()


@pytest.mark.parametrize("name", [None, "", "unknown.example"])
def test_who_asks_for_nothing_known_gets_the_default_unless_names_are_strict(name: str | None) -> None:
    assert choose(ALL, name) == (DEFAULT,)
    assert choose(ALL, name, strict=True) == ()


def test_the_default_has_its_names_also_where_they_are_strict() -> None:
    assert choose(ALL, "default.example", strict=True) == (DEFAULT,)


@pytest.mark.parametrize("address", ["10.0.0.1", "::1", "fe80::1"])
def test_an_address_is_no_server_name(address: str) -> None:
    """RFC 6066, 3: not even where a certificate claims it as a DNS name."""
    pair = (DEFAULT, a_certificate("10.0.0.1"), a_certificate("*.0.0.1"))

    assert choose(pair, address) == (DEFAULT,)
    assert choose(pair, address, strict=True) == ()


def test_kinds_of_keys_for_one_name_are_offered_together_ecdsa_first() -> None:
    assert choose((A_RSA, A), "a.example.org") == (A, A_RSA)
    assert choose((DEFAULT, A_RSA, A), "a.example.org") == (A, A_RSA)
    assert choose((A_RSA, A), None) == (A, A_RSA)


def test_the_default_is_joined_only_by_those_with_the_same_names() -> None:
    other = a_certificate("a.example.org", "b.example.org")

    assert choose((A_RSA, other), None) == (A_RSA,)
    assert choose((A_RSA, other), "a.example.org") == (other, A_RSA)
    assert choose((A_RSA, other), "b.example.org") == (other,)


def test_of_two_of_a_kind_the_first_is_taken() -> None:
    again = a_certificate("a.example.org")

    assert choose((DEFAULT, A, again), "a.example.org") == (A,)
    assert choose((DEFAULT, again, A), "a.example.org") == (again,)


def test_without_certificates_there_is_no_choice() -> None:
    assert choose((), "a.example.org") == ()
    assert index(()).default is None


def test_the_same_certificates_are_one_choice_and_each_has_an_example() -> None:
    two_names = a_certificate("b.example.org", "c.example.org")
    names = index((*ALL, two_names))

    assert names.find("b.example.org") is names.find("c.example.org")
    assert list(names.distinct()) == [(DEFAULT,), (A,), (two_names,), (WILD,)]
    examples = dict(names.examples())
    assert set(examples) == {None, "a.example.org", "b.example.org", "rekeyd-probe.example.org"}
    assert all(names.find(name) is choice for name, choice in examples.items())
    strict = dict(names.examples(strict=True))
    assert set(strict) == {"default.example", "a.example.org", "b.example.org", "rekeyd-probe.example.org"}
    assert all(names.find(name, strict=True) is choice for name, choice in strict.items())


def test_what_is_mapped_is_made_once_for_each_choice() -> None:
    two_names = a_certificate("b.example.org", "c.example.org")
    names = index((DEFAULT, two_names)).mapped(lambda choice: [choice])

    assert names.find("b.example.org") is names.find("c.example.org")
    assert names.find(None) == [(DEFAULT,)]
    assert list(names.others()) == [[(two_names,)]]


def test_a_name_that_no_client_could_send_is_passed_over() -> None:
    odd = a_certificate("a b.example.org", "under_score.example.org", f"{'x' * 64}.example.org")

    assert choose((DEFAULT, odd), "under_score.example.org") == (odd,)
    assert [name for name, _ in index((DEFAULT, odd)).examples()] == [None, "under_score.example.org"]


@given(st.text(max_size=300) | st.from_regex(r"[a-z0-9.*-]{0,40}\.example\.org\.?", fullmatch=True))
def test_whatever_is_asked_for_there_is_an_answer(name: str) -> None:
    assert len(choose(ALL, name)) == 1
    assert len(choose(ALL, name, strict=True)) <= 1


def test_a_thousand_certificates_cost_a_handshake_no_more_than_one() -> None:
    """A look-up is some dictionary accesses; a bound that a search through all of them would break."""
    many = index([DEFAULT, *(a_certificate(f"host{n}.example.net") for n in range(1000))])

    began = time.perf_counter()
    for _ in range(10_000):
        many.find("host999.example.net")
    assert time.perf_counter() - began < 1.0


@pytest.mark.parametrize(
    ("name", "is_covered"),
    [
        ("a.example.org", True),
        ("A.example.org", True),
        ("z.example.org", True),
        ("*.example.org", True),
        ("default.example", True),
        ("example.org", False),
        ("a.a.example.org", False),
        ("*.default.example", False),
    ],
)
def test_coverage_is_of_names_and_of_wildcards(name: str, *, is_covered: bool) -> None:
    assert covered(ALL)(name) is is_covered
