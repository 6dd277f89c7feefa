"""What a stranger calls itself is known, although OpenSSL forgets it."""

import contextlib
import ssl
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.system.shown import ShowingContext, ShownObject, first_certificate
from support.pki import Authority


def test_a_certificate_that_is_not_believed_is_known(tmp_path: Path) -> None:
    ours, theirs = Authority(), Authority("another CA")
    server = ShowingContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(*ours.issue("node.test").write(tmp_path / "server"))
    server.load_verify_locations(cadata=ours.pem.decode())
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname = False
    client.verify_mode = ssl.CERT_NONE
    stranger = theirs.issue("mallory.test", client=True)
    client.load_cert_chain(*stranger.write(tmp_path / "client"))
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    accepted = server.wrap_bio(to_server, to_client, server_side=True)
    dialing = client.wrap_bio(to_client, to_server)
    assert isinstance(accepted, ShownObject)
    for side in (dialing, accepted, dialing):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    with pytest.raises(ssl.SSLCertVerificationError):
        accepted.do_handshake()
    assert accepted.shown == stranger.der


def test_the_first_entry_of_a_certificate_message_is_taken() -> None:
    entry = b"\x00\x00\x03DER\x00\x00"
    assert first_certificate(b"\x0b\x00\x00\x0c\x00\x00\x00\x08" + entry) == b"DER"
    assert first_certificate(b"\x0b\x00\x00\x0e\x02xy\x00\x00\x08" + entry) == b"DER"
    assert first_certificate(b"\x0b\x00\x00\x04\x00\x00\x00\x00") is None  # it showed none
    assert first_certificate(b"\x0b\x00\x00\x0c\x00\x00\x00\x08\x00\xff\xffDER\x00\x00") is None


@given(message=st.binary(max_size=64))
def test_no_message_is_too_strange(message: bytes) -> None:
    found = first_certificate(message)
    assert found is None or found in message
