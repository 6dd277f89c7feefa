"""Who gets in: the contract's table, and every way around it that we could think of."""

import importlib.resources
import ipaddress
import re
from dataclasses import replace
from urllib.parse import quote_from_bytes, unquote_to_bytes

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rekeyd.access.admission import Ask, Presented, decide, judge_body, objection_to
from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.policy import Policy
from rekeyd.access.policy_file import parse_policy
from rekeyd.access.rights import Limits, Reach, Right
from rekeyd.access.verdict import Allowed, Denied, Reason, Unverified
from support.grounds import Believed
from support.qdrant_table import Operation, operations


def shipped(name: str) -> Policy:
    source = importlib.resources.files("rekeyd") / "policies" / f"{name}.yaml"
    return parse_policy(source.read_bytes(), file=name)


QDRANT, HTTP = shipped("qdrant"), shipped("http")
WRITE_KEY, ALT_KEY, READ_KEY = b"a-read-write-key", b"another-read-write-key", b"a-read-only-key"
RING = KeyRing(
    [
        Credential.of_secret("api_key", Right.MANAGE, WRITE_KEY.decode()),
        Credential.of_secret("alt_api_key", Right.MANAGE, ALT_KEY.decode()),
        Credential.of_secret("read_only_api_key", Right.READ, READ_KEY.decode()),
    ]
)
NOBODY = Presented()


def bearing(key: bytes) -> Presented:
    return Presented.among([(b"api-key", key)])


def judged(
    method: str | bytes,
    path: str | bytes,
    presented: Presented = NOBODY,
    *,
    ring: KeyRing = RING,
    policy: Policy = QDRANT,
    insecure: bool = False,
) -> Allowed | Denied:
    method = method.encode() if isinstance(method, str) else method
    path = path.encode() if isinstance(path, str) else path
    grounds = Believed(ring, policy, open_to_all=insecure)
    verdict = decide(Ask(method, path, presented), grounds, now=0.0, verified={})
    assert not isinstance(verdict, Unverified)
    return verdict


# --- Qdrant's table


OPERATIONS = operations()


def test_the_table_has_all_operations() -> None:
    assert len(OPERATIONS) == 79
    assert {operation.allowed["manage"] for operation in OPERATIONS} == {True}


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_every_operation_of_the_table_is_for_whom_the_table_says(operation: Operation) -> None:
    method, path = operation.method, operation.path()
    for key in (WRITE_KEY, ALT_KEY):
        assert isinstance(judged(method, path, bearing(key)), Allowed)
    reads = judged(method, path, bearing(READ_KEY))
    assert isinstance(reads, Allowed) == operation.allowed["read"]
    if isinstance(reads, Denied):
        assert reads.reason is Reason.RIGHT_TOO_SMALL
    without = judged(method, path)
    assert isinstance(without, Allowed) == operation.allowed["open"]
    if isinstance(without, Denied):
        assert without.reason is Reason.NO_CREDENTIAL
    assert isinstance(judged(method, path, bearing(b"wrong")), Allowed) == operation.allowed["open"]


def test_the_policy_has_no_rule_that_the_table_does_not_have() -> None:
    assert {(rule.method, rule.template) for rule in QDRANT.rules if rule.method != "GRPC"} == {
        (o.method, o.template) for o in OPERATIONS if not o.allowed["open"]
    }
    assert QDRANT.open_paths == {o.path().encode() for o in OPERATIONS if o.allowed["open"]}


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/unknown"),
        ("GET", "/collections/x/unknown"),
        ("HEAD", "/collections"),
        ("OPTIONS", "/collections"),
        ("POST", "/"),
        ("GET", "/dashboard"),
        ("PATCH", "/collections/x/points"),
        ("QUERY", "/collections/x/points"),
        ("POST", "/collections/x/points/new-operation"),
    ],
)
def test_what_no_rule_names_needs_the_highest_right(method: str, path: str) -> None:
    denied = judged(method, path, bearing(READ_KEY))
    assert denied == Denied(
        Reason.RIGHT_TOO_SMALL,
        "Forbidden: manage access is required",
        RING.find(READ_KEY),
        Right.MANAGE,
    )
    assert judged(method, path, bearing(WRITE_KEY)) == Allowed(Reason.KEY, RING.find(WRITE_KEY), Right.MANAGE)


