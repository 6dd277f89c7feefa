import pytest

from rekeyd.system.peers import address_of


@pytest.mark.parametrize(
    ("peername", "address"),
    [
        (("192.0.2.7", 50_000), "192.0.2.7"),
        (("2001:db8::1", 50_000, 0, 0), "2001:db8::1"),
        (("::ffff:192.0.2.7", 50_000, 0, 0), "192.0.2.7"),
        ("", "local"),
        (None, "local"),
    ],
)
def test_a_peer_is_called_by_its_address_alone(peername: object, address: str) -> None:
    assert address_of(peername) == address
