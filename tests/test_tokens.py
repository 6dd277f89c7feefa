"""Without a signer no token is accepted."""

from rekeyd.trust.keys import Credential
from rekeyd.trust.rights import Right
from rekeyd.trust.tokens import NO_TOKENS


def test_where_nobody_signs_nothing_is_a_token() -> None:
    assert NO_TOKENS.read(b"eyJhbGciOiJub25lIn0.e30.") is None
    assert not NO_TOKENS.upholds(Credential.of_secret("api_key", Right.MANAGE, "secret"))
