"""What a decision rests on, without a generation around it."""

from dataclasses import dataclass

from rekeyd.access.keys import KeyRing
from rekeyd.access.policy import Policy
from rekeyd.access.tokens import NO_TOKENS, TokenRules


@dataclass(frozen=True)
class Believed:
    """See `rekeyd.access.admission.Grounds`."""

    ring: KeyRing
    policy: Policy
    tokens: TokenRules = NO_TOKENS
    open_to_all: bool = False