# --- credentials


def test_no_credential_is_denied_in_qdrants_words() -> None:
    assert judged("GET", "/collections") == Denied(
        Reason.NO_CREDENTIAL, "Must provide an API key or an Authorization bearer token"
    )


@pytest.mark.parametrize(
    "fields",
    [
        [(b"authorization", b"Basic dXNlcjpwYXNz")],
        [(b"authorization", b"Bearer")],
        [(b"authorization", b"")],
        [(b"authorization", b"Bearer\t" + WRITE_KEY)],
        [(b"authorization", b"BearerX " + WRITE_KEY)],
        [(b"authorization", WRITE_KEY)],
        [(b"authorization", b" Bearer " + WRITE_KEY)],
        [(b"api_key", WRITE_KEY)],
        [(b"x-api-key", WRITE_KEY)],
        [(b"api-key ", WRITE_KEY)],
        [(b"proxy-authorization", b"Bearer " + WRITE_KEY)],
        [(b"cookie", b"api-key=" + WRITE_KEY)],
    ],
)
def test_what_is_no_credential_lets_nobody_in(fields: list[tuple[bytes, bytes]]) -> None:
    denied = judged("GET", "/collections", Presented.among(fields))
    assert isinstance(denied, Denied)
    assert denied.reason in {Reason.NO_CREDENTIAL, Reason.UNKNOWN_KEY}


@pytest.mark.parametrize(
    "key",
    [
        b"",
        b" ",
        b"wrong",
        WRITE_KEY + b" ",
        b" " + WRITE_KEY,
        WRITE_KEY.upper(),
        WRITE_KEY[:-1],
        WRITE_KEY + b"\x00",
        WRITE_KEY + b", " + WRITE_KEY,
        b'"' + WRITE_KEY + b'"',
        b"\xff\xfe\x80",
        "schlüssel".encode(),
        b"Bearer " + WRITE_KEY,
        b"eyJhbGciOiJub25lIn0.e30.",
        b"k" * 60_000,
    ],
)
def test_an_unknown_key_is_denied_in_qdrants_words(key: bytes) -> None:
    expected = Denied(Reason.UNKNOWN_KEY, "Invalid API key or JWT")
    assert judged("GET", "/collections", bearing(key)) == expected
    if key.strip(b" ") not in {b"", WRITE_KEY}:
        token = Presented.among([(b"Authorization", b"Bearer " + key)])
        assert judged("GET", "/collections", token) == expected


@pytest.mark.parametrize("scheme", [b"Bearer", b"bearer", b"BEARER", b"bEaReR"])
@pytest.mark.parametrize("name", [b"authorization", b"Authorization", b"AUTHORIZATION"])
def test_bearer_has_no_case(scheme: bytes, name: bytes) -> None:
    for value in (scheme + b" " + READ_KEY, scheme + b"   " + READ_KEY, scheme + b" " + READ_KEY + b" "):
        allowed = judged("GET", "/collections", Presented.among([(name, value)]))
        assert allowed == Allowed(Reason.KEY, RING.find(READ_KEY), Right.READ)


@pytest.mark.parametrize("name", [b"api-key", b"Api-Key", b"API-KEY"])
def test_the_name_of_the_key_header_has_no_case(name: bytes) -> None:
    allowed = judged("PUT", "/collections/x/points", Presented.among([(name, WRITE_KEY)]))
    assert allowed == Allowed(Reason.KEY, RING.find(WRITE_KEY), Right.WRITE)


def test_an_invalid_api_key_is_not_saved_by_a_valid_bearer_token() -> None:
    for wrong in (b"wrong", b""):
        presented = Presented.among([(b"authorization", b"Bearer " + WRITE_KEY), (b"api-key", wrong)])
        denied = judged("GET", "/collections", presented)
        assert isinstance(denied, Denied)
        assert denied.reason is Reason.UNKNOWN_KEY


