"""Tokens (JWT, RFC 7519) as credentials: whose they are, and what they claim.

The rules. The algorithm in a token's header only chooses among the keys that are for it (`token_keys`); `kid`
chooses among those, and without it there must be one alone. Claims are judged before the signature is looked
at (`claims`): what would be refused anyway costs no verification. HS256 is verified on the spot; a public key
takes its time, so that what is left is handed on (`Unverified`). A token whose id was revoked is refused,
whoever signed it.

Must not know: the clock (when a token is valid is judged with the credential that it is), or where keys come
from.
"""

from dataclasses import dataclass, field
from functools import partial

from rekeyd.access.claims import Grant, Terms, granted_by, granted_by_issuer
from rekeyd.access.keys import Credential, digest_of
from rekeyd.access.token_form import Token, UnjudgeableTokenError, read_token
from rekeyd.access.token_keys import HS256, Signer
from rekeyd.access.verdict import Denied, Reason, Unverified

OF_QDRANT = Terms()


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Whose tokens are accepted, and on which terms. With no signer at all, none is.

    `issuer` and `audience` are those of public keys; `leeway` is in seconds; `revoked` are ids of tokens.
    """

    signers: tuple[Signer, ...] = ()
    terms: Terms = OF_QDRANT
    revoked: frozenset[str] = field(default=frozenset(), repr=False)

    def __eq__(self, other: object) -> bool:
        """At once where it is the same: asked at every request, and there may be many revoked tokens."""
        if self is other:
            return True
        if not isinstance(other, TokenRules):
            return NotImplemented
        return (self.signers, self.terms, self.revoked) == (other.signers, other.terms, other.revoked)

    def __hash__(self) -> int:
        return hash((self.signers, self.terms))

    def knows(self, key_id: str) -> bool:
        """Whether a key of that id vouches for tokens."""
        return any(signer.id == key_id for signer in self.signers)

    def read(self, token: bytes) -> Credential | Denied | Unverified | None:
        """The credential that it is, or why it is none; None where it is no token that is accepted here."""
        if not self.signers:
            return None
        try:
            found = read_token(token)
            return None if found is None else self._judged(found, token)
        except UnjudgeableTokenError as error:
            return Denied(Reason.CLAIMS_NOT_JUDGED, f"Forbidden: {error}")

    def upholds(self, credential: Credential) -> bool:
        """Whether a token that was accepted before would be, still."""
        vouched = any(signer.digest == credential.digest for signer in self.signers)
        return vouched and credential.token_id not in self.revoked

    def _judged(self, token: Token, text: bytes) -> Credential | Denied | Unverified:
        algorithm = token.algorithm
        able = [signer for signer in self.signers if algorithm in signer.algorithms]
        if algorithm is None or not able:
            return Denied(Reason.WRONG_ALGORITHM, "Forbidden: the token's algorithm is not accepted")
        if algorithm == HS256:
            return self._verified(token, algorithm, able, granted_by(token.claims, self.terms.leeway))
        signer = _named_by(token, able)
        if signer is None:
            return Denied(Reason.BAD_SIGNATURE, "Forbidden: the token's key is not known")
        grant = granted_by_issuer(token.claims, self.terms)
        verify = partial(self._verified, token, algorithm, [signer], grant)
        return Unverified(digest_of(text), verify, grant.expires)

    def _verified(
        self, token: Token, algorithm: str, able: list[Signer], grant: Grant
    ) -> Credential | Denied:
        for signer in able:
            if signer.signed(token.signed, token.signature, algorithm):
                return self._unless_revoked(_credential(signer, grant))
        return Denied(Reason.BAD_SIGNATURE, "Forbidden: the token's signature is not valid")

    def _unless_revoked(self, credential: Credential) -> Credential | Denied:
        if credential.token_id in self.revoked:
            return Denied(Reason.TOKEN_REVOKED, "Forbidden: the token was revoked", credential)
        return credential


def _named_by(token: Token, able: list[Signer]) -> Signer | None:
    kid = token.header.get("kid")
    if kid is None:
        return able[0] if len(able) == 1 else None
    return next((signer for signer in able if signer.kid is not None and signer.kid == kid), None)


def _credential(signer: Signer, grant: Grant) -> Credential:
    return Credential(
        signer.id,
        grant.right,
        signer.digest,
        limits=grant.limits,
        not_before=grant.not_before,
        expires=grant.expires,
        is_token=True,
        subject=grant.subject,
        token_id=grant.token_id,
    )


NO_TOKENS = TokenRules()
