"""What of a message goes on, and that nothing can be smuggled in it."""

import ipaddress

import httptools
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rekeyd.http1.forwarding import LAST_CHUNK, IPNetwork, Origin, chunk, homeward, onward, origin_of
from rekeyd.http1.request import Field, Framing, Malformed, Request, examine
from rekeyd.http1.response import BadResponseError, ResponseHead, ResponseReader

ORIGIN = Origin("192.0.2.1", vouched=False, forwarded_for=b"192.0.2.1", proto=b"https", host=b"front")
VOUCHED = Origin("192.0.2.1", vouched=True, forwarded_for=b"192.0.2.1", proto=b"https", host=b"front")
SECRET = b"the-key-of-the-client"


def asked(
    *fields: Field, method: bytes = b"GET", target: bytes = b"/x", host: bytes | None = b"front"
) -> Request:
    place = () if host is None else ((b"Host", host),)
    request = examine(method, target, (1, 0 if host is None else 1), (*place, *fields))
    assert isinstance(request, Request), request
    return request


def forwarded(
    *fields: Field,
    origin: Origin = ORIGIN,
    method: bytes = b"GET",
    added: tuple[Field, ...] = (),
    keep_credentials: bool = False,
) -> bytes:
    return onward(
        asked(*fields, method=method),
        origin,
        request_id=b"rid",
        default_authority=b"upstream:80",
        added=added,
        keep_credentials=keep_credentials,
    )


def fields_of(head: bytes) -> list[tuple[str, bytes]]:
    """The fields of a head, names in lower case, after the first line."""
    lines = head.removesuffix(b"\r\n\r\n").split(b"\r\n")[1:]
    return [(name.decode().lower(), value) for name, _, value in (line.partition(b": ") for line in lines)]


def names_of(head: bytes) -> list[str]:
    return [name for name, _ in fields_of(head)]


STANDARD = {"host", "x-forwarded-for", "x-forwarded-proto", "x-forwarded-host", "x-request-id"}


# --- onward


def test_a_request_goes_on_as_it_came_with_what_a_gateway_must_add() -> None:
    request = asked((b"ACCEPT", b"*/*"), (b"X-A", b"1"), (b"x-a", b"\xff 2"), target=b"/a%20b/..?%2f?")
    assert onward(request, ORIGIN, request_id=b"rid", default_authority=b"upstream:80") == (
        b"GET /a%20b/..?%2f? HTTP/1.1\r\n"
        b"Host: front\r\n"
        b"ACCEPT: */*\r\n"
        b"X-A: 1\r\n"
        b"x-a: \xff 2\r\n"
        b"X-Forwarded-For: 192.0.2.1\r\n"
        b"X-Forwarded-Proto: https\r\n"
        b"X-Forwarded-Host: front\r\n"
        b"X-Request-Id: rid\r\n"
        b"\r\n"
    )


def test_nothing_is_invented() -> None:
    assert set(names_of(forwarded())) == STANDARD


def test_host_is_the_clients_or_else_the_upstreams() -> None:
    for host, target, expected in (
        (b"front:80", b"/x", b"front:80"),
        (b"front", b"http://other:1/x", b"other:1"),
        (None, b"/x", b"upstream:80"),
        (b"", b"/x", b"upstream:80"),
    ):
        head = onward(
            asked(host=host, target=target), ORIGIN, request_id=b"r", default_authority=b"upstream:80"
        )
        assert [value for name, value in fields_of(head) if name == "host"] == [expected]
        assert head.startswith(b"GET /x HTTP/1.1\r\n")


