"""Which keys vouch for tokens: static secrets, and what is in the key set of an issuer."""

import hashlib
import json
import warnings
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa, x25519
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.keys import digest_of
from rekeyd.access.token_keys import MOST_KEYS, Signer, read_key_set, sign, signer_of_secret
from rekeyd.formats.pem import MaterialError
from support.tokens import Issuer, by_hand, key_set

SECRET = "4f1c0d9e8b7a69584736251403f2e1d0"
RSA, EC, ED = Issuer("r"), Issuer("e", "ES256"), Issuer("d", "EdDSA")
ALL = (RSA, EC, ED)


def only(source: bytes) -> Signer:
    (signer,) = read_key_set(source).signers
    return signer


def fault(source: bytes) -> MaterialError:
    with pytest.raises(MaterialError) as caught:
        read_key_set(source)
    assert caught.value.fix
    return caught.value


def has_signed(signer: Signer, token: str, algorithm: str) -> bool:
    signed, _, signature = token.rpartition(".")
    return signer.signed(signed.encode(), jwt.utils.base64url_decode(signature), algorithm)


# a static secret


def test_a_secret_verifies_hs256_and_nothing_else() -> None:
    signer = signer_of_secret("api_key", SECRET)
    token = jwt.encode({"sub": "a"}, SECRET, algorithm="HS256")
    assert has_signed(signer, token, "HS256")
    assert not has_signed(signer, token, "HS512")
    assert not has_signed(signer, token, "RS256")
    assert not has_signed(signer, jwt.encode({"sub": "a"}, SECRET[::-1], algorithm="HS256"), "HS256")
    assert signer.digest == digest_of(SECRET.encode())


def test_what_it_signs_others_can_read() -> None:
    token = sign(signer_of_secret("api_key", SECRET), {"access": "r", "subject": "Jürgen"})
    assert jwt.decode(token, SECRET, algorithms=["HS256"]) == {"access": "r", "subject": "Jürgen"}
    assert jwt.get_unverified_header(token) == {"alg": "HS256", "typ": "JWT"}


