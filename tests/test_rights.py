"""What a credential may do, within which limits, and that every reading of a name must be within them."""

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.access.paths import layers
from rekeyd.access.rights import UNLIMITED, Limits, Reach, Right


def test_each_right_includes_those_below_it() -> None:
    assert Right.READ < Right.WRITE < Right.MANAGE
    assert [str(right) for right in Right] == ["read", "write", "manage"]


@pytest.mark.parametrize(
    ("reach", "right", "of_points", "enough"),
    [
        (Reach.READ, Right.READ, False, True),
        (Reach.READ, Right.READ, True, True),
        (Reach.READ, Right.WRITE, True, False),
        (Reach.POINTS, Right.READ, True, True),
        (Reach.POINTS, Right.READ, False, False),
        (Reach.POINTS, Right.WRITE, True, True),
        (Reach.POINTS, Right.WRITE, False, False),
        (Reach.WRITE, Right.WRITE, False, True),
        (Reach.WRITE, Right.READ, False, True),
        (Reach.WRITE, Right.MANAGE, False, False),
        (Reach.POINTS, Right.MANAGE, True, False),
    ],
)
def test_a_reach_covers_what_qdrants_words_say(
    reach: Reach, right: Right, of_points: bool, enough: bool
) -> None:
    assert reach.covers(right, of_points=of_points) is enough


def books(*entries: tuple[str, Reach]) -> Limits:
    return Limits(collections=entries)


@pytest.mark.parametrize(
    ("segment", "admitted"),
    [
        (b"books", True),
        (b"b%6foks", True),
        (b"Books", False),
        (b"book", False),
        (b"books2", False),
        (b"b%256foks", False),
        (b"%25books", False),
        (b"", False),
    ],
)
def test_every_reading_of_a_collections_name_must_be_within_the_limit(segment: bytes, admitted: bool) -> None:
    limits = books(("books", Reach.READ))
    assert limits.admit_collection(layers(segment), Right.READ, of_points=False) is admitted


def test_a_star_at_the_end_is_whatever_follows_and_nowhere_else_special() -> None:
    limits = books(("tenant-*", Reach.WRITE), ("*x", Reach.READ))
    for name, admitted in ((b"tenant-", True), (b"tenant-7", True), (b"tenant", False), (b"ax", False)):
        assert limits.admit_collection([name], Right.WRITE, of_points=False) is admitted
    assert limits.admit_collection([b"*x"], Right.READ, of_points=False)
    assert books(("*", Reach.READ)).admit_collection([b"any"], Right.READ, of_points=False)


def test_of_several_entries_for_a_collection_one_that_is_enough_will_do() -> None:
    limits = books(("*", Reach.READ), ("books", Reach.WRITE))
    assert limits.admit_collection([b"books"], Right.WRITE, of_points=False)
    assert not limits.admit_collection([b"other"], Right.WRITE, of_points=False)


def test_no_collection_at_all_is_a_limit_too() -> None:
    assert not books().admit_collection([b"books"], Right.READ, of_points=False)


@pytest.mark.parametrize(
    ("prefix", "path", "admitted"),
    [
        (b"/a", b"/a", True),
        (b"/a", b"/a/b", True),
        (b"/a", b"/ab", False),
        (b"/a/", b"/a/b", True),
        (b"/a/", b"/a", True),
        (b"/a/", b"/ab", False),
        (b"/a", b"/A", False),
        (b"/a", b"/%61/b", False),
        (b"/", b"/anything", True),
    ],
)
def test_a_path_lies_below_its_prefix_segment_by_segment(prefix: bytes, path: bytes, admitted: bool) -> None:
    assert Limits(paths=(prefix,)).admit_path(path) is admitted


@pytest.mark.parametrize(
    ("address", "admitted"),
    [
        ("10.1.2.3", True),
        ("11.0.0.1", False),
        ("2001:db8::1", True),
        ("2001:db9::1", False),
        ("::ffff:10.1.2.3", False),
        ("local", False),
        ("", False),
    ],
)
def test_a_client_comes_from_one_of_the_networks_or_from_nowhere(address: str, admitted: bool) -> None:
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("2001:db8::/32"))
    assert Limits(networks=networks).admit_client(address) is admitted


@given(st.text(), st.binary())
def test_without_limits_everybody_may_come_from_anywhere(address: str, path: bytes) -> None:
    assert UNLIMITED.admit_client(address)
    assert UNLIMITED.admit_path(path)