def test_a_valid_api_key_is_not_spoilt_by_an_invalid_bearer_token() -> None:
    presented = Presented.among([(b"authorization", b"Basic x"), (b"api-key", READ_KEY)])
    assert isinstance(judged("GET", "/collections", presented), Allowed)


@pytest.mark.parametrize(
    "fields",
    [
        [(b"api-key", WRITE_KEY), (b"api-key", WRITE_KEY)],
        [(b"api-key", WRITE_KEY), (b"API-Key", READ_KEY)],
        [(b"api-key", WRITE_KEY), (b"api-key", b"")],
        [(b"authorization", b"Bearer " + WRITE_KEY)] * 2,
        [(b"authorization", b"Bearer " + WRITE_KEY), (b"Authorization", b"Basic x")],
        [(b"api-key", WRITE_KEY), (b"authorization", b"x"), (b"authorization", b"y")],
    ],
)
def test_the_same_credential_header_twice_is_a_bad_request(fields: list[tuple[bytes, bytes]]) -> None:
    denied = judged("GET", "/collections", Presented.among(fields))
    assert denied == Denied(Reason.REPEATED_CREDENTIAL, "The same credential header came twice")


def test_nothing_presented_is_one_value() -> None:
    assert Presented.among([(b"accept", b"*/*")]) is Presented.among([])


# --- open paths, and doors left open


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/livez"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
def test_an_open_path_is_open_whatever_credential_comes_along(method: str, path: str) -> None:
    doubled = Presented.among([(b"api-key", b"x"), (b"api-key", b"y")])
    for presented in (NOBODY, bearing(b"wrong"), bearing(READ_KEY), doubled, bearing(b"\xff")):
        assert judged(method, path, presented) == Allowed(Reason.OPEN)


def test_an_open_path_is_open_in_no_other_form() -> None:
    for path in (
        "//",
        "/.",
        "/healthz/",
        "/HEALTHZ",
        "/%68ealthz",
        "/x/../healthz",
        "/healthz;x",
        "/healthz#",
    ):
        assert isinstance(judged("GET", path), Denied)
    assert isinstance(judged("POST", "/healthz"), Denied)


def test_everybody_gets_in_where_the_door_was_left_open_on_purpose_and_nowhere_else() -> None:
    empty = KeyRing([])
    for path in ("/collections", "/x/../y", "*"):
        assert judged("PUT", path, ring=empty, insecure=True) == Allowed(Reason.INSECURE)
        assert isinstance(judged("PUT", path, ring=empty), Denied)
    assert isinstance(judged("PUT", "/collections", bearing(b"any"), ring=empty), Denied)


# --- paths


@pytest.mark.parametrize(
    "path",
    [
        "/collections/../collections",
        "/collections/%2e%2e/x",
        "/collections//x",
        "//collections",
        "/collections/a%2Fb",
        "/collections/a%5Cb",
        "/collections/a;b",
        "/collections\\x",
        "/collections/%00",
        "/collections/x\xff",
        "/collections#x",
        "*",
        "",
    ],
)
def test_a_path_not_in_normal_form_needs_the_highest_right(path: str) -> None:
    assert judged("GET", path.encode("latin-1"), bearing(READ_KEY)) == Denied(
        Reason.PATH_NOT_NORMAL, "The path is not in normal form", RING.find(READ_KEY), Right.MANAGE
    )
    assert isinstance(judged("GET", path.encode("latin-1"), bearing(WRITE_KEY)), Allowed)
    for policy in (QDRANT, HTTP):
        without = judged("GET", path.encode("latin-1"), policy=policy)
        assert isinstance(without, Denied)
        assert without.reason is Reason.NO_CREDENTIAL


