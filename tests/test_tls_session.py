"""TLS in memory: whatever is said arrives whole, byte by byte, and each direction ends by itself."""

import contextlib
import ssl

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.system.tls_session import Session
from support.mutual import Contexts, mutual


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> Contexts:
    return mutual(tmp_path_factory.mktemp("tls"))


def pair(contexts: Contexts) -> tuple[Session, Session]:
    """Both ends, shaken hands; the client first."""
    server, client = contexts
    one, two = Session(client, server_side=False), Session(server, server_side=True)
    one.start()
    for _ in range(3):
        assert two.receive(one.outgoing.read()) == []
        assert one.receive(two.outgoing.read()) == []
    assert one.established
    assert two.established
    return one, two


def heard(session: Session, data: bytes, *, by: int = 1 << 20) -> bytes:
    """What a session makes of bytes that come in pieces of that size."""
    pieces = (data[at : at + by] for at in range(0, len(data), by))
    return b"".join(part for piece in pieces for part in session.receive(piece))


# In memory.


@pytest.mark.parametrize("by", [1, 7, 1 << 20])
def test_each_direction_ends_with_a_word_of_its_own(contexts: Contexts, by: int) -> None:
    one, two = pair(contexts)
    one.tls.write(b"a question")
    one.finish()
    assert heard(two, one.outgoing.read(), by=by) == b"a question"
    assert (two.ended, one.ended) == (True, False)
    two.tls.write(b"an answer " * 10_000)
    assert heard(one, two.outgoing.read(), by=by) == b"an answer " * 10_000
    assert not one.ended
    two.finish()
    assert heard(one, two.outgoing.read(), by=by) == b""
    assert one.ended


def test_what_comes_after_the_end_is_thrown_away(contexts: Contexts) -> None:
    one, two = pair(contexts)
    one.finish()
    assert heard(two, one.outgoing.read()) == b""
    for _ in range(100):
        assert two.receive(b"\x17\x03\x03\x40\x00" + bytes(16384)) == []
    assert two._incoming.pending == 0


def test_what_comes_behind_the_end_leaves_no_error_to_others(contexts: Contexts) -> None:
    """Our own end is said without looking at it."""
    _, innocent = pair(contexts)
    one, two = pair(contexts)
    one.finish()
    assert heard(two, one.outgoing.read() + b"\x17\x03\x03\x00\x20" + bytes(32)) == b""
    assert two._incoming.pending
    two.finish()
    assert two.outgoing.pending
    with pytest.raises(ssl.SSLWantReadError):
        innocent.tls.read(1)


def test_an_end_is_answered_that_came_without_a_word(contexts: Contexts) -> None:
    """As `TlsConnection` takes a FIN for one, also in the middle of a record."""
    one, two = pair(contexts)
    one.tls.write(b"cut off")
    assert heard(two, one.outgoing.read()[:-1]) == b""
    two.ended = True
    two.finish()
    assert heard(one, two.outgoing.read()) == b""
    assert one.ended


def test_both_may_end_at_once(contexts: Contexts) -> None:
    one, two = pair(contexts)
    for session in (one, two):
        session.tls.write(b"the last word")
        session.finish()
    from_one, from_two = one.outgoing.read(), two.outgoing.read()
    assert heard(one, from_two) == heard(two, from_one) == b"the last word"
    assert one.ended
    assert two.ended


def test_who_has_ended_still_hears_what_comes_in_pieces(contexts: Contexts) -> None:
    """A part of a record lies in OpenSSL when the end is said."""
    one, two = pair(contexts)
    two.tls.write(b"x" * 50_000)
    record = two.outgoing.read()
    begun = heard(one, record[:1000])
    one.finish()
    assert begun + heard(one, record[1000:], by=999) == b"x" * 50_000
    assert heard(two, one.outgoing.read()) == b""
    assert two.ended


@settings(max_examples=30, deadline=None)
@given(pieces=st.lists(st.binary(max_size=40_000), max_size=6), by=st.integers(1, 20_000))
def test_whatever_is_said_arrives_whole(contexts: Contexts, pieces: list[bytes], by: int) -> None:
    one, two = pair(contexts)
    for piece in pieces:
        one.tls.write(piece)
    one.finish()
    assert heard(two, one.outgoing.read(), by=by) == b"".join(pieces)
    assert two.ended


@pytest.mark.parametrize("by", [1, 30, 1 << 20])
def test_however_little_a_record_holds_all_of_them_arrive(contexts: Contexts, by: int) -> None:
    one, two = pair(contexts)
    said = bytes(range(256)) * 2
    for at in range(len(said)):
        one.tls.write(said[at : at + 1])
    assert heard(two, one.outgoing.read(), by=by) == said


def test_what_came_with_the_end_of_the_handshake_is_heard_after_it(contexts: Contexts) -> None:
    server, client = contexts
    one, two = Session(client, server_side=False), Session(server, server_side=True)
    one.start()
    two.receive(one.outgoing.read())
    one.receive(two.outgoing.read())
    one.tls.write(b"at once")
    for byte in one.outgoing.read():
        two.keep(bytes([byte]))
    assert not two.established
    assert two.receive(b"") == [b"at once"]
    assert two.established


@settings(max_examples=50, deadline=None)
@given(noise=st.binary(min_size=1, max_size=200))
def test_what_is_no_tls_is_an_error_and_nothing_else(contexts: Contexts, noise: bytes) -> None:
    session = Session(contexts[0], server_side=True)
    with contextlib.suppress(ssl.SSLError):
        assert session.receive(noise) == []
    assert not session.established
