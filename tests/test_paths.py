"""The one form of a path that every server reads alike."""

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rekeyd.access.paths import decoded, is_normal, layers

NORMAL = [
    b"/",
    b"/collections",
    b"/collections/",
    b"/collections/my%20coll",
    b"/collections/%41bc",
    b"/collections/100%25",
    b"/collections/100%2525",
    b"/collections/%E4%B8%AD%e6%96%87",
    b"/collections/a:b@c,d=e+f&g$h!i'(j)*",
    b"/collections/~user-1._x",
    b"/collections/...",
    b"/collections/.hidden",
    b"/collections/a..b",
    b"/collections/..a",
    b"/collections/a%3Bb%3Fc%23d",
    b"/collections/%22quoted%22",
]

NOT_NORMAL = [
    b"",
    b"*",
    b"collections",
    b"//",
    b"//collections",
    b"/collections//x",
    b"/collections//",
    b"/.",
    b"/..",
    b"/./x",
    b"/../x",
    b"/x/.",
    b"/x/..",
    b"/x/../y",
    b"/x/%2e/y",
    b"/x/%2E%2e/y",
    b"/x/.%2e",
    b"/x/%2e.",
    b"/x/%2f/y",
    b"/x/a%2Fb",
    b"/x/a%5cb",
    b"/x\\y",
    b"/x;v=1/y",
    b"/x/;",
    b"/x/..;/y",
    b"/x#y",
    b"/x?y",
    b"/x y",
    b"/x\ty",
    b"/x\x00",
    b"/x\x7f",
    b"/x\r\n",
    b"/x\n",
    b"/x/%00",
    b"/x/a%0d%0ab",
    b"/x/%1f",
    b"/x/%7F",
    b"/caf\xc3\xa9",
    b"/x/\xff",
    b"/x/%ff",
    b"/x/%C0%AF",
    b"/x/%c0%ae%c0%ae",
    b"/x/%E0%80%AF",
    b"/x/%ED%A0%80",
    b"/x/%F8%80%80%80%AF",
    b"/x/%",
    b"/x/%2",
    b"/x/%zz",
    b"/x/%u002f",
    b"/x/%%32%66",
    b'/x/"',
    b"/x/<y>",
    b"/x/{y}",
    b"/x/[y]",
    b"/x/a|b",
    b"/x/`",
    b"/x/^",
]

ENCODED_AGAIN = [
    b"/x/%252e%252e/y",
    b"/x/%252e",
    b"/x/a%252fb",
    b"/x/a%255cb",
    b"/x/a%2500b",
    b"/x/%25252e%25252e",
    b"/x/%25%32%65%252e",
    b"/x/%252%65",
]


@pytest.mark.parametrize("path", NORMAL)
def test_what_rfc_3986_allows_in_a_path_is_normal(path: bytes) -> None:
    assert is_normal(path)


@pytest.mark.parametrize("path", NOT_NORMAL)
def test_what_two_servers_could_read_in_two_ways_is_not_normal(path: bytes) -> None:
    assert not is_normal(path)


@pytest.mark.parametrize("path", ENCODED_AGAIN)
def test_what_hides_a_delimiter_under_several_layers_of_encoding_is_not_normal(path: bytes) -> None:
    assert not is_normal(path)


def test_more_layers_of_encoding_than_anybody_uses_are_not_normal() -> None:
    assert is_normal(b"/x/%2525")
    assert not is_normal(b"/x/%" + b"25" * 20)


def test_decoding_undoes_one_layer_and_leaves_what_is_no_encoding() -> None:
    assert decoded(b"my%20coll") == b"my coll"
    assert decoded(b"%2541") == b"%41"
    assert decoded(b"100%") == b"100%"
    assert list(layers(b"%2541")) == [b"%41", b"A", b"A"]
    assert list(layers(b"plain")) == [b"plain"]


segments = st.text(st.characters(codec="utf-8"), min_size=1).map(
    lambda name: b"".join(b"%%%02X" % byte for byte in name.encode())
)


@given(st.lists(segments, min_size=1, max_size=4))
@example([b"%2E%2e"])
@example([b"%25%32%65"])
def test_a_normal_path_has_the_same_segments_however_often_it_is_decoded(names: list[bytes]) -> None:
    path = b"/" + b"/".join(names)
    if not is_normal(path):
        return
    for name in names:
        for reading in layers(name):
            assert reading not in {b"", b".", b".."}
            assert not set(reading) & set(b"/\\\x00\r\n\x7f")


@given(st.binary(max_size=60))
def test_any_bytes_are_judged_without_an_error(garbage: bytes) -> None:
    for path in (garbage, b"/" + garbage):
        if is_normal(path):
            assert path.startswith(b"/")
            assert path.isascii()
            assert not set(path) & set(b" \\;?#\r\n\t\x00")


@pytest.mark.parametrize(
    ("path", "normal"),
    [
        (b"/" + b"a" * 65_000 + b";", False),
        (b"/" + b"a/" * 32_000 + b";", False),
        (b"/" + b"%25" * 21_000 + b"%", False),
        (b"/%" + b"25" * 32_000, False),
        (b"/" + b"%25%32%35" * 7_000, True),
        (b"/" + b"%2e/" * 16_000, False),
        (b"/" + b"." * 65_000, True),
    ],
)
def test_a_long_path_costs_no_more_than_its_length(path: bytes, normal: bool) -> None:
    started = time.process_time()
    assert is_normal(path) == normal
    assert time.process_time() - started < 1