@pytest.mark.parametrize(
    "name", ["my%20coll", "%41bc", "100%25", "caf%C3%A9", "%E4%B8%AD", "a:b", "a%2Bb", "ALIASES"]
)
def test_encoded_names_are_normal(name: str) -> None:
    for method, path in (
        ("GET", f"/collections/{name}"),
        ("GET", f"/collections/{name}/points/1"),
        ("POST", f"/collections/{name}/points/search"),
    ):
        assert isinstance(judged(method, path, bearing(READ_KEY)), Allowed)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/%63ollections"),
        ("GET", "/Collections"),
        ("GET", "/collections/"),
        ("POST", "/collections/x/points/%73earch"),
        ("POST", "/collections/x/points/Search"),
        ("POST", "/collections/x/points/search/"),
        ("GET", "/collections/x/shards/1/snapshot/"),
    ],
)
def test_a_literal_is_taken_letter_by_letter(method: str, path: str) -> None:
    denied = judged(method, path, bearing(READ_KEY))
    assert isinstance(denied, Denied)
    assert denied.reason is Reason.RIGHT_TOO_SMALL


@pytest.mark.parametrize(
    "path",
    [
        "/collections/aliases%3b/points",
        "/collections/aliases%3F/points/search",
        "/collections/aliases%23x/facet",
    ],
)
def test_a_name_that_a_server_could_cut_to_a_literal_does_not_hide_it(path: str) -> None:
    assert isinstance(judged("POST", path, bearing(READ_KEY)), Denied)


# What a lenient server could make of a path, against the table.


def readings(path: bytes) -> set[tuple[str, ...]]:
    """All that a server which decodes, cuts, merges, resolves and folds too much could read."""
    found: set[tuple[str, ...]] = set()
    for _ in range(6):
        for text in {path, path.replace(b"\\", b"/")}:
            found |= {
                _resolved(text),
                _resolved(re.split(rb"[;?#\x00]", text)[0]),
                _resolved(re.sub(rb"[;\x00][^/]*", b"", text)),
            }
        path = unquote_to_bytes(path)
    return found


def _resolved(path: bytes) -> tuple[str, ...]:
    kept: list[str] = []
    for part in path.decode("utf-8", "replace").split("/"):
        name = part.strip().upper().casefold()
        if name == "..":
            kept = kept[:-1]
        elif name not in {"", "."}:
            kept.append(name)
    return tuple(kept)


def needs_more_than_read(method: str, reading: tuple[str, ...]) -> bool:
    """Whether some operation that is no read is what a router would choose."""
    matching = [o for o in OPERATIONS if o.method == method and _matches(o.template, reading)]
    matching.sort(key=lambda o: [part.startswith("{") for part in o.template.split("/")])
    return bool(matching) and not matching[0].allowed["read"]


def _matches(template: str, reading: tuple[str, ...]) -> bool:
    parts = [part for part in template.split("/") if part]
    return len(parts) == len(reading) and all(
        part.startswith("{") or part == name for part, name in zip(parts, reading, strict=True)
    )


def encoded(text: bytes, times: int) -> bytes:
    for _ in range(times):
        text = b"".join(b"%%%02x" % byte for byte in text)
    return text


names = st.sampled_from(
    ["a", "aliases", "snapshot", "points", "delete", "upload", "1", "%20", "é", "\u017fnapshot"]
)
templates = st.builds(
    lambda operation, name: re.sub(r"\{\w+\}", name, operation.template).encode(),
    st.sampled_from(OPERATIONS),
    names,
)
joints = st.sampled_from(
    [
        b"",
        b"/",
        b"//",
        b"/./",
        b"/../",
        b"/../../",
        b"/..;/",
        b";",
        b";x=",
        b"\\",
        b"?",
        b"#",
        b"\x00",
        b"%",
        b" ",
        b".",
    ]
)


@st.composite
def disguised(draw: st.DrawFn, operations: st.SearchStrategy[bytes] = templates) -> bytes:
    """One or two operations, spliced, with some characters encoded (more than once), or in another case."""
    path = draw(operations) + draw(joints) + draw(st.one_of(st.just(b""), operations)) + draw(joints)
    out = []
    for position, byte in enumerate(path):
        one = bytes([byte])
        if position and draw(st.integers(0, 5)) == 0:
            one = draw(
                st.sampled_from(
                    [
                        one.swapcase(),
                        encoded(one, 1),
                        encoded(one, 2),
                        encoded(one, 1).upper(),
                        b"%%25%02x" % byte,
                    ]
                )
            )
        out.append(one)
    return b"".join(out)


