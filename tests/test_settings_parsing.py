"""`parse` as its callers see it: what comes out, what is told, and what is never told."""

import traceback
from pathlib import Path

import pytest
from pydantic import SecretStr

from rekeyd.errors import Problem, SettingsError
from rekeyd.settings import Parsed, UnfitSettingsError, parse, under

KEY = "4f1c0d9e8b7a69584736251403f2e1d0"
GOOD = f"""
service:
  host: 127.0.0.1
  api_key: {KEY}
upstream:
  http: http://127.0.0.1:16333
"""


def parsed(text: str = GOOD, environ: dict[str, str] | None = None) -> Parsed:
    return parse(
        text.encode(), file=Path("/etc/rekeyd/rekeyd.yaml"), environ=environ or {}, cwd=Path("/here")
    )


def problems(text: str, environ: dict[str, str] | None = None) -> tuple[Problem, ...]:
    with pytest.raises(SettingsError) as caught:
        parsed(text, environ)
    return caught.value.problems


def test_what_is_not_set_has_its_default() -> None:
    settings = parsed().settings
    assert settings.service.http_port == 6333
    assert settings.service.alt_api_key is None
    assert settings.tls.cert_ttl == 3600
    assert settings.admin.socket == Path("/run/rekeyd/admin.sock")


def test_a_key_is_kept_as_a_secret() -> None:
    settings = parsed().settings
    assert settings.service.api_key == SecretStr(KEY)
    assert KEY not in repr(parsed())
    assert KEY not in str(settings.model_dump())


@pytest.mark.parametrize("off", ["0", "0.0", "null"])
def test_a_ttl_of_zero_or_null_turns_the_timer_off(off: str) -> None:
    assert parsed(f"{GOOD}tls: {{cert_ttl: {off}}}").settings.tls.cert_ttl is None


def test_paths_in_a_file_are_relative_to_its_folder() -> None:
    settings = parsed(
        f"service: {{host: 127.0.0.1, api_key: {KEY}}}\n"
        "upstream: {http: 'unix:run/q.sock', ca_cert: up.pem}\n"
        "tls: {cert: tls/cert.pem, key: /keys/key.pem, ca_cert: ../ca.pem}\n"
        "access: {policy: ollama.yaml}\n"
        "admin: {socket: a.sock}\n"
    ).settings
    assert settings.upstream.http is not None
    assert settings.upstream.http.path == "/etc/rekeyd/run/q.sock"
    assert settings.upstream.ca_cert == Path("/etc/rekeyd/up.pem")
    assert settings.tls.cert == Path("/etc/rekeyd/tls/cert.pem")
    assert settings.tls.key == Path("/keys/key.pem")
    # Not shortened: the folder may be a symbolic link.
    assert settings.tls.ca_cert == Path("/etc/rekeyd/../ca.pem")
    assert settings.access.policy == Path("/etc/rekeyd/ollama.yaml")
    assert settings.admin.socket == Path("/etc/rekeyd/a.sock")


def test_a_relative_settings_file_is_relative_to_the_working_directory() -> None:
    text = f"{GOOD}tls: {{cert: cert.pem, key: key.pem}}"
    found = parse(text.encode(), file=Path("conf/rekeyd.yaml"), environ={}, cwd=Path("/here"))
    assert found.settings.tls.cert == Path("/here/conf/cert.pem")


def test_without_a_working_directory_the_process_has_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    text = f"{GOOD}tls: {{cert: cert.pem, key: key.pem}}"
    found = parse(text.encode(), file=Path("rekeyd.yaml"), environ={})
    assert found.settings.tls.cert == tmp_path / "cert.pem"


@pytest.mark.parametrize("name", ["qdrant", "http"])
def test_a_policy_that_ships_with_rekeyd_is_no_file(name: str) -> None:
    assert parsed(f"{GOOD}access: {{policy: {name}}}").settings.access.policy == name


def test_an_admin_socket_that_nobody_asked_for_can_be_told_from_one_that_somebody_did() -> None:
    assert parsed().settings.admin.socket_is_default
    assert not parsed(f"{GOOD}admin: {{socket: /run/rekeyd/admin.sock}}").settings.admin.socket_is_default
    switched_off = parsed(f"{GOOD}admin: {{socket: null}}").settings.admin
    assert switched_off.socket is None


def test_what_is_qdrants_and_unused_is_listed_in_order() -> None:
    text = GOOD.replace("service:", "service:\n  max_workers: 0") + (
        "storage: {wal: {wal_capacity_mb: 32}}\nlog_level: INFO\n"
        "cluster: {consensus: {}, p2p: {connection_pool_size: 2}}\n"
    )
    assert parsed(text).ignored == (
        "cluster.consensus",
        "cluster.p2p.connection_pool_size",
        "log_level",
        "service.max_workers",
        "storage",
    )


