"""Whose tokens get in: every way in which one is signed, and every way in which one pretends to be."""

import json
import time
import warnings
from dataclasses import replace
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.admission import Ask, Presented, decide, objection_to
from rekeyd.access.claims import Terms
from rekeyd.access.keys import Credential, KeyRing, digest_of
from rekeyd.access.policy import Policy
from rekeyd.access.rights import Reach, Right
from rekeyd.access.token_keys import read_key_set, signer_of_secret
from rekeyd.access.tokens import NO_TOKENS, TokenRules
from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from support.grounds import Believed
from support.live import measured
from support.tokens import AUDIENCE, ISSUER, Issuer, by_hand, in_an_hour, key_set, part

SECRET = "4f1c0d9e8b7a69584736251403f2e1d0"
OTHER = "e1d04f1c0d9e8b7a69584736251403f2"
HS256 = {"alg": "HS256", "typ": "JWT"}
RSA, EC, ED = Issuer("r"), Issuer("e", "ES256"), Issuer("d", "EdDSA")
THEIRS = Terms(30, ISSUER, AUDIENCE)
STATIC = (signer_of_secret("api_key", SECRET), signer_of_secret("alt_api_key", OTHER))
OURS = TokenRules(STATIC)
POLICY = Policy.of("test", [], [])
Read = Credential | Denied | Unverified | None


def of_issuers(*issuers: Issuer | dict[str, Any], revoked: frozenset[str] = frozenset()) -> TokenRules:
    return TokenRules(read_key_set(key_set(*issuers)).signers, THEIRS, revoked)


ISSUERS = of_issuers(RSA, EC, ED)
BOTH = TokenRules((*STATIC, *ISSUERS.signers), THEIRS)


def ours(secret: str = SECRET, **claims: Any) -> bytes:
    return jwt.encode(claims, secret, algorithm="HS256").encode()


def verified(found: Read) -> Read:
    return found.verify() if isinstance(found, Unverified) else found


def judged(text: str | bytes, rules: TokenRules = BOTH) -> Read:
    return verified(rules.read(text.encode() if isinstance(text, str) else text))


def let_in(text: str | bytes, rules: TokenRules = BOTH) -> Credential:
    found = judged(text, rules)
    assert isinstance(found, Credential), found
    return found


def refused(text: str | bytes, rules: TokenRules = BOTH) -> Reason:
    found = judged(text, rules)
    assert isinstance(found, Denied), found
    return found.reason


# Qdrant's own


def test_a_token_of_ours_is_a_credential_of_the_key_that_signed_it() -> None:
    claims: dict[str, Any] = {"exp": 2000, "nbf": 1000, "access": [{"collection": "books", "access": "prw"}]}
    found = let_in(ours(**claims, jti="id", subject="somebody"), OURS)
    assert (found.id, found.right, found.digest) == ("api_key", Right.WRITE, digest_of(SECRET.encode()))
    assert found.limits.collections == (("books", Reach.POINTS),)
    assert (found.not_before, found.expires) == (970, 2030)
    assert (found.subject, found.token_id, found.is_token, found.named) == ("somebody", "id", True, False)


def test_either_key_signs() -> None:
    assert [let_in(ours(secret), OURS).id for secret in (SECRET, OTHER)] == ["api_key", "alt_api_key"]
    assert refused(ours("an-altogether-different-secret-of-32"), OURS) is Reason.BAD_SIGNATURE


def test_the_leeway_is_a_setting() -> None:
    rules = TokenRules(STATIC, Terms(5))
    found = let_in(ours(exp=2000, nbf=1000), rules)
    assert (found.not_before, found.expires) == (995, 2005)


def test_the_form_that_qdrant_itself_gives_them() -> None:
    """As serde writes Qdrant's `Claims`: options that are none are null."""
    claims = {"sub": None, "exp": in_an_hour(), "access": "r", "value_exists": None}
    assert let_in(by_hand({"typ": "JWT", "alg": "HS256"}, claims, SECRET.encode()), OURS).right is Right.READ


def test_issuer_and_audience_are_none_of_qdrant_s() -> None:
    assert let_in(ours(iss="anybody", aud="anything"), BOTH).right is Right.MANAGE