methods = st.sampled_from(sorted({o.method for o in OPERATIONS}))


@settings(max_examples=600)
@given(methods, disguised())
@example("POST", b"/collections/a%252fpoints%252fdelete%253b/points")
@example("POST", b"/collections/aliases%3b/points")
@example("POST", b"/collections/aliases%253f/points/search")
@example("GET", b"/collections/a/shards/1/%25%37%33napshot")
@example("GET", b"/collections/a/shards/1/\xc5\xbfnapshot")
@example("POST", b"/collections/x/points/search/%252e%252e/delete")
def test_no_disguise_of_a_path_lets_a_read_only_key_do_more_than_read(method: str, path: bytes) -> None:
    if isinstance(judged(method, path, bearing(READ_KEY)), Allowed):
        assert not [r for r in readings(path) if needs_more_than_read(method, r)]


@settings(max_examples=300)
@given(st.sampled_from(OPERATIONS), st.data())
def test_no_respelling_of_a_denied_operation_is_allowed(operation: Operation, data: st.DataObject) -> None:
    if operation.allowed["read"]:
        return
    path = bytearray()
    for byte in operation.path().encode():
        times = data.draw(st.integers(0, 3)) if byte not in b"/%" else 0
        path += encoded(bytes([byte]), max(0, times - 1)) if times else bytes([byte]).swapcase()
    path += data.draw(st.sampled_from([b"", b"/", b"//", b"/.", b";", b"%20", b"%2f", b"%252f", b"?", b"#"]))
    assert isinstance(judged(operation.method, bytes(path), bearing(READ_KEY)), Denied)


@given(
    methods,
    st.binary(max_size=60).map(lambda tail: b"/" + tail) | st.binary(max_size=20) | disguised(),
    st.lists(
        st.tuples(
            st.sampled_from([b"api-key", b"Api-Key", b"authorization", b"api_key", b"x"]),
            st.binary(max_size=20)
            | st.sampled_from([b"Bearer x", b"bearer ", READ_KEY[:-1], WRITE_KEY + b"x"]),
        ),
        max_size=4,
    ),
)
def test_without_a_known_key_only_open_paths_are_served(
    method: str, path: bytes, fields: list[tuple[bytes, bytes]]
) -> None:
    for policy in (QDRANT, HTTP):
        verdict = judged(method, path, Presented.among(fields), policy=policy)
        opened = method in {"GET", "HEAD", "OPTIONS"} and path in policy.open_paths
        assert isinstance(verdict, Allowed) == opened


@given(methods, disguised(), st.sampled_from([WRITE_KEY, READ_KEY, b"wrong"]))
def test_no_verdict_holds_a_secret(method: str, path: bytes, key: bytes) -> None:
    verdict = repr(judged(method, path, bearing(key)))
    assert key.decode() not in verdict
    assert Credential.of_secret("x", Right.READ, key.decode()).digest.hex() not in verdict


@given(methods, st.binary(max_size=60).map(lambda tail: b"/" + tail) | disguised())
def test_a_read_write_key_may_do_everything(method: str, path: bytes) -> None:
    for policy in (QDRANT, HTTP):
        assert isinstance(judged(method, path, bearing(WRITE_KEY), policy=policy), Allowed)


# --- limits


READ_BOOKS = Limits(collections=(("books", Reach.READ),))
POINTS_OF_BOOKS = Limits(collections=(("books", Reach.POINTS),))
WRITE_BOOKS = Limits(collections=(("books", Reach.WRITE),))
LIMITED = {"collection_r": READ_BOOKS, "collection_prw": POINTS_OF_BOOKS, "collection_rw": WRITE_BOOKS}
SECRET = b"a-secret-of-whom-is-limited"


def limited(limits: Limits, right: Right = Right.WRITE) -> KeyRing:
    return KeyRing([replace(Credential.of_secret("limited", right, SECRET.decode()), limits=limits)])