@pytest.mark.parametrize(
    "name",
    [
        b"api-key",
        b"API-KEY",
        b"Api_Key",
        b"api.key",
        b"authorization",
        b"Authorization",
        b"proxy-authorization",
        b"X-HTTP-Method-Override",
        b"x_http_method_override",
        b"X-HTTP-Method",
        b"X-Method-Override",
        b"X-METHOD_OVERRIDE",
        b"X-Original-URL",
        b"X-Rewrite-URL",
        b"x_rewrite_url",
        b"connection",
        b"Keep-Alive",
        b"keep_alive",
        b"Proxy-Connection",
        b"Proxy-Authenticate",
        b"TE",
        b"Trailer",
        b"Upgrade",
        b"HTTP2-Settings",
        b"content_length",
        b"Transfer_Encoding",
        b"transfer.encoding",
        b"X-Rekeyd-Key-Id",
        b"x-rekeyd-right",
        b"X_Rekeyd_Right",
        b"x-rekeyd-",
        b"X.Rekeyd.Anything",
        b"X_Forwarded_For",
        b"X-Forwarded_Proto",
        b"x-forwarded-prefix",
        b"X-Forwarded-Port",
        b"X-Forwarded-Client-Cert",
        b"Forwarded",
        b"X-Real-IP",
        b"x_real_ip",
        b"X_Request_Id",
    ],
)
def test_what_must_not_reach_the_upstream_does_not_in_any_spelling(name: bytes) -> None:
    head = forwarded((b"Before", b"1"), (name, SECRET), (b"After", b"2"))
    assert SECRET not in head
    assert set(names_of(head)) == STANDARD | {"before", "after"}


@pytest.mark.parametrize(
    "name", [b"Cookie", b"User-Agent", b"Range", b"Origin", b"X-Api-Key", b"Via", b"Keep", b"rekeyd"]
)
def test_what_is_nobodys_business_passes(name: bytes) -> None:
    assert (name.decode().lower(), b"v") in fields_of(forwarded((name, b"v")))


def test_expect_is_answered_here_and_not_passed_on() -> None:
    head = forwarded((b"Expect", b"100-continue"), (b"Content-Length", b"3"), method=b"POST")
    assert "expect" not in names_of(head)


def test_what_connection_names_is_hop_by_hop() -> None:
    head = forwarded(
        (b"Connection", b"close, X-A"),
        (b"x-a", b"1"),
        (b"CONNECTION", b"x-b,"),
        (b"X-B", b"2"),
        (b"X-C", b"3"),
    )
    assert set(names_of(head)) == STANDARD | {"x-c"}


def test_naming_the_key_in_connection_does_not_keep_it() -> None:
    head = forwarded((b"Connection", b"api-key"), (b"api-key", SECRET), added=((b"api-key", b"ours"),))
    assert [value for name, value in fields_of(head) if name == "api-key"] == [b"ours"]


@pytest.mark.parametrize("framing", [(b"Content-Length", b"5"), (b"Transfer-Encoding", b"chunked")])
def test_framing_host_and_what_we_say_survive_being_named_in_connection(framing: Field) -> None:
    every = b", ".join(name.encode() for name in STANDARD) + b", content-length, Transfer-Encoding"
    head = forwarded((b"Connection", every), framing, method=b"POST")
    assert set(names_of(head)) == STANDARD | {framing[0].decode().lower()}
    assert (framing[0].decode().lower(), framing[1]) in fields_of(head)


def test_framing_is_written_anew() -> None:
    head = forwarded((b"CONTENT-length", b"007"), method=b"POST")
    assert [f for f in fields_of(head) if f[0] == "content-length"] == [("content-length", b"7")]
    assert b"CONTENT-length" not in head
    assert ("content-length", b"0") in fields_of(forwarded((b"Content-Length", b"0")))


def test_te_passes_for_trailers_alone() -> None:
    head = forwarded((b"Connection", b"TE"), (b"TE", b"trailers, deflate;q=0.5"))
    assert ("te", b"trailers") in fields_of(head)
    assert ("connection", b"TE") in fields_of(head)
    for fields in ([(b"TE", b"trailers")], [(b"Connection", b"TE"), (b"TE", b"gzip")]):
        assert not {"te", "connection"} & set(names_of(forwarded(*fields)))


def test_an_upgrade_passes_to_a_websocket_alone() -> None:
    head = forwarded(
        (b"Connection", b"keep-alive, upgrade"), (b"Upgrade", b"WebSocket"), (b"Sec-WebSocket-Key", b"k")
    )
    assert [f for f in fields_of(head) if f[0] in {"connection", "upgrade"}] == [
        ("connection", b"Upgrade"),
        ("upgrade", b"websocket"),
    ]
    assert ("sec-websocket-key", b"k") in fields_of(head)
    h2c = forwarded(
        (b"Connection", b"Upgrade, HTTP2-Settings"), (b"Upgrade", b"h2c"), (b"HTTP2-Settings", b"AAMA")
    )
    assert set(names_of(h2c)) == STANDARD