def test_problems_of_every_source_are_told_at_once() -> None:
    told = problems(
        "service: {http_port: '1', htp_port: 2, enable_tls: true}\ntls: {cert: 5}\n",
        {"REKEYD__LOGGING__LEVEL": "loud", "REKEYD__SERVICE__HOTS": "x"},
    )
    assert {(problem.file, problem.key) for problem in told} == {
        ("/etc/rekeyd/rekeyd.yaml", "service.http_port"),
        ("/etc/rekeyd/rekeyd.yaml", "service.htp_port"),
        ("/etc/rekeyd/rekeyd.yaml", "service.api_key"),
        ("/etc/rekeyd/rekeyd.yaml", "tls.cert"),
        ("/etc/rekeyd/rekeyd.yaml", "upstream.http"),
        ("REKEYD__LOGGING__LEVEL", "logging.level"),
        ("REKEYD__SERVICE__HOTS", ""),
    }
    assert all(problem.fix for problem in told)


def test_a_rule_is_silent_about_a_key_that_is_wrong_already() -> None:
    told = problems(GOOD.replace(f"api_key: {KEY}", "api_key: 5"))
    assert [problem.message for problem in told] == ["must be a string, not an integer (line 4)"]


def test_a_rule_is_silent_about_a_key_that_was_probably_meant() -> None:
    told = problems(GOOD.replace("api_key:", "apikey:"))
    assert [(problem.key, problem.message) for problem in told] == [
        ("service.apikey", "is not a setting (line 4)")
    ]


def test_a_key_beside_the_unknown_one_that_resembles_it_is_judged_all_the_same() -> None:
    told = problems(f"{GOOD}tls: {{crt: x, cert: 5}}")
    assert [problem.key for problem in told] == ["tls.crt", "tls.cert"]


@pytest.mark.parametrize(
    "text",
    [
        "service: {http_port: sw0rdfish}",
        "service: {api_key: [sw0rdfish]}",
        "service: {api_key: {sw0rdfish: 1}}",
        "service: {host: 'sw0rdfish '}",
        "logging: {level: sw0rdfish}",
        "access: {policy: sw0rdfish, public: [sw0rdfish]}",
        "upstream: {http: 'http://sw0rdfish@h'}",
        "upstream: {http: sw0rdfish}",
        "api_key:sw0rdfish\nservice: {}",
        "{api_key:sw0rdfish}",
        "sw0rdfish",
        "service: !sw0rdfish {}",
        "service: {api_key: *sw0rdfish}",
        "service: {api_key: &sw0rdfish }",
        "service: {api_key: 'sw0rdfish",
        'service: {api_key: "\\u0000sw0rdfish"}',
        "service: {api_key: 'sw0rdfish\n\n'}",
        "service: {api_key: {sw0rdfish: !x 1}}",
        "service: {api_key: {sw0rdfish: 1, sw0rdfish: 2}}",
        "storage: {sw0rdfish: !x 1}",
        "%sw0rdfish",
    ],
)
def test_no_value_is_ever_repeated(text: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parsed(text)
    whole = "".join(traceback.format_exception(caught.value))
    assert "sw0rdfish" not in whole


def test_a_problem_found_later_is_told_where_the_key_was_written() -> None:
    found = parsed(f"{GOOD}tls:\n  cert: cert.pem\n  key: key.pem\n", {"QDRANT__TLS__KEY": "/keys/gone.pem"})
    assert found.problem("tls.cert", "does not exist", "Put it there") == Problem(
        "/etc/rekeyd/rekeyd.yaml", "tls.cert", "does not exist (line 8)", "Put it there"
    )
    assert found.problem("tls.key", "does not exist", "Put it there").file == "QDRANT__TLS__KEY"
    assert found.problem("tls.crl", "does not exist", "Put it there").file == "/etc/rekeyd/rekeyd.yaml"


def test_unfit_settings_show_what_can_be_used_of_them() -> None:
    with pytest.raises(UnfitSettingsError) as caught:
        parsed(f"{GOOD}tls: {{cert: cert.pem, key: 5}}")
    assert caught.value.parsed.settings.tls.cert == Path("/etc/rekeyd/cert.pem")
    assert caught.value.parsed.settings.tls.key is None


def test_keys_can_not_be_removed_by_a_reload_while_being_open_waits_for_a_restart() -> None:
    running = parsed("service: {api_key: 0123456789abcdef}\nupstream: {http: demo}").settings
    opened = parsed("service: {insecure: true}\nupstream: {http: demo}")
    with pytest.raises(SettingsError) as caught:
        under(opened, running)
    assert [problem.key for problem in caught.value.problems] == ["service.api_key"]


def test_a_port_that_waits_for_a_restart_is_named_and_what_can_change_changes() -> None:
    running = parsed("service: {api_key: 0123456789abcdef}\nupstream: {http: demo}").settings
    wanted = parsed("service: {api_key: fedcba9876543210, http_port: 9}\nupstream: {http: demo}")
    come_to = under(wanted, running)
    assert come_to.restart_needed == ("service.http_port",)
    assert come_to.settings.service.http_port == 6333
    assert come_to.settings.service.api_key == wanted.settings.service.api_key
