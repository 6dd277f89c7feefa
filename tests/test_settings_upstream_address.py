"""The forms of an upstream's address."""

from itertools import chain

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.settings import UnusableError, UpstreamAddress, parse_grpc_upstream, parse_upstream

FORMS = [
    ("http://h:81", UpstreamAddress("http", "h", 81, "", "h:81")),
    ("http://h", UpstreamAddress("http", "h", 80, "", "h")),
    ("http://h/", UpstreamAddress("http", "h", 80, "", "h")),
    ("HTTPS://example.org", UpstreamAddress("https", "example.org", 443, "", "example.org")),
    ("http://[::1]:6333", UpstreamAddress("http", "::1", 6333, "", "[::1]:6333")),
    ("http://my_service:1", UpstreamAddress("http", "my_service", 1, "", "my_service:1")),
    ("unix:/run/q.sock", UpstreamAddress("unix", path="/run/q.sock")),
    ("app:a.b:make_app", UpstreamAddress("app", path="a.b:make_app")),
    ("demo", UpstreamAddress("demo")),
]


@pytest.mark.parametrize(("text", "address"), FORMS)
def test_an_address_is_read(text: str, address: UpstreamAddress) -> None:
    assert parse_upstream(text) == address


@pytest.mark.parametrize(("text", "address"), FORMS)
def test_an_address_is_written_as_it_can_be_read(text: str, address: UpstreamAddress) -> None:
    assert parse_upstream(str(address)) == address


NOT_ADDRESSES = (
    ("", "h:81", "ftp://h", "http:h", "http:/h", "http://", "http://:80", "http://h:", "http://h:0"),
    ("http://h:65536", "http://h:+1", "http://h:\u0661", "http://u@h", "http://u:p@h", "http://h/x"),
    (
        "http://h//",
        "http://h?x",
        "http://h#x",
        "http://::1",
        "http://[h]",
        "http://[::1",
        "http://[fe80::1%1]",
    ),
    ("http://h h", "http://h\n", "http://-h", "http://h\u00fc", "http://h,i", "http://h\\i"),
    ("unix:", "unix:x", "unix:/a\x00", "unix:/" + "x" * 107),
    ("app:", "app:m", "app:m:f:g", "app:m.:f", "app:m:f()", "demo:", "demo:x", "demos"),
)


@pytest.mark.parametrize("text", [*chain.from_iterable(NOT_ADDRESSES)], ids=repr)
def test_anything_else_is_refused_with_a_fix(text: str) -> None:
    with pytest.raises(UnusableError) as caught:
        parse_upstream(text)
    assert caught.value.fix


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("h:81", UpstreamAddress("http", "h", 81, "", "h:81")),
        ("[::1]:81", UpstreamAddress("http", "::1", 81, "", "[::1]:81")),
        ("https://h:81", UpstreamAddress("https", "h", 81, "", "h:81")),
        ("unix:/s", UpstreamAddress("unix", path="/s")),
    ],
)
def test_grpc_takes_a_bare_host_and_port(text: str, address: UpstreamAddress) -> None:
    assert parse_grpc_upstream(text) == address


@pytest.mark.parametrize("text", ["demo:", "app:m:f", "ftp://h:1", "", "h:x", "u@h:1"])
def test_grpc_takes_no_other_form(text: str) -> None:
    with pytest.raises(UnusableError):
        parse_grpc_upstream(text)


@given(st.text() | st.text().map("http://{}".format) | st.from_regex(r"https?://[^/]+(:[0-9]+)?/?"))
def test_no_text_is_anything_but_an_address_or_refused(text: str) -> None:
    try:
        address = parse_upstream(text)
    except UnusableError:
        return
    assert parse_upstream(str(address)) == address
    assert address.authority.isprintable()
    assert not set(address.authority) & set("/?#@ ")