@pytest.mark.parametrize("kid", ["r", "api_key", 7, None, ["r"]])
def test_a_kid_does_not_matter_to_a_secret(kid: object) -> None:
    assert let_in(by_hand({**HS256, "kid": kid}, {}, SECRET.encode())).id == "api_key"


def test_without_any_signer_nothing_is_a_token() -> None:
    assert NO_TOKENS.read(ours()) is None
    assert NO_TOKENS.read(RSA.token().encode()) is None


def test_what_is_no_token_is_none() -> None:
    assert BOTH.read(b"4f1c0d9e8b7a69584736251403f2e1d0") is None


def test_claims_that_can_t_be_judged_are_told_in_words() -> None:
    found = judged(ours(value_exists={"collection": "a", "matches": []}))
    assert found == Denied(
        Reason.CLAIMS_NOT_JUDGED, "Forbidden: the token's claim value_exists can't be judged here"
    )


# an issuer's


@pytest.mark.parametrize("issuer", [RSA, EC, ED], ids=lambda issuer: issuer.algorithm)
def test_a_token_of_an_issuer_is_verified_later(issuer: Issuer) -> None:
    text = issuer.token(jti="id", sub="somebody", exp=10**10).encode()
    found = BOTH.read(text)
    assert isinstance(found, Unverified)
    assert (found.digest, found.expires) == (digest_of(text), 10**10 + 30)
    credential = found.verify()
    assert isinstance(credential, Credential)
    assert (credential.id, credential.right) == (f"jwks:{issuer.kid}", Right.READ)
    assert (credential.subject, credential.token_id, credential.is_token) == ("somebody", "id", True)
    assert text.decode() not in repr(found)


@pytest.mark.parametrize("issuer", [RSA, EC, ED], ids=lambda issuer: issuer.algorithm)
def test_another_key_of_the_same_name_is_another_key(issuer: Issuer) -> None:
    impostor = Issuer(issuer.kid, issuer.algorithm, name="impostor")
    assert refused(impostor.token()) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("issuer", [RSA, EC, ED], ids=lambda issuer: issuer.algorithm)
def test_any_changed_character_spoils_it(issuer: Issuer) -> None:
    text = issuer.token(exp=10**10, sub="a")
    for place in range(0, len(text), 7):
        changed = text[:place] + ("A" if text[place] != "A" else "B") + text[place + 1 :]
        assert not isinstance(judged(changed), Credential)


def test_the_kid_chooses_and_without_it_a_single_key_does() -> None:
    second = Issuer("second")
    assert let_in(second.token(), of_issuers(RSA, second)).id == "jwks:second"
    assert refused(second.token({"kid": "r"}), of_issuers(RSA, second)) is Reason.BAD_SIGNATURE
    assert refused(RSA.token({"kid": None}), of_issuers(RSA, second)) is Reason.BAD_SIGNATURE
    assert let_in(RSA.token({"kid": None}), of_issuers(RSA, EC)).id == "jwks:r"
    assert let_in(RSA.token({"kid": None}), of_issuers(RSA.jwk(kid=None))).is_token
    assert refused(RSA.token(), of_issuers(RSA.jwk(kid=None))) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("kid", ["unknown", "", "../r", "r\0", "R", " r", "r' OR 1=1", "\ud800", "k" * 2000])
def test_a_kid_that_is_not_there_finds_nothing(kid: str) -> None:
    text = RSA.token().split(".")
    header = part({"alg": "RS256", "kid": kid})
    assert refused(".".join([header, *text[1:]])) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize("kid", [7, ["r"], {"r": 1}, True])
def test_a_kid_that_is_no_text_finds_nothing(kid: object) -> None:
    assert refused(by_hand({"alg": "RS256", "kid": kid}, {})) is Reason.BAD_SIGNATURE


@pytest.mark.parametrize(
    "claims", [{"iss": "else"}, {"aud": "else"}, {"exp": None}, {"access": None}, {"access": "x"}, {"sub": 7}]
)
def test_what_claims_say_is_looked_at_before_any_verification(claims: dict[str, Any]) -> None:
    text = Issuer("r", name="impostor").token(**claims).encode() if "sub" not in claims else None
    found = BOTH.read(text or by_hand({"alg": "RS256", "kid": "r"}, {"iss": ISSUER, "sub": 7}))
    assert isinstance(found, Denied)
    assert found.reason is Reason.CLAIMS_NOT_JUDGED


