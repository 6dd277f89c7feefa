"""What has the form of a token, and what only looks like one."""

import json
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rekeyd.access.token_form import LARGEST, Token, UnjudgeableTokenError, read_token
from support.tokens import by_hand, part

HEADER = {"alg": "HS256", "typ": "JWT"}


def read(text: bytes) -> Token:
    token = read_token(text)
    assert token is not None
    return token


def test_a_token_has_a_header_claims_and_a_signature_over_both() -> None:
    text = by_hand({**HEADER, "kid": "a"}, {"sub": "somebody"}, signature=b"sig")
    token = read(text)
    assert (token.algorithm, token.header["kid"], dict(token.claims)) == ("HS256", "a", {"sub": "somebody"})
    assert token.signed + b"." + part(b"sig").encode() == text
    assert token.signature == b"sig"


def test_without_a_signature_it_is_a_token_still() -> None:
    assert read(by_hand({"alg": "none"}, {})).signature == b""


@pytest.mark.parametrize("algorithm", [None, 1, ["HS256"], {"HS256": 1}, True])
def test_an_algorithm_that_is_no_text_is_none(algorithm: object) -> None:
    assert read(by_hand({"alg": algorithm}, {})).algorithm is None


@pytest.mark.parametrize("typ", ["JWT", "jwt", "at+jwt", "", 7, None])
def test_its_type_is_nobody_s_business(typ: object) -> None:
    assert read(by_hand({"alg": "HS256", "typ": typ}, {})).algorithm == "HS256"


def text_of(*parts: str) -> bytes:
    return ".".join(parts).encode()


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"..",
        b"4f1c0d9e8b7a69584736251403f2e1d0",
        text_of(part(HEADER), part({})),
        text_of(part(HEADER), part({}), part(b"s"), part(b"s")),
        text_of(part(HEADER) + "=", part({}), part(b"s")),
        text_of(part(HEADER), part({}), "+/+/"),
        text_of(part(HEADER), part({}), "AB"),
        text_of(part(HEADER), part({}), "A"),
        text_of(part(HEADER), part({}), part(b"s")) + b"\n",
        b" " + text_of(part(HEADER), part({}), part(b"s")),
        text_of(part([]), part({}), part(b"s")),
        text_of(part(HEADER), part("claims"), part(b"s")),
        text_of(part(b"{"), part({}), part(b"s")),
        text_of(part(HEADER), part(b"no JSON"), part(b"s")),
        text_of(part(HEADER), part(b"\xff{}"), part(b"s")),
        "токен.токен.токен".encode(),
        by_hand(HEADER, {"a": "x" * LARGEST}, b"secret"),
    ],
)
def test_what_is_no_token(text: bytes) -> None:
    assert read_token(text) is None


def test_the_last_bits_of_a_part_can_be_written_in_one_way_only() -> None:
    assert read(text_of(part(HEADER), part({}), "AA")).signature == b"\0"
    assert all(read_token(text_of(part(HEADER), part({}), f"A{bits}")) is None for bits in "BCDEFGHIJKLMNOP")


@pytest.mark.parametrize(
    ("header", "claims", "why"),
    [
        ({**HEADER, "crit": ["exp"]}, {}, "asks for an extension that is not known"),
        ({**HEADER, "crit": []}, {}, "asks for an extension that is not known"),
        ({**HEADER, "crit": None}, {}, "asks for an extension that is not known"),
        ({**HEADER, "b64": False}, {}, "asks for an extension that is not known"),
        (b'{"alg":"HS256","alg":"none"}', {}, "has a member twice"),
        (b'{"alg":"none","\\u0061lg":"HS256"}', {}, "has a member twice"),
        (HEADER, b'{"access":"r","access":"m"}', "has a member twice"),
        (HEADER, b'{"exp":1e999}', "has a number that is not finite"),
        (HEADER, b'{"exp":NaN}', "has a number that is not finite"),
        (HEADER, b'{"exp":' + b"9" * 400 + b"}", "has a number that is too long"),
        (HEADER, b'{"a":' + b"[" * 2000 + b"]" * 2000 + b"}", "nests too deeply"),
    ],
)
def test_what_can_t_be_judged(header: Any, claims: Any, why: str) -> None:
    with pytest.raises(UnjudgeableTokenError) as caught:
        read_token(by_hand(header, claims, b"secret"))
    assert str(caught.value) == f"the token {why}"


@given(
    st.binary(max_size=300)
    | st.from_regex(rb"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]*", fullmatch=True)
)
@example(b"." * LARGEST)
def test_any_bytes_are_a_token_or_none_or_can_t_be_judged(text: bytes) -> None:
    try:
        token = read_token(text)
    except UnjudgeableTokenError:
        return
    assert token is None or text.startswith(token.signed + b".")


NUMBERS = st.integers(-(10**18), 10**18)


@given(st.dictionaries(st.text(), NUMBERS | st.text() | st.none() | st.lists(st.text())))
def test_what_a_program_makes_is_read_as_it_was_meant(claims: dict[str, Any]) -> None:
    text = by_hand(HEADER, json.dumps(claims).encode(), b"secret")
    token = read_token(text)
    assert token is None if len(text) > LARGEST else dict(read(text).claims) == claims
