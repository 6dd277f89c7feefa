"""What claims grant, and every way in which they can't be judged."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.claims import LEEWAY, LONGEST_NAME, Grant, Terms, granted_by, granted_by_issuer
from rekeyd.access.rights import Reach, Right
from rekeyd.access.token_form import UnjudgeableTokenError
from support.tokens import AUDIENCE, ISSUER

THEIRS = Terms(10, ISSUER, AUDIENCE)
OF_AN_ISSUER = {"iss": ISSUER, "aud": AUDIENCE, "exp": 1000, "access": "r"}


def refusal(claims: dict[str, Any], terms: Terms | None = None) -> str:
    with pytest.raises(UnjudgeableTokenError) as caught:
        granted_by(claims, LEEWAY) if terms is None else granted_by_issuer(claims, terms)
    return str(caught.value).removeprefix("the token")


def entry(collection: object = "books", access: object = "r", **members: Any) -> dict[str, Any]:
    return {"collection": collection, "access": access, **members}


@pytest.mark.parametrize(
    ("claims", "right"), [({}, Right.MANAGE), ({"access": "m"}, Right.MANAGE), ({"access": "r"}, Right.READ)]
)
def test_access_to_everything(claims: dict[str, Any], right: Right) -> None:
    grant = granted_by(claims, LEEWAY)
    assert (grant.right, grant.limits.collections) == (right, None)


@pytest.mark.parametrize(
    ("word", "reach", "right"),
    [("r", Reach.READ, Right.READ), ("prw", Reach.POINTS, Right.WRITE), ("rw", Reach.WRITE, Right.WRITE)],
)
def test_access_to_a_collection(word: str, reach: Reach, right: Right) -> None:
    grant = granted_by({"access": [entry(access=word), entry("films")]}, LEEWAY)
    assert grant.right is right
    assert grant.limits.collections == (("books", reach), ("films", Reach.READ))


def test_access_to_no_collection_is_access_to_none() -> None:
    grant = granted_by({"access": []}, LEEWAY)
    assert (grant.right, grant.limits.collections) == (Right.READ, ())


def test_null_is_as_good_as_absent() -> None:
    claims = dict.fromkeys(("sub", "subject", "exp", "nbf", "iat", "jti", "value_exists"))
    assert granted_by({**claims, "access": [entry(payload=None)]}, LEEWAY) == granted_by(
        {"access": [entry()]}, LEEWAY
    )


def test_times_include_the_leeway() -> None:
    grant = granted_by({"exp": 1000, "nbf": 500.5, "iat": 10**9}, LEEWAY)
    assert (grant.not_before, grant.expires) == (500.5 - LEEWAY, 1000 + LEEWAY)


@pytest.mark.parametrize(
    ("claims", "subject"),
    [({"sub": "a"}, "a"), ({"subject": "b"}, "b"), ({"sub": "a", "subject": "b"}, "b"), ({}, None)],
)
def test_whose_it_is(claims: dict[str, Any], subject: str | None) -> None:
    assert granted_by(claims, LEEWAY).subject == subject


def test_claims_that_are_not_known_are_none_of_ours() -> None:
    assert granted_by({"azp": {"a": [1]}, "iss": 7, "aud": 7}, LEEWAY) == granted_by({}, LEEWAY)


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        (
            {"value_exists": {"collection": "users", "matches": []}},
            "'s claim value_exists can't be judged here",
        ),
        ({"value_exists": False}, "'s claim value_exists can't be judged here"),
        ({"access": None}, "'s claim access is not one that is known"),
        ({"access": "rw"}, "'s claim access is not one that is known"),
        ({"access": "R"}, "'s claim access is not one that is known"),
        ({"access": {"r": 1}}, "'s claim access is not one that is known"),
        ({"access": 1}, "'s claim access is not one that is known"),
        ({"access": ["books"]}, "'s claim access has an entry of a form that is not known"),
        ({"access": [["books", "r"]]}, "'s claim access has an entry of a form that is not known"),
        ({"access": [entry(only="mine")]}, "'s claim access has an entry of a form that is not known"),
        ({"access": [entry(payload={})]}, "'s claim access has a payload filter, which can't be judged here"),
        ({"access": [entry(access="m")]}, "'s claim access has a word that is not known"),
        ({"access": [entry(access=["r"])]}, "'s claim access has a word that is not known"),
        ({"access": [{"collection": "books"}]}, "'s claim access has a word that is not known"),
        ({"access": [{"access": "r"}]}, "'s claim access has a collection whose name can't be one"),
        ({"access": [entry(7)]}, "'s claim access has a collection whose name can't be one"),
        ({"access": [entry("")]}, "'s claim access has a collection whose name can't be one"),
        ({"access": [entry("*")]}, "'s claim access has a collection whose name can't be one"),
        ({"access": [entry("bo*")]}, "'s claim access has a collection whose name can't be one"),
        ({"access": [entry("\ud800")]}, "'s claim access has a collection whose name can't be one"),
        ({"access": [entry("a\nb")]}, "'s claim access has a collection whose name can't be one"),
        (
            {"access": [entry("b" * (LONGEST_NAME + 1))]},
            "'s claim access has a collection whose name can't be one",
        ),
        ({"access": [entry(), entry(access="rw")]}, "'s claim access names a collection twice"),
        ({"exp": "1000"}, "'s claim exp is not a time"),
        ({"exp": True}, "'s claim exp is not a time"),
        ({"exp": [1000]}, "'s claim exp is not a time"),
        ({"nbf": "now"}, "'s claim nbf is not a time"),
        ({"iat": {}}, "'s claim iat is not a time"),
        ({"jti": 7}, "'s claim jti is not a short text"),
        ({"jti": "j" * (LONGEST_NAME + 1)}, "'s claim jti is not a short text"),
        ({"sub": ["a"]}, "'s claim sub is not a short text"),
        ({"subject": "a\r\nX-Evil: b"}, "'s claim subject is not a short text"),
        ({"subject": "\ud800"}, "'s claim subject is not a short text"),
        ({"subject": "\u202eroot"}, "'s claim subject is not a short text"),
        ({"subject": "fine", "sub": 7}, "'s claim sub is not a short text"),
    ],
)
def test_what_can_t_be_judged(claims: dict[str, Any], why: str) -> None:
    assert refusal(claims) == why
    assert refusal({**OF_AN_ISSUER, **claims}, THEIRS) in {why, " lacks the claim access"}


def test_what_an_issuer_s_token_must_say() -> None:
    assert granted_by_issuer({**OF_AN_ISSUER, "aud": ["else", AUDIENCE]}, THEIRS) == Grant(
        Right.READ, granted_by({}, LEEWAY).limits, None, 1010, None, None
    )


@pytest.mark.parametrize(
    ("claims", "why"),
    [
        ({"iss": "https://issuer.test"}, " is not from the issuer that is believed here"),
        ({"iss": None}, " is not from the issuer that is believed here"),
        ({"iss": [ISSUER]}, " is not from the issuer that is believed here"),
        ({"aud": None}, " is meant for another audience"),
        ({"aud": []}, " is meant for another audience"),
        ({"aud": "else"}, " is meant for another audience"),
        ({"aud": AUDIENCE.upper()}, " is meant for another audience"),
        ({"aud": [[AUDIENCE]]}, " is meant for another audience"),
        ({"aud": {AUDIENCE: 1}}, " is meant for another audience"),
        ({"aud": [AUDIENCE, 7]}, " is meant for another audience"),
        ({"exp": None}, " lacks the claim exp"),
        ({"access": None}, " lacks the claim access"),
    ],
)
def test_what_is_not_meant_for_us(claims: dict[str, Any], why: str) -> None:
    assert refusal({**OF_AN_ISSUER, **claims}, THEIRS) == why
    without = {name: value for name, value in OF_AN_ISSUER.items() if name not in claims}
    assert refusal(without, THEIRS)


ANYTHING = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**30), 10**30)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
    | st.sampled_from(["r", "m", "rw", "prw", "books"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["collection", "access", "payload", "else"]), inner)
    ),
)
NAMES = st.sampled_from(
    ["access", "exp", "nbf", "iat", "jti", "sub", "subject", "value_exists", "iss", "aud", "x"]
)


@given(st.dictionaries(NAMES, ANYTHING), st.booleans())
def test_any_claims_grant_something_or_can_t_be_judged(claims: dict[str, Any], ours: bool) -> None:
    try:
        grant = granted_by(claims, LEEWAY) if ours else granted_by_issuer(claims, THEIRS)
    except UnjudgeableTokenError:
        return
    if grant.limits.collections is not None:
        assert all(name.encode() and "*" not in name for name, _ in grant.limits.collections)
        assert grant.right < Right.MANAGE


@pytest.mark.parametrize("terms", [Terms(), Terms(issuer=ISSUER), Terms(audience=AUDIENCE)])
@pytest.mark.parametrize("without", ["iss", "aud", "nothing"])
def test_without_an_issuer_and_an_audience_nobody_s_token_is_meant_for_us(terms: Terms, without: str) -> None:
    claims = {name: value for name, value in OF_AN_ISSUER.items() if name != without}
    assert refusal(claims, terms)