# confusion of algorithms

PEM = RSA.key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
DER = RSA.key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
PUBLIC = [
    PEM,
    PEM.strip(),
    DER,
    json.dumps(RSA.jwk()).encode(),
    key_set(RSA),
    RSA.jwk()["n"].encode(),
    b"",
    b"r",
]
CLAIMS: dict[str, Any] = {"iss": ISSUER, "aud": AUDIENCE, "exp": 10**10, "access": "m"}


@pytest.mark.parametrize("secret", PUBLIC)
@pytest.mark.parametrize("kid", ["r", None])
@pytest.mark.parametrize("algorithm", ["HS256", "HS384", "HS512", "RS256", "ES256", "EdDSA"])
def test_a_public_key_is_nobody_s_secret(algorithm: str, kid: str | None, secret: bytes) -> None:
    text = by_hand({"alg": algorithm, "kid": kid}, CLAIMS, secret)
    for rules in (ISSUERS, BOTH, OURS):
        assert refused(text, rules) in {Reason.WRONG_ALGORITHM, Reason.BAD_SIGNATURE}


@pytest.mark.parametrize(
    "algorithm", ["none", "None", "NONE", "nOnE", "", " ", "none\0", None, 0, [], ["HS256"], {}]
)
@pytest.mark.parametrize("secret", [None, SECRET.encode(), b""])
def test_a_token_that_is_not_signed_is_refused(algorithm: object, secret: bytes | None) -> None:
    for rules in (ISSUERS, BOTH, OURS):
        assert refused(by_hand({"alg": algorithm}, CLAIMS, secret), rules) is Reason.WRONG_ALGORITHM
    assert refused(by_hand({}, CLAIMS, secret)) is Reason.WRONG_ALGORITHM


@pytest.mark.parametrize(
    "algorithm",
    ["hs256", "HS256 ", "HS384", "HS512", "RS384", "PS256", "ES384", "ES256K", "Ed448", "dir", "A128KW"],
)
def test_no_other_algorithm_is_accepted(algorithm: str) -> None:
    assert refused(by_hand({"alg": algorithm, "kid": "r"}, CLAIMS, SECRET.encode())) is Reason.WRONG_ALGORITHM


def test_ours_are_not_accepted_where_only_an_issuer_is_believed_nor_the_other_way_round() -> None:
    assert refused(ours(**CLAIMS), ISSUERS) is Reason.WRONG_ALGORITHM
    assert refused(RSA.token(), OURS) is Reason.WRONG_ALGORITHM


def test_a_key_of_another_kind_is_not_asked() -> None:
    for issuer in (RSA, EC, ED):
        for algorithm in {"RS256", "ES256", "EdDSA", "Ed25519"} - {issuer.algorithm}:
            text = issuer.token().split(".")
            swapped = ".".join([part({"alg": algorithm, "kid": issuer.kid}), *text[1:]])
            assert refused(swapped) is Reason.BAD_SIGNATURE


def test_both_names_of_ed25519_are_the_same() -> None:
    text = ED.key.sign((signed := f"{part({'alg': 'Ed25519', 'kid': 'd'})}.{part(CLAIMS)}").encode())  # type: ignore[call-arg]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert let_in(f"{signed}.{part(text)}").id == "jwks:d"
        assert let_in(ED.token()).id == "jwks:d"


@pytest.mark.parametrize("member", ["jwk", "jku", "x5u", "x5c", "x5t"])
def test_a_key_that_comes_along_is_not_looked_at(member: str) -> None:
    mine = Issuer("mine", name="impostor")
    value = {"jwk": mine.jwk(), "x5c": ["AAAA"]}.get(member, "https://attacker.test/keys")
    for kid in ("r", "mine", None):
        assert refused(mine.token({member: value, "kid": kid})) is Reason.BAD_SIGNATURE
    assert let_in(RSA.token({member: value})).id == "jwks:r"


def test_an_algorithm_that_is_named_twice_is_not_judged() -> None:
    for header in (b'{"alg":"HS256","alg":"none"}', b'{"alg":"none","alg":"HS256"}'):
        assert refused(by_hand(header, CLAIMS, SECRET.encode())) is Reason.CLAIMS_NOT_JUDGED