def test_credentials_pass_only_where_rekeyd_judges_none() -> None:
    credentials = ((b"api-key", b"k"), (b"Authorization", b"Bearer t"))
    assert not {"api-key", "authorization"} & set(names_of(forwarded(*credentials)))
    kept = forwarded(*credentials, keep_credentials=True)
    assert {"api-key", "authorization"} <= set(names_of(kept))


def test_a_trusted_proxy_may_say_more_but_neither_who_is_let_in_nor_what_is_asked() -> None:
    head = forwarded(
        (b"Forwarded", b"for=x"),
        (b"X-Real-IP", b"192.0.2.9"),
        (b"X-Forwarded-Prefix", b"/p"),
        (b"X-Forwarded-For", b"192.0.2.9"),
        (b"X-Rekeyd-Right", b"manage"),
        (b"X-Original-URL", b"/admin"),
        (b"X_Forwarded_For", b"192.0.2.8"),
        (b"X_Real_IP", b"192.0.2.8"),
        (b"X_Forwarded_Prefix", b"/q"),
        origin=VOUCHED,
    )
    assert set(names_of(head)) == STANDARD | {"forwarded", "x-real-ip", "x-forwarded-prefix"}
    assert [v for n, v in fields_of(head) if n == "x-forwarded-for"] == [b"192.0.2.1"]
    assert b"192.0.2.8" not in head


# --- origin


def networks(*texts: str) -> list[IPNetwork]:
    return [ipaddress.ip_network(text) for text in texts]


TRUSTED = networks("10.0.0.0/8", "127.0.0.0/8", "fd00::/8", "::1")


def came(*forwarded_for: bytes, peer: str = "10.0.0.1", trusted: list[IPNetwork] = TRUSTED) -> Origin:
    fields = [(b"X-Forwarded-For", value) for value in forwarded_for]
    return origin_of(asked(*fields), peer, tls=True, trusted=trusted)


def test_an_untrusted_peer_is_the_client_whatever_it_says() -> None:
    said = [
        (b"X-Forwarded-For", b"1.2.3.4"),
        (b"X-Forwarded-Proto", b"http"),
        (b"X-Forwarded-Host", b"evil"),
        (b"Forwarded", b"for=1.2.3.4"),
    ]
    for peer in ("192.0.2.1", "2001:db8::1", "fe80::1%eth0", "local", ""):
        for trusted in (TRUSTED, []):
            origin = origin_of(asked(*said), peer, tls=True, trusted=trusted)
            assert origin == Origin(peer, False, peer.encode(), b"https", b"front")
    assert origin_of(asked(), "192.0.2.1", tls=False, trusted=[]).proto == b"http"


@pytest.mark.parametrize(
    ("values", "client"),
    [
        ([], "10.0.0.1"),
        ([b""], "10.0.0.1"),
        ([b" , ,"], "10.0.0.1"),
        ([b"192.0.2.7"], "192.0.2.7"),
        ([b"192.0.2.7:5555"], "192.0.2.7"),
        ([b"2001:db8::7"], "2001:db8::7"),
        ([b"[2001:db8::7]"], "2001:db8::7"),
        ([b"[2001:db8::7]:5555"], "2001:db8::7"),
        ([b"::ffff:192.0.2.7"], "192.0.2.7"),
        ([b"[::ffff:192.0.2.7]:1"], "192.0.2.7"),
        ([b"6.6.6.6, 192.0.2.7"], "192.0.2.7"),
        ([b"6.6.6.6", b"192.0.2.7"], "192.0.2.7"),
        ([b"6.6.6.6, 192.0.2.7, 10.0.0.3, 127.0.0.1"], "192.0.2.7"),
        ([b"6.6.6.6, 192.0.2.7, ::ffff:10.0.0.3"], "192.0.2.7"),
        ([b"6.6.6.6, 192.0.2.7, fd00::1, 10.0.0.9:443"], "192.0.2.7"),
        ([b"10.0.0.5, 10.0.0.6"], "10.0.0.5"),
        ([b"6.6.6.6, 192.0.2.7:5555"], "192.0.2.7"),
    ],
)
def test_the_client_is_the_last_that_no_trusted_proxy_owns(values: list[bytes], client: str) -> None:
    origin = came(*values)
    assert origin.client == client
    assert origin.vouched
    assert origin.forwarded_for.endswith(b"10.0.0.1")


