"""The keys that vouch for tokens: our own static secrets (HS256), and the public keys of an issuer (JWKS).

The rules. Each key has the algorithms for which it may be used, and is never used for another: a secret
verifies HS256 and nothing else, a public key never does. So a token can't choose how it is verified. A key
set (RFC 7517, 5) is taken whole or not at all: one that is torn, names a key twice, or holds a secret or a
private key is refused, and so is an RSA key below 2048 bits. Keys that are for something else (`use`,
`key_ops`, `alg`, a type that is not known) are passed over, as RFC 7517 asks, and named, so that an operator
is told; but for keys for encryption, of which many issuers have one.

Must not know: files, tokens, or what a token may do.
"""

import base64
import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from joserfc.errors import JoseError
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey, import_key
from joserfc.jws import JWSRegistry, serialize_compact

from rekeyd.access.keys import digest_of
from rekeyd.formats.pem import MaterialError
from rekeyd.formats.strict_json import AmbiguousJsonError, NotJsonError, parse_strictly

HS256 = "HS256"
LEAST_RSA_BITS = 2048
MOST_KEYS = 100
"""Keys of one set; an issuer has a handful."""

_LONGEST_KID = 128
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "priv"})
_EDWARDS = ("EdDSA", "Ed25519")
"""RFC 8037 and RFC 9864; with a key of Ed25519 they are the same."""

_MODELS = {
    name: JWSRegistry(algorithms=[model]).get_alg(model)
    for name, model in {
        HS256: HS256,
        "RS256": "RS256",
        "ES256": "ES256",
        "EdDSA": "Ed25519",
        "Ed25519": "Ed25519",
    }.items()
}


@dataclass(frozen=True, slots=True)
class Signer:
    """A key that vouches. `id` is what the log calls it; `digest` stands for the key itself, and for what a
    token must say to be vouched for by it."""

    id: str
    digest: bytes = field(repr=False)
    algorithms: tuple[str, ...]
    key: Key = field(repr=False, compare=False)
    kid: str | None = None

    def signed(self, message: bytes, signature: bytes, algorithm: str) -> bool:
        """Whether it did, with one of its algorithms. In constant time where the key is a secret."""
        if algorithm not in self.algorithms:
            return False
        try:
            return _MODELS[algorithm].verify(message, signature, self.key)
        except ValueError:
            return False

    def bound_to(self, *conditions: str) -> "Signer":
        """The same, but another one as soon as a condition is another (an issuer, an audience)."""
        bound = hashlib.sha256(self.digest)
        for condition in conditions:
            bound.update(digest_of(condition.encode()))
        return replace(self, digest=bound.digest())


@dataclass(frozen=True, slots=True)
class KeySet:
    """The keys of a set that can be used; `passed_over` says of each other one what it is."""

    signers: tuple[Signer, ...]
    passed_over: tuple[str, ...] = ()


def signer_of_secret(key_id: str, secret: str) -> Signer:
    """A static key that signs Qdrant's tokens."""
    data = secret.encode()
    return Signer(key_id, digest_of(data), (HS256,), OctKey(data, data))


def sign(signer: Signer, claims: Mapping[str, Any]) -> str:
    """A token with these claims, by a static key."""
    header = {"alg": HS256, "typ": "JWT"}
    payload = json.dumps(claims, separators=(",", ":")).encode()
    return serialize_compact(header, payload, signer.key, algorithms=[HS256])


def read_key_set(source: bytes) -> KeySet:
    """The public keys in a JSON Web Key Set. Raises `MaterialError`."""
    signers: list[Signer] = []
    passed_over = []
    for number, entry in enumerate(_entries(source), start=1):
        called = _called(entry, number)
        _refuse_secrets(entry, called)
        algorithms = _algorithms_of(entry)
        if not algorithms:
            if entry.get("use") != "enc":  # which issuers often have beside the others
                passed_over.append(called)
            continue
        signers.append(_signer(entry, called, algorithms))
    if not signers:
        raise _fault("no_usable_key", "it holds no key that verifies RS256, ES256 or EdDSA")
    _refuse_doubles(signers)
    return KeySet(tuple(signers), tuple(passed_over))


def _entries(source: bytes) -> list[Mapping[str, Any]]:
    if not source.strip():
        raise _fault("empty", "the file is empty")
    try:
        document = parse_strictly(source)
    except NotJsonError:
        raise _fault("unparsable", "it is not JSON, or only a part of it") from None
    except AmbiguousJsonError as error:
        raise _fault("ambiguous", f"the key set {error}") from None
    keys = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(keys, list) or not all(isinstance(entry, dict) for entry in keys):
        raise _fault("unparsable", "it is not a JSON Web Key Set: there is no list `keys` of objects")
    if len(keys) > MOST_KEYS:
        raise _fault("too_many_keys", f"it holds more than {MOST_KEYS} keys")
    return keys


