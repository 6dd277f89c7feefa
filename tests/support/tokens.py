"""Tokens, sound ones by PyJWT and unsound ones by hand, and the key sets of an issuer.

issuer = Issuer("a")                        # an RSA key whose kid is "a"
write(key_set(issuer))
token = issuer.token(access="r")
"""

import base64
import hmac
import json
import time
from functools import cache
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

ISSUER, AUDIENCE = "https://issuer.test/", "qdrant.test"
HOUR = 3600

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey


def part(value: Any) -> str:
    """One part of a token: JSON of `value`, unless it is bytes already, in base64url."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def by_hand(header: Any, claims: Any, secret: bytes | None = None, *, signature: bytes = b"") -> bytes:
    """A token with any header and claims at all; signed with HMAC-SHA-256 where there is a secret."""
    signed = f"{part(header)}.{part(claims)}"
    if secret is not None:
        signature = hmac.digest(secret, signed.encode(), "sha256")
    return f"{signed}.{part(signature)}".encode()


def in_an_hour() -> int:
    return int(time.time()) + HOUR


@cache
def private_key(algorithm: str, name: str) -> PrivateKey:
    """One key for each name; making an RSA key takes a while."""
    match algorithm:
        case "RS256":
            return rsa.generate_private_key(65537, 2048)
        case "ES256":
            return ec.generate_private_key(ec.SECP256R1())
        case "EdDSA":
            return ed25519.Ed25519PrivateKey.generate()
    raise ValueError(f"no key for {algorithm} of {name}")


class Issuer:
    """One key of an issuer; `kid` None: the set does not name it."""

    def __init__(self, kid: str | None = "a", algorithm: str = "RS256", *, name: str = "") -> None:
        self.kid = kid
        self.algorithm = algorithm
        self.key = private_key(algorithm, name or str(kid))

    def jwk(self, **members: Any) -> dict[str, Any]:
        """The public key, as a set has it; None leaves a member out."""
        made = dict(jwt.get_algorithm_by_name(self.algorithm).to_jwk(self.key.public_key(), as_dict=True))
        made = {**made, "kid": self.kid, "key_ops": None, **members}
        return {name: value for name, value in made.items() if value is not None}

    def token(self, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """Good for an hour, for reading; claims that are None are left out."""
        wanted = {"iss": ISSUER, "aud": AUDIENCE, "exp": in_an_hour(), "access": "r", **claims}
        headers = {"kid": self.kid, **(header or {})}
        return jwt.encode(
            {name: value for name, value in wanted.items() if value is not None},
            self.key,
            algorithm=self.algorithm,
            headers={name: value for name, value in headers.items() if value is not None},
        )


def key_set(*issuers: Issuer | dict[str, Any]) -> bytes:
    keys = [each.jwk() if isinstance(each, Issuer) else each for each in issuers]
    return json.dumps({"keys": keys}).encode()