@pytest.mark.parametrize(
    "garbage",
    [
        b"unknown",
        b"_hidden",
        b"192.0.2.7:x",
        b"192.0.2.7:555555",
        b"192.0.2.256",
        b"192.0.2",
        b"192.0.2.07",
        b"[192.0.2.7",
        b"]192.0.2.7[",
        b"2001:db8::7]:80",
        b"fe80::1%eth0",
        b'"192.0.2.7"',
        b"for=192.0.2.7",
        b"192.0.2.7 6.6.6.6",
        b"\xff",
        b"\xd9\xa1.1.1.1",
        b"3221225991",
        b"0x7f.1",
        b"127.1",
    ],
)
def test_what_stands_before_something_that_is_no_address_is_not_believed(garbage: bytes) -> None:
    assert came(b"6.6.6.6, " + garbage).client == "10.0.0.1"
    assert came(b"6.6.6.6, " + garbage + b", 10.0.0.3").client == "10.0.0.3"
    assert came(garbage).client == "10.0.0.1"


@pytest.mark.parametrize(
    ("peer", "trusted", "known"),
    [
        ("::ffff:127.0.0.1", "127.0.0.0/8", True),
        ("::FFFF:10.1.2.3", "10.0.0.0/8", False),
        ("::ffff:192.0.2.1", "127.0.0.0/8", False),
        ("::1", "127.0.0.0/8", False),
        ("127.0.0.1", "::1/128", False),
        ("127.0.0.1", "::/0", False),
        ("::1", "::1/128", True),
        ("fe80::1%eth0", "fe80::/10", True),
        ("local", "0.0.0.0/0", False),
    ],
)
def test_a_peer_is_trusted_by_its_own_kind_of_address(peer: str, trusted: str, known: bool) -> None:
    origin = came(b"192.0.2.7", peer=peer.lower(), trusted=networks(trusted))
    expected = known or peer.startswith("::FFFF")
    assert origin.vouched == expected
    assert (origin.client == "192.0.2.7") == expected


def test_an_ipv4_peer_on_an_ipv6_socket_is_called_by_its_ipv4_address() -> None:
    for trusted in ([], TRUSTED):
        origin = came(peer="::ffff:192.0.2.1", trusted=trusted)
        assert (origin.client, origin.forwarded_for) == ("192.0.2.1", b"192.0.2.1")


def test_a_trusted_proxy_says_how_the_client_came() -> None:
    said = [(b"X-Forwarded-Proto", b"HTTP"), (b"X-Forwarded-Host", b"public.example")]
    origin = origin_of(asked(*said), "10.0.0.1", tls=True, trusted=TRUSTED)
    assert (origin.proto, origin.host) == (b"http", b"public.example")
    for proto in (b"ftp", b"", b"https, http", b"https\xff"):
        odd = origin_of(asked((b"X-Forwarded-Proto", proto)), "10.0.0.1", tls=True, trusted=TRUSTED)
        assert (odd.proto, odd.host) == (b"https", b"front")


def test_the_chain_goes_on_with_the_peer_at_its_end() -> None:
    assert came(b"6.6.6.6,192.0.2.7", b"10.0.0.3").forwarded_for == b"6.6.6.6, 192.0.2.7, 10.0.0.3, 10.0.0.1"


@given(st.lists(st.binary(max_size=20), max_size=4), st.text(max_size=20))
def test_any_chain_gives_an_address_or_the_peer(values: list[bytes], peer: str) -> None:
    fields = tuple((b"X-Forwarded-For", value) for value in values)
    request = examine(b"GET", b"/", (1, 1), ((b"Host", b"h"), *fields))
    if isinstance(request, Malformed):
        return
    for address in ("10.0.0.1", "192.0.2.1"):
        origin = origin_of(request, address, tls=False, trusted=TRUSTED)
        assert ipaddress.ip_address(origin.client)
        assert origin.vouched == (address == "10.0.0.1")


