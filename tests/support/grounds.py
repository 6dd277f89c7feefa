"""What a decision rests on, without a generation around it."""

from dataclasses import dataclass

from rekeyd.trust.keys import KeyRing
from rekeyd.trust.policy import Policy
from rekeyd.trust.tokens import NO_TOKENS, TokenRules


@dataclass(frozen=True)
class Believed:
    """See `rekeyd.trust.access.Grounds`."""

    ring: KeyRing
    policy: Policy
    tokens: TokenRules = NO_TOKENS
    open_to_all: bool = False
