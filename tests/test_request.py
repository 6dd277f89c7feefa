"""What is a request that means one thing, and what is refused."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rekeyd.http1.request import Field, Framing, Malformed, Request, examine, printable, tokens

HOST: Field = (b"Host", b"localhost")
HTTP_1_0, HTTP_1_1 = (1, 0), (1, 1)


def asked(
    target: bytes = b"/x",
    *fields: Field,
    method: bytes = b"GET",
    version: tuple[int, int] = HTTP_1_1,
    host: Field | None = HOST,
) -> Request | Malformed:
    return examine(method, target, version, (host, *fields) if host else fields)


def good(
    target: bytes = b"/x",
    *fields: Field,
    method: bytes = b"GET",
    version: tuple[int, int] = HTTP_1_1,
    host: Field | None = HOST,
) -> Request:
    request = asked(target, *fields, method=method, version=version, host=host)
    assert isinstance(request, Request), request
    return request


def refused(
    target: bytes = b"/x",
    *fields: Field,
    method: bytes = b"GET",
    version: tuple[int, int] = HTTP_1_1,
    host: Field | None = HOST,
) -> int:
    malformed = asked(target, *fields, method=method, version=version, host=host)
    assert isinstance(malformed, Malformed), malformed
    assert malformed.message
    return malformed.status


def test_a_plain_request_is_itself() -> None:
    request = good(b"/a%20b?x=1&y", (b"Accept", b"*/*"))
    assert request == Request(
        method=b"GET",
        target=b"/a%20b?x=1&y",
        path=b"/a%20b",
        authority=b"localhost",
        minor=1,
        fields=(HOST, (b"Accept", b"*/*")),
        framing=Framing(),
        expects_continue=False,
        upgrades=False,
        persists=True,
    )


def test_what_connection_names_is_known_by_its_lower_case() -> None:
    assert good(b"/x").options == frozenset()
    named = good(b"/x", (b"Connection", b"Keep-Alive, TE"), (b"connection", b",x-a "))
    assert named.options == {b"keep-alive", b"te", b"x-a"}
    assert named.persists
    assert not good(b"/x", (b"Connection", b"CLOSE")).persists


# --- version and method


@pytest.mark.parametrize("version", [(0, 9), (1, 2), (2, 0), (3, 0), (0, 0), (1, 10)])
def test_only_http_1_0_and_1_1_are_spoken(version: tuple[int, int]) -> None:
    assert refused(version=version) == 505


@pytest.mark.parametrize(
    "method",
    [
        b"CONNECT",
        b"TRACE",
        b"get",
        b"Get",
        b"",
        b"GET ",
        b"G ET",
        b"G\r\nET",
        b"GET\x00",
        b"G1",
        b"-GET",
        b"G\xc9T",
    ],
)
def test_a_method_is_upper_case_and_neither_connect_nor_trace(method: bytes) -> None:
    assert refused(method=method) == 400


@pytest.mark.parametrize("method", [b"GET", b"HEAD", b"POST", b"PATCH", b"PROPFIND", b"M-SEARCH", b"QUERY"])
def test_methods_that_nobody_heard_of_are_left_to_the_policy(method: bytes) -> None:
    assert good(method=method).method == method


# --- target


@pytest.mark.parametrize(
    ("target", "path"),
    [
        (b"/", b"/"),
        (b"//x", b"//x"),
        (b"/a/../b", b"/a/../b"),
        (b"/a;b?c", b"/a;b"),
        (b"/a#b?c", b"/a#b"),
        (b"/a%3Fb?c?d", b"/a%3Fb"),
        (b"/?", b"/"),
        (b"/a?", b"/a"),
        (b"/\\x", b"/\\x"),
        (b"/caf\xc3\xa9?\xff", b"/caf\xc3\xa9"),
        (b"/?a#b", b"/"),
    ],
)
def test_the_path_is_the_target_up_to_the_question_mark_and_nothing_is_rewritten(
    target: bytes, path: bytes
) -> None:
    request = good(target)
    assert request.target == target
    assert request.path == path


@pytest.mark.parametrize(
    "target",
    [
        b"",
        b"x",
        b"x/y",
        b"?x",
        b"#",
        b"*",
        b"*/x",
        b"localhost:80",
        b"ftp://host/x",
        b"file:///etc/passwd",
        b"javascript:x",
        b"ws://host/x",
        b"unix:/x",
        b"http:/x",
        b"http:x",
        b"http//host/x",
        b"://host/x",
        b" http://host/x",
        b"/a b",
        b"/a\tb",
        b"/a\r\nX: y",
        b"/a\nb",
        b"/a\n",
        b"/a\x00",
        b"/a\x7f",
        b"/a?b\x0bc",
    ],
)
def test_targets_of_another_form_are_refused(target: bytes) -> None:
    assert refused(target) == 400


def test_the_asterisk_is_for_options_alone() -> None:
    request = good(b"*", method=b"OPTIONS")
    assert (request.target, request.path) == (b"*", b"*")
    for method in (b"GET", b"POST", b"PRI"):
        assert refused(b"*", method=method) == 400


@pytest.mark.parametrize(
    ("target", "authority", "onward"),
    [
        (b"http://h/x", b"h", b"/x"),
        (b"https://h/x?y", b"h", b"/x?y"),
        (b"HTTP://H/..", b"H", b"/.."),
        (b"hTTps://h:443", b"h:443", b"/"),
        (b"http://h?x", b"h", b"/?x"),
        (b"http://h#x", b"h", b"/#x"),
        (b"http://h//x", b"h", b"//x"),
        (b"http://h/http://other/x", b"h", b"/http://other/x"),
        (b"http://h?//other/x", b"h", b"/?//other/x"),
        (b"http://[::1]:80/x", b"[::1]:80", b"/x"),
        (b"http://h:/x", b"h:", b"/x"),
        (b"http://h/*", b"h", b"/*"),
    ],
)
def test_of_an_absolute_target_the_authority_holds_whatever_host_says(
    target: bytes, authority: bytes, onward: bytes
) -> None:
    request = good(target, host=(b"Host", b"elsewhere"))
    assert (request.authority, request.target) == (authority, onward)
    assert request.path == onward.partition(b"?")[0]


@pytest.mark.parametrize(
    "authority",
    [
        b"",
        b"user@h",
        b"user:pass@h",
        b"@h",
        b"h@",
        b"h\\@other",
        b"h%2f@x",
        b"a%40b",
        b"h%00",
        b"h,other",
        b"h;x",
        b"h:80:80",
        b":80",
        b"h:x",
        b"h:-1",
        b"h:99999",
        b"h:123456",
        b"[::1",
        b"::1",
        b"[::1]x",
        b"[]",
        b"[fe80::1%25eth0]",
        b"[fe80::1%eth0]",
        b"[v1.x]",
        b"[127.0.0.1]",
        b"[:::]",
        b"h\xc3\xa9",
        b"h x",
        b'"h"',
        b"'h'",
        b"h\r\nX: y",
        b"h\n",
    ],
)
def test_a_host_is_a_host_and_a_port_in_every_place(authority: bytes) -> None:
    assert refused(b"http://" + authority + b"/x") == 400
    if authority:
        assert refused(host=(b"Host", authority)) == 400
        assert refused(b"http://h/x", host=(b"Host", authority)) == 400


@pytest.mark.parametrize(
    "host",
    [
        b"localhost/x",
        b"a b",
        b"a,b",
        b"a@b",
        b'"a"',
        b"<a>",
        b"a?b",
        b"a#b",
        b"http://a",
        b"a\\b",
        b"a\t",
        b" a",
    ],
)
def test_an_invalid_host_is_refused(host: bytes) -> None:
    assert refused(host=(b"Host", host)) == 400


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"localhost",
        b"LocalHost:6333",
        b"my_service.svc.",
        b"10.0.0.1:80",
        b"[::1]",
        b"[fe80::1]:1",
        b"xn--caf-dma.fr",
    ],
)
def test_a_valid_host_is_taken_as_it_came(host: bytes) -> None:
    assert good(host=(b"hOsT", host)).authority == host


def test_http_1_1_needs_one_host() -> None:
    assert refused(host=None) == 400
    assert good(host=None, version=HTTP_1_0).authority == b""
    for version in (HTTP_1_0, HTTP_1_1):
        assert refused(b"/x", HOST, version=version) == 400
        assert refused(b"http://h/x", (b"HOST", b"other"), version=version) == 400
    assert refused(b"http://h/x", host=None) == 400


# --- fields


@pytest.mark.parametrize(
    "name", [b"", b"a b", b"a:", b"a\r\nb", b"a\x00", b"caf\xe9", b"a(b)", b"a/b", b" a", b"a\t"]
)
def test_a_field_name_is_a_token(name: bytes) -> None:
    assert refused(b"/x", (name, b"y")) == 400


@pytest.mark.parametrize("value", [b"a\r\nX: y", b"a\nb", b"a\rb", b"a\x00b", b"a\x1bb", b"\x7f", b"a\x0bb"])
def test_a_field_value_is_one_line(value: bytes) -> None:
    assert refused(b"/x", (b"X", value)) == 400


def test_field_values_beyond_ascii_pass_as_they_came() -> None:
    field = (b"X", b"caf\xe9 \xff\tblank")
    assert field in good(b"/x", field).fields


# --- body


def test_a_body_is_framed_by_one_length_or_by_chunks() -> None:
    assert good().framing == Framing()
    assert good(b"/x", (b"content-length", b"0")).framing == Framing(length=0)
    assert good(b"/x", (b"CONTENT-LENGTH", b"0012")).framing == Framing(length=12)
    assert good(b"/x", (b"Transfer-Encoding", b"Chunked")).framing == Framing(chunked=True)
    assert not Framing(length=0).has_body
    assert not Framing().has_body
    assert Framing(length=1).has_body
    assert Framing(chunked=True).has_body


LENGTH = b"Content-Length"
CODING = b"Transfer-Encoding"


@pytest.mark.parametrize(
    "fields",
    [
        [(LENGTH, b"5"), (LENGTH, b"5")],
        [(LENGTH, b"5"), (b"content-length", b"6")],
        [(LENGTH, b"5, 5")],
        [(LENGTH, b"+5")],
        [(LENGTH, b"-5")],
        [(LENGTH, b"5 ")],
        [(LENGTH, b"")],
        [(LENGTH, b"0x5")],
        [(LENGTH, b"5_0")],
        [(LENGTH, b"5.0")],
        [(LENGTH, b"\xb2")],
        [(LENGTH, "\u0665".encode())],
        [(LENGTH, b"9" * 19)],
        [(LENGTH, b"9" * 5_000)],
        [(LENGTH, b"5"), (CODING, b"chunked")],
        [(CODING, b"chunked"), (LENGTH, b"0")],
        [(CODING, b"chunked"), (CODING, b"chunked")],
        [(CODING, b"gzip"), (CODING, b"chunked")],
        [(CODING, b"gzip, chunked")],
        [(CODING, b"chunked, gzip")],
        [(CODING, b"chunked, identity")],
        [(CODING, b"chunked,")],
        [(CODING, b",chunked")],
        [(CODING, b"identity")],
        [(CODING, b"gzip")],
        [(CODING, b"")],
        [(CODING, b"xchunked")],
        [(CODING, b"chunked;q=1")],
        [(CODING, b'"chunked"')],
        [(CODING, b"chunked\x0b")],
        [(CODING, b" chunked")],
    ],
)
def test_every_other_framing_is_refused(fields: list[Field]) -> None:
    assert refused(b"/x", *fields, method=b"POST") == 400


def test_chunks_are_not_for_http_1_0() -> None:
    assert refused(b"/x", (CODING, b"chunked"), method=b"POST", version=HTTP_1_0) == 400


def test_only_100_continue_can_be_expected() -> None:
    assert good(b"/x", (b"Expect", b"100-Continue")).expects_continue
    assert not good(b"/x", (b"Expect", b"100-continue"), version=HTTP_1_0).expects_continue
    for value in (b"", b"200-ok", b"100-continue, x", b"100-continue;a"):
        assert refused(b"/x", (b"Expect", value)) == 417
    assert refused(b"/x", (b"Expect", b"100-continue"), (b"expect", b"100-continue")) == 417


# --- connection


@pytest.mark.parametrize(
    ("version", "connection", "persists"),
    [
        (HTTP_1_1, [], True),
        (HTTP_1_1, [b"close"], False),
        (HTTP_1_1, [b"Close"], False),
        (HTTP_1_1, [b"keep-alive, CLOSE"], False),
        (HTTP_1_1, [b"x", b" close\t"], False),
        (HTTP_1_1, [b"closed"], True),
        (HTTP_1_0, [], False),
        (HTTP_1_0, [b"Keep-Alive"], True),
        (HTTP_1_0, [b"keep-alive", b"close"], False),
    ],
)
def test_a_connection_persists_as_rfc_9112_has_it(
    version: tuple[int, int], connection: list[bytes], persists: bool
) -> None:
    fields = [(b"Connection", value) for value in connection]
    assert good(b"/x", *fields, version=version).persists == persists


UPGRADE: tuple[Field, Field] = ((b"Connection", b"keep-alive, Upgrade"), (b"Upgrade", b"WebSocket"))


def test_an_upgrade_to_a_websocket_is_asked_for_with_two_fields() -> None:
    assert good(b"/x", *UPGRADE).upgrades
    assert not good(b"/x", UPGRADE[0]).upgrades
    assert not good(b"/x", UPGRADE[1]).upgrades


@pytest.mark.parametrize(
    "protocol", [b"h2c", b"websocket, h2c", b"TLS/1.0", b"", b"websocket/13", b"h2c, websocket"]
)
def test_an_upgrade_to_anything_else_is_no_upgrade(protocol: bytes) -> None:
    assert not good(b"/x", UPGRADE[0], (b"Upgrade", protocol)).upgrades
    assert not good(b"/x", *UPGRADE, (b"Upgrade", protocol)).upgrades


def test_only_a_get_of_http_1_1_without_a_body_can_be_upgraded() -> None:
    assert not good(b"/x", *UPGRADE, version=HTTP_1_0).upgrades
    assert not good(b"/x", *UPGRADE, method=b"POST").upgrades
    assert not good(b"/x", *UPGRADE, (CODING, b"chunked")).upgrades
    assert not good(b"/x", *UPGRADE, (LENGTH, b"3")).upgrades
    assert good(b"/x", *UPGRADE, (LENGTH, b"0")).upgrades


# --- request id


@pytest.mark.parametrize("value", [b"a", b"0191-ab.c_d:e/f+g=h@i", b"x" * 128])
def test_a_request_id_that_is_short_and_plain_is_kept(value: bytes) -> None:
    assert good(b"/x", (b"X-Request-ID", value)).request_id == value


@pytest.mark.parametrize(
    "value", [b"", b"a b", b"x" * 129, b"caf\xe9", b'"a"', b"a,b", b"a;b", b"{a}", b"a%0ab"]
)
def test_any_other_request_id_is_none(value: bytes) -> None:
    assert good(b"/x", (b"X-Request-ID", value)).request_id is None


def test_the_first_of_several_fields_is_the_one_that_is_read() -> None:
    request = good(b"/x", (b"X-A", b"1"), (b"x-a", b"2"))
    assert request.first(b"x-a") == b"1"
    assert request.first(b"x-b") is None


def test_the_members_of_a_list_are_lower_case_and_never_empty() -> None:
    assert tokens([b"Close, ,TE\t", b"", b",,x-A"]) == {b"close", b"te", b"x-a"}


# --- anything


field_names = st.sampled_from(
    [b"Host", b"host", LENGTH, CODING, b"Expect", b"Connection", b"Upgrade", b"X-Request-Id", b"X", b"x_y"]
) | st.binary(max_size=8)
field_values = st.sampled_from(
    [b"localhost", b"h:80", b"5", b"0", b"chunked", b"100-continue", b"close", b"upgrade", b"websocket"]
) | st.binary(max_size=12)
targets = (
    st.binary(max_size=20)
    | st.binary(max_size=20).map(lambda t: b"/" + t)
    | st.binary(max_size=20).map(lambda t: b"http://" + t)
)


@given(
    st.sampled_from([b"GET", b"POST", b"OPTIONS"]) | st.binary(max_size=6),
    targets,
    st.sampled_from([HTTP_1_0, HTTP_1_1, (2, 0)]),
    st.lists(st.tuples(field_names, field_values), max_size=6).map(tuple),
)
def test_any_head_is_a_sound_request_or_refused(
    method: bytes, target: bytes, version: tuple[int, int], fields: tuple[Field, ...]
) -> None:
    request = examine(method, target, version, fields)
    if isinstance(request, Malformed):
        assert request.status in {400, 417, 505}
        return
    assert request.target.startswith(b"/") or (request.target == b"*" and method == b"OPTIONS")
    assert not set(request.target + request.authority) & set(b" \t\r\n\x00\x7f")
    assert not set(request.authority) & set(b"/@?#\\,\"'%")
    assert not set(b"".join(value for _, value in fields)) & set(b"\r\n\x00")
    assert request.target.startswith(request.path)
    assert request.fields == fields
    assert not (request.framing.chunked and request.framing.length is not None)


@pytest.mark.parametrize(
    ("target", "fields"),
    [
        (b"http://" + b"a" * 60_000 + b"@/", []),
        (b"http://" + b"1:" * 30_000, []),
        (b"/x", [(b"Connection", b"," * 60_000)]),
        (b"/x", [(b"X-Request-Id", b"a" * 60_000 + b" ")]),
        (b"/x", [(b"X-%d" % i, b"") for i in range(5_000)]),
        (b"/x", [(LENGTH, b"0" * 60_000)]),
    ],
)
def test_a_long_head_costs_no_more_than_its_length(target: bytes, fields: list[Field]) -> None:
    started = time.process_time()
    result = asked(target, *fields)
    assert isinstance(result, Request | Malformed)
    assert time.process_time() - started < 1
    assert isinstance(result, Malformed) or result.request_id is None
    started = time.process_time()
    assert refused(host=(b"Host", b"[" + b":" * 60_000 + b"]")) == 400
    assert refused(method=b"A-" * 30_000) == 400
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("target", "told"),
    [
        (b"/collections?api-key=s3cret", "/collections"),
        (b"/collections#s3cret", "/collections"),
        (b"/collections#s3cret?s3cret", "/collections"),
        (b"/caf\xc3\xa9", "/caf\\xc3\\xa9"),
    ],
)
def test_a_path_is_told_without_what_people_put_keys_in(target: bytes, told: str) -> None:
    assert printable(target) == told


def test_as_much_of_a_path_is_told_as_is_wanted() -> None:
    assert printable(b"/" + b"x" * 99 + b"?y", most=10) == "/xxxxxxxxx"