@pytest.mark.parametrize(
    "secret", ["k", "short", "ssh-rsa AAAA", "-----BEGIN PUBLIC KEY-----", '{"kty":"oct"}']
)
def test_no_secret_makes_a_library_speak(secret: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        signer = signer_of_secret("api_key", secret)
        token = sign(signer, {})
        assert has_signed(signer, token, "HS256")


def test_a_signer_tells_neither_its_key_nor_its_digest() -> None:
    signer = signer_of_secret("api_key", SECRET)
    assert repr(signer) == "Signer(id='api_key', algorithms=('HS256',), kid=None)"


# an issuer's keys


@pytest.mark.parametrize(
    ("issuer", "algorithms"),
    [(RSA, ("RS256",)), (EC, ("ES256",)), (ED, ("EdDSA", "Ed25519"))],
    ids=["RSA", "EC", "OKP"],
)
def test_a_public_key_verifies_its_own_algorithm(issuer: Issuer, algorithms: tuple[str, ...]) -> None:
    signer = only(key_set(issuer))
    assert (signer.id, signer.kid, signer.algorithms) == (f"jwks:{issuer.kid}", issuer.kid, algorithms)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for algorithm in ("HS256", "RS256", "ES256", "EdDSA", "Ed25519", "none", ""):
            assert has_signed(signer, issuer.token(), algorithm) == (algorithm in algorithms)
    assert not has_signed(signer, Issuer("other", issuer.algorithm).token(), algorithms[0])


@pytest.mark.parametrize("issuer", ALL, ids=lambda issuer: issuer.algorithm)
@given(signature=st.binary(max_size=300))
def test_no_signature_is_too_strange_to_be_refused(issuer: Issuer, signature: bytes) -> None:
    signer = only(key_set(issuer))
    assert not signer.signed(b"header.claims", signature, signer.algorithms[0])


def test_its_digest_is_the_thumbprint_whatever_the_set_says_of_it() -> None:
    plain = only(key_set(RSA))
    said = only(key_set(RSA.jwk(alg="RS256", use="sig", x5t="x", kid="another")))
    members = {name: RSA.jwk()[name] for name in ("e", "kty", "n")}
    thumbprint = hashlib.sha256(json.dumps(members, separators=(",", ":")).encode()).digest()
    assert plain.digest == said.digest == digest_of(jwt.utils.base64url_encode(thumbprint))


def test_another_condition_makes_it_another_signer() -> None:
    signer = only(key_set(RSA))
    assert signer.bound_to("a", "b") == signer.bound_to("a", "b")
    digests = {signer.bound_to(*each).digest for each in (("a", "b"), ("ab", ""), ("a", "c"), ("b", "a"))}
    assert len(digests) == 4


def test_a_key_without_a_name_is_called_by_its_thumbprint() -> None:
    signer = only(key_set(Issuer(None)))
    assert signer.kid is None
    assert len(signer.id) == len("jwks:") + 43


@pytest.mark.parametrize("kid", ["", "k" * 129, "a\nb", "ключ", " a ", "\ud800"])
def test_a_name_that_a_log_can_t_have_chooses_the_key_all_the_same(kid: str) -> None:
    signer = only(key_set(RSA.jwk(kid=kid)))
    assert signer.kid == kid
    assert signer.id.isascii()
    assert len(signer.id) == len("jwks:") + 43


def other_jwk(key: Any, algorithm: str) -> dict[str, Any]:
    return dict(jwt.get_algorithm_by_name(algorithm).to_jwk(key.public_key(), as_dict=True))


@pytest.mark.parametrize(
    "jwk",
    [
        RSA.jwk(key_ops=["encrypt"]),
        RSA.jwk(key_ops="verify!"),
        RSA.jwk(alg="RS384"),
        RSA.jwk(alg="PS256"),
        RSA.jwk(alg="RSA-OAEP"),
        RSA.jwk(alg="HS256"),
        RSA.jwk(alg="EdDSA"),
        RSA.jwk(alg=["RS256"]),
        RSA.jwk(use=["sig"]),
        EC.jwk(alg="ES384"),
        ED.jwk(alg="RS256"),
        other_jwk(ec.generate_private_key(ec.SECP384R1()), "ES384"),
        other_jwk(ed448.Ed448PrivateKey.generate(), "EdDSA"),
        {"kty": "OKP", "crv": "X25519", "x": "AAAA"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
        {"kty": ["RSA"]},
        {},
    ],
    ids=lambda jwk: "-".join(
        f"{jwk[name]}" for name in ("kty", "crv", "alg", "use", "key_ops") if name in jwk
    ),
)
def test_a_key_for_something_else_is_passed_over_and_named(jwk: dict[str, Any]) -> None:
    found = read_key_set(key_set(Issuer("good"), {**jwk, "kid": "odd"}))
    assert [signer.id for signer in found.signers] == ["jwks:good"]
    assert found.passed_over == ("key 2 (odd)",)
    assert fault(key_set(jwk)).reason == "no_usable_key"


@pytest.mark.parametrize("jwk", [RSA.jwk(alg="RS256"), RSA.jwk(use="sig"), RSA.jwk(key_ops=["verify"])])
def test_a_key_that_says_what_it_is_for_is_used_for_that(jwk: dict[str, Any]) -> None:
    assert only(key_set(jwk)).algorithms == ("RS256",)


def private(issuer: Issuer) -> dict[str, Any]:
    return dict(jwt.get_algorithm_by_name(issuer.algorithm).to_jwk(issuer.key, as_dict=True))


@pytest.mark.parametrize("issuer", ALL, ids=lambda issuer: issuer.algorithm)
def test_a_private_key_is_not_taken(issuer: Issuer) -> None:
    found = fault(key_set(Issuer("good"), private(issuer)))
    assert found.reason == "private_key"
    assert "private key" in found.message
    for value in private(issuer).values():
        assert len(value) < 10 or str(value) not in str(found)


def test_nor_is_one_that_is_for_something_else() -> None:
    assert fault(key_set(Issuer("good"), {**private(RSA), "use": "enc"})).reason == "private_key"


@pytest.mark.parametrize(
    "jwk", [{"kty": "oct", "k": "c2VjcmV0LXNlY3JldA"}, {"kty": "oct"}, RSA.jwk(k="AAAA")]
)
def test_a_secret_is_not_taken(jwk: dict[str, Any]) -> None:
    found = fault(key_set(Issuer("good"), jwk))
    assert found.reason == "secret_key"
    assert "c2Vjc" not in str(found)


@pytest.mark.parametrize(("bits", "good"), [(1024, False), (2047, False), (2048, True)])
def test_an_rsa_key_has_2048_bits(bits: int, good: bool) -> None:
    source = key_set(other_jwk(rsa.generate_private_key(65537, bits), "RS256"))
    if good:
        assert read_key_set(source).signers
    else:
        assert fault(source).message.endswith(f"is an RSA key of {bits} bits")


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (key_set(*ALL)[:-20], "unparsable"),
        (b"\xff\xfe", "unparsable"),
        (b"-----BEGIN PUBLIC KEY-----", "unparsable"),
        (b"[]", "unparsable"),
        (b"{}", "unparsable"),
        (json.dumps(RSA.jwk()).encode(), "unparsable"),
        (b'{"keys": {}}', "unparsable"),
        (b'{"keys": ["a"]}', "unparsable"),
        (b'{"keys": []}', "no_usable_key"),
        (b'{"keys": [], "keys": []}', "ambiguous"),
        (key_set(RSA.jwk(n=None)), "unparsable"),
        (key_set(RSA.jwk(n="!")), "unparsable"),
        (key_set(RSA.jwk(n=7)), "unparsable"),
        (key_set(RSA.jwk(n="")), "weak_key"),
        (key_set(RSA.jwk(e="AA")), "unparsable"),
        (key_set(RSA.jwk(e="AQ")), "unparsable"),
        (key_set(EC.jwk(x=EC.jwk()["y"])), "unparsable"),
        (key_set(EC.jwk(y="AAAA")), "unparsable"),
        (key_set(ED.jwk(x="AAAA")), "unparsable"),
        (key_set(RSA.jwk(kid=7)), "unparsable"),
        (key_set(RSA, Issuer("r", name="second")), "kid_twice"),
        (key_set(RSA, EC.jwk(kid="r")), "kid_twice"),
        (key_set(RSA.jwk(kid=None), RSA.jwk(kid=None)), "kid_twice"),
        (key_set(*[{"kid": str(n)} for n in range(MOST_KEYS + 1)]), "too_many_keys"),
    ],
)
def test_a_set_that_can_t_be_used_is_refused_whole(source: bytes, reason: str) -> None:
    assert fault(source).reason == reason