def _called(entry: Mapping[str, Any], number: int) -> str:
    kid = entry.get("kid")
    return f"key {number} ({kid})" if isinstance(kid, str) and _is_tellable(kid) else f"key {number}"


def _is_tellable(kid: str) -> bool:
    """Whether a log, a label and a header field may have it as it is."""
    return 0 < len(kid) <= _LONGEST_KID and kid.isascii() and kid.isprintable() and kid == kid.strip()


def _refuse_secrets(entry: Mapping[str, Any], called: str) -> None:
    if entry.get("kty") == "oct" or "k" in entry:
        raise _fault(
            "secret_key",
            f"{called} is a secret that can make tokens as well as verify them",
            "Remove it from the set, and make a new one: it was lying there",
        )
    if not _PRIVATE.isdisjoint(entry):
        raise _fault(
            "private_key",
            f"{called} is a private key, with which whoever reads the file can make tokens",
            "Publish public keys only, and make a new pair: this one was lying there",
        )


def _algorithms_of(entry: Mapping[str, Any]) -> tuple[str, ...]:
    """The algorithms that it may verify; none where it is for something else (RFC 7517, 4.2 to 4.4)."""
    possible: tuple[str, ...] = ()
    match entry.get("kty"), entry.get("crv"):
        case "RSA", _:
            possible = ("RS256",)
        case "EC", "P-256":
            possible = ("ES256",)
        case "OKP", "Ed25519":
            possible = _EDWARDS
    operations = entry.get("key_ops")
    if entry.get("use", "sig") != "sig":
        return ()
    if operations is not None and not (isinstance(operations, list) and "verify" in operations):
        return ()
    wanted = entry.get("alg")
    if wanted in _EDWARDS:
        return possible if possible == _EDWARDS else ()
    return possible if wanted is None else tuple(name for name in possible if name == wanted)


def _signer(entry: Mapping[str, Any], called: str, algorithms: tuple[str, ...]) -> Signer:
    kid = entry.get("kid")
    if kid is not None and not isinstance(kid, str):
        raise _fault("unparsable", f"the kid of {called} is not a text")
    bits = _rsa_bits(entry)
    if bits is not None and bits < LEAST_RSA_BITS:
        raise _fault(
            "weak_key",
            f"{called} is an RSA key of {bits} bits",
            f"Have the issuer make one of at least {LEAST_RSA_BITS}",
        )
    key = _imported(
        {name: entry[name] for name in ("kty", "crv", "n", "e", "x", "y") if name in entry}, called
    )
    thumbprint = key.thumbprint()  # RFC 7638
    told = kid if kid is not None and _is_tellable(kid) else thumbprint
    return Signer(f"jwks:{told}", digest_of(thumbprint.encode()), algorithms, key, kid)


def _rsa_bits(entry: Mapping[str, Any]) -> int | None:
    """The size of the modulus (RFC 7518, 6.3.1.1); None where there is none that can be read."""
    modulus = entry.get("n")
    if entry.get("kty") != "RSA" or not isinstance(modulus, str):
        return None
    try:
        data = base64.b64decode(modulus + "=" * (-len(modulus) % 4), altchars=b"-_", validate=True)
    except ValueError:
        return None
    return int.from_bytes(data).bit_length()


def _imported(entry: dict[str, Any], called: str) -> RSAKey | ECKey | OKPKey:
    """Only what makes the key: what it is for was looked at."""
    try:
        key = import_key(entry)
    except (JoseError, ValueError, TypeError, KeyError):
        key = None
    if not isinstance(key, RSAKey | ECKey | OKPKey):
        raise _fault("unparsable", f"{called} is not a key that can be read")
    return key


def _refuse_doubles(signers: list[Signer]) -> None:
    """Two keys of one name would leave it to chance, or to a token, which of them is meant."""
    names = Counter(signer.id for signer in signers)
    kids = Counter(signer.kid for signer in signers)
    for signer in signers:
        if names[signer.id] > 1 or (signer.kid is not None and kids[signer.kid] > 1):
            raise _fault("kid_twice", f"the key {signer.id.removeprefix('jwks:')} is in it twice")


def _fault(reason: str, message: str, fix: str = "") -> MaterialError:
    return MaterialError(
        "key set", reason, message, fix or "Get the set anew from the issuer, and rename it into place whole"
    )