def reason_for(method: str | bytes, path: str | bytes, ring: KeyRing, policy: Policy = QDRANT) -> Reason:
    return judged(method, path, bearing(SECRET), ring=ring, policy=policy).reason


@pytest.mark.parametrize("operation", OPERATIONS, ids=str)
def test_who_is_limited_to_a_collection_may_do_what_the_table_says(operation: Operation) -> None:
    for kind, limits in LIMITED.items():
        ring = limited(limits, max(reach.right for _, reach in limits.collections or ()))

        def allowed(collection: str, ring: KeyRing = ring) -> bool:
            path = operation.path(collection)
            return isinstance(judged(operation.method, path, bearing(SECRET), ring=ring), Allowed)

        assert allowed("books") is operation.is_for(kind), kind
        assert not (operation.of_a_collection and allowed("papers")), kind


def test_what_needs_the_body_is_allowed_depending_on_it() -> None:
    for operation in OPERATIONS:
        asked = operation.method, operation.path("books")
        verdict = judged(*asked, bearing(SECRET), ring=limited(READ_BOOKS, Right.READ))
        assert isinstance(verdict, Denied) or verdict.lookups is operation.needs_the_body, operation
        whole = judged(*asked, bearing(READ_KEY))
        assert isinstance(whole, Denied) or not whole.lookups, "who may read everything may look anything up"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"query": [1]}', Reason.KEY),
        (b'{"lookup_from": {"collection": "books"}}', Reason.KEY),
        (b'{"lookup_from": {"collection": "papers"}}', Reason.COLLECTION_NOT_ALLOWED),
        (b'{"prefetch": [{"lookup_from": {"collection": "papers"}}]}', Reason.COLLECTION_NOT_ALLOWED),
        (b'{"lookup_from": {"collection": "book\\u0073"}}', Reason.KEY),
        (b'{"\\u006cookup_from": {"collection": "papers"}}', Reason.COLLECTION_NOT_ALLOWED),
        (b'{"lookup_from": 7}', Reason.BODY_NOT_JUDGED),
        (b"lookup_from", Reason.BODY_NOT_JUDGED),
    ],
)
def test_a_body_that_names_another_collection_is_judged(body: bytes, reason: Reason) -> None:
    ring = limited(READ_BOOKS, Right.READ)
    allowed = judged("POST", "/collections/books/points/query", bearing(SECRET), ring=ring)
    assert isinstance(allowed, Allowed)
    assert judge_body(allowed, body, QDRANT).reason is reason


def test_a_body_matters_only_where_the_verdict_depends_on_it() -> None:
    allowed = judged("POST", "/collections/books/points/query", bearing(READ_KEY))
    assert isinstance(allowed, Allowed)
    assert judge_body(allowed, b'{"lookup_from": {"collection": "papers"}}', QDRANT) is allowed


of_collections = st.builds(
    lambda operation, name: operation.path(name).encode(),
    st.sampled_from([operation for operation in OPERATIONS if operation.of_a_collection]),
    st.sampled_from(["books", "papers"]),
)


@settings(max_examples=600)
@given(methods, disguised(of_collections), st.sampled_from(list(LIMITED.values())))
@example("GET", b"/collections/books", READ_BOOKS)
@example("POST", b"/collections/%62ooks/points/scroll", READ_BOOKS)
def test_no_spelling_of_a_path_reaches_another_collection(method: str, path: bytes, limits: Limits) -> None:
    """However often a server decodes the path, the collection that it finds there is `books`."""
    if reason_for(method, path, limited(limits)) is Reason.KEY:
        reading = path
        for _ in range(5):
            reading = unquote_to_bytes(reading)
            _, first, *rest = reading.split(b"/")
            assert first.lower() != b"collections" or rest[:1] in ([], [b"books"])


