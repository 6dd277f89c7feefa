"""The declarations: what they promise, and what follows from them."""

from pathlib import Path

from pydantic import SecretStr

from rekeyd.settings import (
    Admin,
    Logging,
    Service,
    Settings,
    Tls,
    as_running,
    restart_needed,
)
from rekeyd.settings.schema import sections


def test_sections_are_named_with_their_parents() -> None:
    assert {"service", "cluster", "cluster.p2p"} <= sections()
    assert "cluster.p2p.enable_tls" not in sections()


def test_a_change_of_what_is_fixed_is_named_and_of_the_rest_it_is_not() -> None:
    old = Settings(service=Service(http_port=1, api_key=SecretStr("a" * 20)))
    new = Settings(
        service=Service(http_port=2, api_key=SecretStr("b" * 20)),
        tls=Tls(watch=False, cert=Path("/c")),
        logging=Logging(level="debug"),
    )
    assert restart_needed(old, new) == ("service.http_port", "tls.watch")
    assert restart_needed(old, old) == ()


def test_the_default_socket_written_out_is_no_change() -> None:
    assert restart_needed(Settings(), Settings(admin=Admin(socket=Path("/run/rekeyd/admin.sock")))) == ()


def test_what_a_reload_can_not_change_stays_as_it_runs_and_the_rest_is_as_wanted() -> None:
    running = Settings(service=Service(http_port=1, enable_tls=True, api_key=SecretStr("a" * 20)))
    wanted = Settings(
        service=Service(http_port=2, api_key=SecretStr("b" * 20), insecure=True), tls=Tls(cert=Path("/c"))
    )
    mixed = as_running(wanted, running)
    assert mixed.service == Service(http_port=1, enable_tls=True, api_key=SecretStr("b" * 20))
    assert mixed.tls == wanted.tls
    assert as_running(running, running) == running