def test_several_keys_are_used_beside_one_another() -> None:
    assert [signer.id for signer in read_key_set(key_set(*ALL)).signers] == ["jwks:r", "jwks:e", "jwks:d"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
)
MEMBERS = st.sampled_from(["kty", "crv", "n", "e", "x", "y", "kid", "use", "key_ops", "alg", "d", "k"])


@given(
    st.binary()
    | st.lists(st.dictionaries(MEMBERS, JSON), max_size=3).map(
        lambda keys: json.dumps({"keys": keys}).encode()
    )
    | st.dictionaries(MEMBERS, JSON).map(
        lambda changed: json.dumps({"keys": [{**RSA.jwk(), **changed}]}).encode()
    )
)
def test_whatever_a_set_holds_it_is_taken_or_refused(source: bytes) -> None:
    try:
        found = read_key_set(source)
    except MaterialError:
        return
    assert found.signers


def test_a_key_for_encryption_is_passed_over_without_a_word() -> None:
    found = read_key_set(key_set(RSA, Issuer("enc").jwk(use="enc")))
    assert ([signer.id for signer in found.signers], found.passed_over) == (["jwks:r"], ())


def test_a_key_exchange_key_is_no_key_of_ours() -> None:
    key = x25519.X25519PrivateKey.generate().public_key().public_bytes_raw()
    jwk = {"kty": "OKP", "crv": "X25519", "x": jwt.utils.base64url_encode(key).decode()}
    assert read_key_set(key_set(RSA, jwk)).passed_over == ("key 2",)


def test_a_token_by_hand_is_verified_like_any_other() -> None:
    signer = signer_of_secret("api_key", SECRET)
    assert has_signed(signer, by_hand({"alg": "HS256"}, {}, SECRET.encode()).decode(), "HS256")
