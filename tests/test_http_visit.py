"""What a visit tells; the rest of it is seen over real sockets in `test_http_gateway`."""

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Right
from rekeyd.access.verdict import Allowed, Denied, Reason
from rekeyd.listeners.http.visit import Guest, Visit
from support.generations import Site


@pytest.fixture
def visit(tmp_path: Path) -> Visit:
    site = Site(tmp_path)
    generation = site.disk.load().generation(7)
    guest = SimpleNamespace(generation=generation, identity="cn:a", tls=None, cipher=None)
    return Visit(100.0, generation, cast(Guest, guest), "local", "local", None)


def test_a_visit_without_a_transport_is_local_and_in_the_clear(visit: Visit) -> None:
    assert (visit.peer, visit.client, visit.tls) == ("local", "local", None)


def test_an_allowed_visit_tells_who_and_how_long(visit: Visit) -> None:
    visit.verdict = Allowed(Reason.KEY, Credential("api_key", Right.MANAGE, b""), Right.READ)
    visit.status = 200
    told = visit.decision(100.25)
    assert (told.decision, told.reason, told.key_id, told.right_needed) == (
        "allowed",
        "key",
        "api_key",
        Right.READ,
    )
    assert (told.client_certificate, told.connection_generation) == ("cn:a", None)
    assert (told.status, told.duration, told.generation) == (200, 0.25, 7)


def test_a_denied_visit_tells_why(visit: Visit) -> None:
    visit.verdict = Denied(Reason.UNKNOWN_KEY, "Invalid API key or JWT")
    told = visit.decision(100.0)
    assert (told.decision, told.reason, told.key_id) == ("denied", "unknown_key", None)


def test_what_never_became_a_request_is_denied_and_our_own_paths_are_open(visit: Visit) -> None:
    visit.reason = "malformed"
    assert visit.decision(100.0).decision == "denied"
    visit.reason = "health"
    assert visit.decision(100.0).decision == "allowed"