@given(st.text(min_size=1, max_size=12), st.integers(0, 3))
def test_a_collection_is_reached_by_its_own_name_alone(name: str, layers: int) -> None:
    segment = name.encode("utf-8", "surrogatepass")
    for _ in range(layers + 1):
        segment = quote_from_bytes(segment, safe="").encode()
    path = b"/collections/" + segment + b"/points/scroll"
    reached = reason_for("POST", path, limited(READ_BOOKS, Right.READ)) is Reason.KEY
    assert reached is (name == "books")


@pytest.mark.parametrize(
    "path",
    ["/collections/books/../papers", "/collections//books", "/collections/books;x", "/collections/books%2fx"],
)
def test_who_is_limited_needs_a_path_in_normal_form_whatever_the_right(path: str) -> None:
    for limits in (READ_BOOKS, Limits(paths=(b"/collections/books",)), Limits(paths=(b"/",))):
        assert reason_for("GET", path, limited(limits, Right.MANAGE)) is Reason.PATH_NOT_NORMAL


def test_a_limit_to_paths_is_a_limit_whatever_the_right() -> None:
    ring = limited(Limits(paths=(b"/collections/books",)), Right.MANAGE)
    assert reason_for("DELETE", "/collections/books", ring) is Reason.KEY
    assert reason_for("DELETE", "/collections/papers", ring) is Reason.PATH_NOT_ALLOWED
    assert reason_for("GET", "/collections/booksellers", ring) is Reason.PATH_NOT_ALLOWED


def test_a_policy_that_knows_no_collections_has_nothing_for_who_is_limited_to_some() -> None:
    assert reason_for("GET", "/collections/books", limited(READ_BOOKS), HTTP) is Reason.COLLECTION_NOT_ALLOWED


def test_a_key_is_good_for_a_time_and_from_a_network() -> None:
    key = replace(
        Credential.of_secret("key", Right.READ, SECRET.decode()),
        not_before=10.0,
        expires=20.0,
        limits=Limits(networks=(ipaddress.ip_network("192.0.2.0/24"),)),
    )

    def at(now: float, client: str) -> Reason:
        ask = Ask(b"GET", b"/collections", bearing(SECRET), client)
        verdict = decide(ask, Believed(KeyRing([key]), QDRANT), now, {})
        assert not isinstance(verdict, Unverified)
        return verdict.reason

    assert at(9.9, "192.0.2.7") is Reason.NOT_YET_VALID
    assert at(10.0, "192.0.2.7") is Reason.KEY
    assert at(20.0, "192.0.2.7") is Reason.EXPIRED
    assert at(15.0, "198.51.100.7") is at(15.0, "local") is Reason.NETWORK_NOT_ALLOWED


def test_a_key_of_the_key_file_with_a_secret_that_may_be_guessed_is_refused() -> None:
    weak = replace(Credential.of_secret("weak", Right.READ, "letmein"), named=True)
    static = Credential.of_secret("api_key", Right.READ, "hunter2")
    ring = KeyRing([weak, static])
    denied = judged("GET", "/collections", bearing(b"letmein"), ring=ring)
    assert (denied.reason, denied.key_id) == (Reason.WEAK_SECRET, "weak")
    assert isinstance(denied, Denied)
    assert denied.message == "Invalid API key or JWT", "who tries secrets learns nothing"
    assert judged("GET", "/collections", bearing(b"hunter2"), ring=ring).reason is Reason.KEY


def test_what_was_let_in_is_judged_anew_by_what_is_believed_now() -> None:
    reader = Credential.of_secret("reader", Right.READ, READ_KEY.decode())
    ask = Ask(b"GET", b"/collections")
    closed = Believed(KeyRing([]), QDRANT)
    assert objection_to(ask, reader, Believed(KeyRing([reader]), QDRANT), 0.0) is None
    assert objection_to(ask, reader, closed, 0.0) == "key reader was removed"
    assert objection_to(ask, reader, Believed(KeyRing([reader]), Policy.of("p", [], [])), 0.0) == (
        "key reader is not enough any more: right_too_small"
    )
    assert objection_to(ask, None, closed, 0.0) == "a key is needed now"
    assert objection_to(ask, None, replace(closed, open_to_all=True), 0.0) is None