# --- homeward


def answer(
    status: int = 200, *fields: Field, reason: bytes = b"OK", framing: Framing | None = None
) -> ResponseHead:
    return ResponseHead(status, reason, fields, framing or Framing(), until_close=framing is None)


def test_an_answer_goes_home_as_it_came() -> None:
    head = answer(
        201,
        (b"SERVER", b"x/1"),
        (b"Set-Cookie", b"a"),
        (b"set-cookie", b"\xff"),
        (b"Content-Length", b"5"),
        reason=b"Made it",
    )
    assert homeward(head, Framing(length=5), minor=1, keep_alive=True) == (
        b"HTTP/1.1 201 Made it\r\n"
        b"SERVER: x/1\r\n"
        b"Set-Cookie: a\r\n"
        b"set-cookie: \xff\r\n"
        b"Content-Length: 5\r\n"
        b"\r\n"
    )


def test_hop_by_hop_fields_do_not_go_home() -> None:
    head = answer(
        200,
        (b"Connection", b"close, X-Internal, content-type"),
        (b"X-Internal", b"1"),
        (b"Keep-Alive", b"timeout=5"),
        (b"Proxy-Connection", b"x"),
        (b"Proxy-Authenticate", b"x"),
        (b"Trailer", b"x"),
        (b"Upgrade", b"h2c"),
        (b"TE", b"x"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X-Kept", b"1"),
    )
    sent = homeward(head, Framing(chunked=True), minor=1, keep_alive=True)
    assert fields_of(sent) == [("x-kept", b"1"), ("transfer-encoding", b"chunked")]


@pytest.mark.parametrize(
    ("minor", "keep_alive", "expected"),
    [(1, True, []), (1, False, [b"close"]), (0, True, [b"keep-alive"]), (0, False, [b"close"])],
)
def test_the_client_is_told_whether_its_connection_stays(
    minor: int, keep_alive: bool, expected: list[bytes]
) -> None:
    head = homeward(
        answer(200, (b"Connection", b"keep-alive")), Framing(length=0), minor=minor, keep_alive=keep_alive
    )
    assert [value for name, value in fields_of(head) if name == "connection"] == expected


def test_a_switch_of_protocols_goes_home_whole() -> None:
    head = answer(
        101, (b"Connection", b"Upgrade"), (b"Upgrade", b"websocket"), (b"Sec-WebSocket-Accept", b"a")
    )
    sent = fields_of(homeward(head, Framing(), minor=1, keep_alive=True))
    assert sorted(sent) == [
        ("connection", b"Upgrade"),
        ("sec-websocket-accept", b"a"),
        ("upgrade", b"websocket"),
    ]


def test_any_origin_may_read_with_cors_and_the_upstreams_word_holds() -> None:
    name = "access-control-allow-origin"
    plain = homeward(answer(), Framing(), minor=1, keep_alive=True)
    assert name not in names_of(plain)
    ours = homeward(answer(), Framing(), minor=1, keep_alive=True, cors=True)
    assert (name, b"*") in fields_of(ours)
    theirs = answer(200, (b"ACCESS-Control-Allow-Origin", b"https://a"))
    sent = homeward(theirs, Framing(), minor=1, keep_alive=True, cors=True)
    assert [value for key, value in fields_of(sent) if key == name] == [b"https://a"]


def test_pieces_become_chunks() -> None:
    assert chunk(b"x" * 26) == b"1a\r\n" + b"x" * 26 + b"\r\n"
    assert LAST_CHUNK == b"0\r\n\r\n"


# --- nothing can be smuggled


class Parsed:
    """What another parser reads."""

    def __init__(self) -> None:
        self.url = b""
        self.fields: list[Field] = []
        self.body = b""
        self.begun = self.headed = self.whole = 0

    def on_message_begin(self) -> None:
        self.begun += 1

    def on_url(self, url: bytes) -> None:
        self.url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self.fields.append((name, value))

    def on_headers_complete(self) -> None:
        self.headed += 1

    def on_body(self, body: bytes) -> None:
        self.body += body

    def on_message_complete(self) -> None:
        self.whole += 1

    def all(self, name: bytes) -> list[bytes]:
        return [value for field, value in self.fields if field.lower() == name]


nasty = st.sampled_from(
    [
        b"x\r\nX-Evil: 1",
        b"x\nX-Evil: 1",
        b"x\rX-Evil: 1",
        b"\r\n\r\nGET /evil HTTP/1.1\r\n\r\n",
        b"\r\n",
        b"a\x00b",
        b"\x0b\x0c\x85",
        b"\xe5\x98\x8a\xe5\x98\x8d",
    ]
)
texts = st.one_of(
    nasty,
    st.binary(max_size=12),
    st.sampled_from([b"", b"close", b"chunked", b"5", b"upgrade", b"websocket"]),
)
names = st.one_of(
    st.sampled_from(
        [
            b"Connection",
            b"content-length",
            b"Transfer-Encoding",
            b"X-Forwarded-For",
            b"X-Forwarded-Host",
            b"X-Request-Id",
            b"Content_Length",
            b"transfer_encoding",
            b"Upgrade",
            b"TE",
            b"api-key",
            b"X\r\nX-Evil",
            b"X-A",
        ]
    ),
    st.text("abcXYZ-_.~", min_size=1, max_size=6).map(str.encode),
    texts,
)
some_fields = st.lists(st.tuples(names, texts), max_size=5).map(tuple)
framings = st.sampled_from([Framing(), Framing(length=0), Framing(length=7), Framing(chunked=True)])
origins = st.builds(Origin, st.just("192.0.2.1"), st.booleans(), forwarded_for=texts, proto=texts, host=texts)


def lines_of(head: bytes) -> int:
    assert head.endswith(b"\r\n\r\n")
    assert head.count(b"\r") == head.count(b"\n") == head.count(b"\r\n")
    assert b"\r\n\r\n" not in head[:-4]
    assert b"\x00" not in head
    return head.count(b"\r\n")


raw_requests = st.builds(
    Request,
    method=texts,
    target=texts,
    path=texts,
    authority=texts,
    minor=st.just(1),
    fields=some_fields,
    framing=framings,
    expects_continue=st.booleans(),
    upgrades=st.booleans(),
    persists=st.booleans(),
)


@settings(max_examples=300)
@given(raw_requests, origins, texts, texts, some_fields)
def test_no_value_of_any_input_adds_a_line_to_what_goes_on(
    request_: Request, origin: Origin, request_id: bytes, default_authority: bytes, added: tuple[Field, ...]
) -> None:
    head = onward(request_, origin, request_id=request_id, default_authority=default_authority, added=added)
    assert lines_of(head) <= 1 + len(STANDARD) + len(request_.fields) + len(added) + 3 + 1
    assert b"\nX-Evil: 1" not in head
    assert b"\nGET /evil" not in head


@settings(max_examples=300)
@given(st.integers(100, 599), texts, some_fields, framings, st.integers(0, 1), st.booleans(), st.booleans())
def test_no_value_of_any_input_adds_a_line_to_what_goes_home(
    status: int,
    reason: bytes,
    fields: tuple[Field, ...],
    framing: Framing,
    minor: int,
    keep_alive: bool,
    cors: bool,
) -> None:
    answered = ResponseHead(status, reason, fields, framing, until_close=False)
    head = homeward(answered, framing, minor=minor, keep_alive=keep_alive, cors=cors)
    assert lines_of(head) <= 2 + len(fields) + 1 + 1 + 2
    assert b"\nX-Evil: 1" not in head


tame = texts.filter(lambda text: b"\r\n" not in text)
methods = st.sampled_from([b"GET", b"POST", b"PUT", b"HEAD", b"OPTIONS", b"DELETE", b"PATCH"])
targets = st.one_of(
    st.binary(max_size=12).map(lambda tail: b"/" + tail),
    st.binary(max_size=12).map(lambda tail: b"http://h" + tail),
    st.sampled_from([b"/", b"//x", b"/?x", b"/a b", b"*", b"http://h?x", b"/x HTTP/1.1\r\nX: y"]),
)
bodies = st.sampled_from(
    [
        (),
        ((b"Content-Length", b"5"),),
        ((b"content-length", b"005"),),
        ((b"Transfer-Encoding", b"chunked"),),
        ((b"Content-Length", b"5"), (b"Connection", b"content-length, host, transfer-encoding")),
        ((b"Transfer-Encoding", b"chunked"), (b"Connection", b"transfer-encoding, x-forwarded-for")),
        ((b"Connection", b"upgrade"), (b"Upgrade", b"websocket")),
    ]
)


@settings(max_examples=500)
@given(methods, targets, bodies, some_fields, st.booleans(), st.booleans())
def test_what_goes_on_is_read_as_exactly_one_request(
    method: bytes,
    target: bytes,
    body: tuple[Field, ...],
    fields: tuple[Field, ...],
    trusted: bool,
    keeps: bool,
) -> None:
    request = examine(method, target, (1, 1), ((b"Host", b"front"), *body, *fields))
    if isinstance(request, Malformed):
        return
    origin = origin_of(request, "10.0.0.1", tls=True, trusted=TRUSTED if trusted else [])
    head = onward(
        request,
        origin,
        request_id=b"r",
        default_authority=b"u",
        added=((b"api-key", b"ours"),),
        keep_credentials=keeps,
    )
    parsed = Parsed()
    parser = httptools.HttpRequestParser(parsed)
    sent = (
        chunk(b"hello") + LAST_CHUNK if request.framing.chunked else b"hello"[: request.framing.length or 0]
    )
    try:
        parser.feed_data(head + sent)
    except httptools.HttpParserUpgrade:
        assert request.upgrades
    except httptools.HttpParserInvalidURLError:
        assert not request.target.isascii()  # what llhttp refuses is nothing that it could mistake
        return
    assert (parsed.begun, parsed.headed, parsed.whole) == (1, 1, 1)
    assert parser.get_method() == method
    assert parsed.url == request.target
    assert parser.get_http_version() == "1.1"
    assert parsed.all(b"host") == [request.authority]
    assert parsed.all(b"content-length") == (
        [] if request.framing.length is None else [b"%d" % request.framing.length]
    )
    assert parsed.all(b"transfer-encoding") == ([b"chunked"] if request.framing.chunked else [])
    assert parsed.body == (
        b"hello"[: request.framing.length or 0] if not request.framing.chunked else b"hello"
    )
    assert parser.should_upgrade() == request.upgrades
    for name in (b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host", b"x-request-id"):
        assert len(parsed.all(name)) == 1
    if not keeps:
        assert parsed.all(b"api-key") == [b"ours"]


@settings(max_examples=300)
@given(
    st.sampled_from([b"200 OK", b"404 ", b"204 No Content", b"304 X", b"500 \xff"]),
    st.sampled_from([b"", b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"]),
    st.lists(
        st.tuples(st.sampled_from([b"Connection", b"X-A", b"Upgrade", b"Set-Cookie", b"Keep-Alive"]), tame),
        max_size=4,
    ),
    st.sampled_from([b"GET", b"HEAD"]),
    st.booleans(),
)
def test_what_goes_home_is_read_as_exactly_one_answer(
    status: bytes, framing: bytes, fields: list[Field], method: bytes, keep_alive: bool
) -> None:
    lines = b"".join(name + b": " + value + b"\r\n" for name, value in fields)
    upstream = ResponseReader(method)
    try:
        upstream.feed(b"HTTP/1.1 " + status + b"\r\n" + framing + lines + b"\r\n")
    except BadResponseError:
        return
    answered = upstream.head
    if answered is None:
        return
    head = homeward(answered, answered.framing, minor=1, keep_alive=keep_alive)
    client = ResponseReader(method)
    body = (
        b"" if upstream.complete else chunk(b"hello") + LAST_CHUNK if answered.framing.chunked else b"hello"
    )
    client.feed(head + body)
    client.end()
    assert client.head is not None
    assert (client.head.status, client.head.reason) == (answered.status, answered.reason)
    assert client.head.framing == answered.framing
    assert b"".join(client.pieces) == (b"hello" if body else b"")
    assert client.complete
    assert not client.excess
    assert client.keep_alive <= keep_alive
