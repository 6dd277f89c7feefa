"""Tokens (JWT, RFC 7519) as credentials: whose they are, and what they claim.

Must not know: the clock (when a token is valid is judged with the credential that it is), or where keys come
from.
"""

from dataclasses import dataclass

from rekeyd.trust.keys import Credential
from rekeyd.trust.verdict import Denied, Unverified


@dataclass(frozen=True, slots=True)
class TokenRules:
    """Whose tokens are accepted. With no signer at all, none is."""

    def read(self, token: bytes) -> Credential | Denied | Unverified | None:  # noqa: ARG002
        """The credential that it is, or why it is none; None where it is no token that is accepted here."""
        return None

    def upholds(self, credential: Credential) -> bool:  # noqa: ARG002
        """Whether a token that was accepted before would be, still."""
        return False


NO_TOKENS = TokenRules()