def test_the_other_signature_that_ecdsa_allows_makes_no_other_token() -> None:
    """(r, n - s) verifies as well; whoever writes it down changes nothing that is signed."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    text = EC.token(sub="somebody", jti="id")
    signed, _, signature = text.rpartition(".")
    raw = jwt.utils.base64url_decode(signature)
    r, s = int.from_bytes(raw[:32]), int.from_bytes(raw[32:])
    other = f"{signed}.{part(r.to_bytes(32) + (order - s).to_bytes(32))}"
    assert let_in(other) == let_in(text)
    revoking = of_issuers(EC, revoked=frozenset({"id"}))
    assert refused(other, revoking) is refused(text, revoking) is Reason.TOKEN_REVOKED
    der = encode_dss_signature(r, s)
    assert decode_dss_signature(der) == (r, s)
    assert refused(f"{signed}.{part(der)}") is Reason.BAD_SIGNATURE
    assert refused(f"{signed}.{part(bytes(64))}") is Reason.BAD_SIGNATURE


# revoked, upheld


@pytest.mark.parametrize("text", [ours(jti="gone"), RSA.token(jti="gone").encode()])
def test_a_revoked_token_is_refused_whoever_signed_it(text: bytes) -> None:
    rules = replace(BOTH, revoked=frozenset({"gone"}))
    found = judged(text, rules)
    assert isinstance(found, Denied)
    assert (found.reason, found.message) == (Reason.TOKEN_REVOKED, "Forbidden: the token was revoked")
    assert found.credential == let_in(text)
    assert found.key_id is not None


def test_a_forged_token_does_not_learn_that_it_was_revoked() -> None:
    rules = replace(BOTH, revoked=frozenset({"gone"}))
    assert refused(ours(OTHER[::-1], jti="gone"), rules) is Reason.BAD_SIGNATURE


def test_what_was_accepted_is_upheld_while_its_key_is_there_and_its_id_is_not_revoked() -> None:
    for text in (ours(jti="id"), RSA.token(jti="id").encode()):
        credential = let_in(text)
        assert BOTH.upholds(credential)
        assert not replace(BOTH, revoked=frozenset({"id"})).upholds(credential)
        assert replace(BOTH, revoked=frozenset({"other"})).upholds(credential)
        assert not NO_TOKENS.upholds(credential)
    assert not OURS.upholds(let_in(RSA.token()))
    assert not ISSUERS.upholds(let_in(ours()))
    assert not TokenRules(STATIC[1:]).upholds(let_in(ours()))


def test_a_key_that_moves_on_to_alt_api_key_still_upholds_its_tokens() -> None:
    rules = TokenRules((signer_of_secret("api_key", OTHER[::-1]), signer_of_secret("alt_api_key", SECRET)))
    assert rules.upholds(let_in(ours()))
    assert let_in(ours(), rules).id == "alt_api_key"


def test_a_key_that_is_bound_to_another_audience_upholds_nothing() -> None:
    (signer,) = read_key_set(key_set(RSA)).signers
    before = TokenRules((signer.bound_to(ISSUER, AUDIENCE),), THEIRS)
    after = TokenRules((signer.bound_to(ISSUER, "else"),), replace(THEIRS, audience="else"))
    assert before.upholds(let_in(RSA.token(), before))
    assert not after.upholds(let_in(RSA.token(), before))


# the rules as a value


def test_rules_are_the_same_where_all_that_they_hold_is() -> None:
    assert of_issuers(RSA) == of_issuers(RSA)
    assert hash(of_issuers(RSA)) == hash(of_issuers(RSA))
    assert TokenRules((signer_of_secret("api_key", SECRET),)) == TokenRules(STATIC[:1])
    others = [
        of_issuers(EC),
        of_issuers(RSA, EC),
        of_issuers(RSA.jwk(kid="x")),
        of_issuers(RSA, revoked=frozenset({"id"})),
        replace(of_issuers(RSA), terms=Terms(31, ISSUER, AUDIENCE)),
        NO_TOKENS,
        "rules",
    ]
    assert all(other != of_issuers(RSA) for other in others)


def test_rules_tell_no_secret() -> None:
    told = repr(BOTH)
    assert SECRET not in told
    assert digest_of(SECRET.encode()).hex() not in told
    assert "api_key" in told


def test_rules_know_whose_tokens_they_accept() -> None:
    assert all(BOTH.knows(key_id) for key_id in ("api_key", "alt_api_key", "jwks:r", "jwks:e"))
    assert not any(BOTH.knows(key_id) for key_id in ("read_only_api_key", "r", "jwks:x", ""))


# with the decision


def ask(text: bytes) -> Ask:
    return Ask(b"GET", b"/collections", Presented(api_keys=(text,)))


def decided(text: bytes, now: float) -> Reason:
    grounds = Believed(KeyRing(()), POLICY, BOTH)
    verdict = decide(ask(text), grounds, now, {})
    if isinstance(verdict, Unverified):
        verdict = decide(ask(text), grounds, now, {verdict.digest: verdict.verify()})
    assert isinstance(verdict, Allowed | Denied)
    return verdict.reason


@pytest.mark.parametrize("maker", [ours, RSA.token], ids=["ours", "an issuer's"])
def test_a_token_is_valid_from_its_beginning_to_its_end_give_or_take_the_leeway(maker: Any) -> None:
    made = maker(exp=2000, nbf=1000, access="m")
    text = made if isinstance(made, bytes) else made.encode()
    moments = {969: Reason.NOT_YET_VALID, 970: Reason.TOKEN, 2029: Reason.TOKEN, 2030: Reason.EXPIRED}
    assert {now: decided(text, now) for now in moments} == moments


def test_an_expired_token_of_an_issuer_is_not_verified() -> None:
    verdict = decide(ask(RSA.token(exp=1000).encode()), Believed(KeyRing(()), POLICY, BOTH), 1031, {})
    assert isinstance(verdict, Denied)
    assert (verdict.reason, verdict.credential) == (Reason.EXPIRED, None)


def test_why_a_running_request_has_to_end_is_told() -> None:
    text = ours(jti="id", exp=2000)
    credential = let_in(text)

    def objection(rules: TokenRules, now: float = 0) -> str | None:
        return objection_to(ask(text), credential, Believed(KeyRing(()), POLICY, rules), now)

    assert objection(BOTH) is None
    assert objection(ISSUERS) == "token of api_key is not accepted any more"
    assert objection(BOTH, 2030) == "token of api_key is not enough any more: expired"


# anything


@given(st.binary(max_size=400) | st.text().map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_input_raises(text: bytes) -> None:
    assert not isinstance(judged(text), Credential)


HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["HS256", "RS256", "ES256", "EdDSA", "none", None, 7])},
    optional={"kid": st.sampled_from(["r", "e", "d", "", None, 7]) | st.text(), "crit": st.just(["exp"])},
)
CLAIM = st.none() | st.integers() | st.text() | st.booleans() | st.sampled_from(["r", "m", ISSUER, AUDIENCE])
CLAIM_NAMES = st.sampled_from(["iss", "aud", "exp", "access", "sub", "jti"])


@given(HEADERS, st.dictionaries(CLAIM_NAMES, CLAIM), st.binary(max_size=80))
def test_nothing_that_is_not_signed_gets_in(header: Any, claims: Any, signature: bytes) -> None:
    found = judged(by_hand(header, {**CLAIMS, **claims}, signature=signature))
    assert found is None or isinstance(found, Denied)


@given(st.dictionaries(CLAIM_NAMES, CLAIM))
def test_what_is_signed_gets_in_as_far_as_its_claims_say(claims: dict[str, Any]) -> None:
    found = judged(by_hand(HS256, claims, SECRET.encode()))
    if isinstance(found, Credential):
        assert found.right is (Right.READ if claims.get("access") == "r" else Right.MANAGE)
        assert "access" not in claims or claims["access"] in {"r", "m"}
    else:
        assert isinstance(found, Denied)
        assert found.reason is Reason.CLAIMS_NOT_JUDGED


def test_what_a_token_costs() -> None:
    """Told, not asserted: `pytest -o log_cli=true --log-cli-level=INFO` shows it."""
    for issuer in (None, RSA, EC, ED):
        text = ours(exp=10**10) if issuer is None else issuer.token(exp=10**10).encode()
        began = time.perf_counter()
        for _ in range(200):
            let_in(text)
        name = "HS256" if issuer is None else issuer.algorithm
        measured(f"µs for a token, {name}", round((time.perf_counter() - began) / 200 * 1e6))
