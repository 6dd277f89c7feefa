"""What the upstream is told of who was let in."""

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Right
from rekeyd.access.verdict import Allowed, Reason
from rekeyd.http1.introduction import introduced


def test_who_and_how_is_told_as_far_as_it_is_known() -> None:
    credential = Credential("ci", Right.WRITE, b"", subject="\u00e4")
    verdict = Allowed(Reason.TOKEN, credential, Right.READ)
    assert introduced(verdict, tls="TLSv1.3", cipher="TLS_AES_128_GCM_SHA256", certificate="dns:a.test") == [
        (b"X-Rekeyd-Key-Id", b"ci"),
        (b"X-Rekeyd-Right", b"write"),
        (b"X-Rekeyd-Subject", b"%C3%A4"),
        (b"X-Rekeyd-Tls", b"TLSv1.3"),
        (b"X-Rekeyd-Cipher", b"TLS_AES_128_GCM_SHA256"),
        (b"X-Rekeyd-Client-Cert", b"dns:a.test"),
    ]
    assert introduced(Allowed(Reason.OPEN), tls=None, cipher=None, certificate=None) == []
