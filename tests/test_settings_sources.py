"""Which source wins, how the environment is read, and what an unknown name is told."""

from pathlib import Path

import pytest

from rekeyd.errors import Problem, SettingsError
from rekeyd.settings import Parsed, parse
from rekeyd.settings.sources import nearest_known, variables_read

KEY = "4f1c0d9e8b7a69584736251403f2e1d0"
GOOD = f"""
service:
  host: 127.0.0.1
  api_key: {KEY}
upstream:
  http: http://127.0.0.1:16333
"""


def parsed(**environ: str) -> Parsed:
    return parse(GOOD.encode(), file=Path("/etc/rekeyd.yaml"), environ=environ, cwd=Path("/here"))


def problem(**environ: str) -> Problem:
    with pytest.raises(SettingsError) as caught:
        parsed(**environ)
    (told,) = caught.value.problems
    return told


def secret(found: Parsed) -> str:
    assert found.settings.service.api_key is not None
    return found.settings.service.api_key.get_secret_value()


def test_the_environment_wins_over_the_file_and_our_name_over_qdrants() -> None:
    assert secret(parsed(QDRANT__SERVICE__API_KEY="q" * 20)) == "q" * 20
    both = parsed(REKEYD__SERVICE__API_KEY="r" * 20, QDRANT__SERVICE__API_KEY="q" * 20)
    assert secret(both) == "r" * 20


@pytest.mark.parametrize("text", ["0123", "1e5", "yes", "null", "~", "a: b", "[1]", "!x", "'quoted'", "#"])
def test_a_secret_in_the_environment_is_the_text_as_it_is(text: str) -> None:
    assert secret(parsed(REKEYD__SERVICE__API_KEY=text)) == text


def test_an_empty_variable_is_an_unset_one() -> None:
    found = parsed(REKEYD__SERVICE__API_KEY="", REKEYD__SERVICE__HTTP_PORT="", QDRANT__TLS__CERT="")
    assert secret(found) == KEY
    assert found.settings.service.http_port == 6333
    assert found.settings.tls.cert is None


def test_an_empty_variable_of_ours_does_not_hide_qdrants() -> None:
    assert secret(parsed(REKEYD__SERVICE__API_KEY="", QDRANT__SERVICE__API_KEY="q" * 20)) == "q" * 20


def test_numbers_switches_and_lists_are_read_as_yaml() -> None:
    found = parsed(
        REKEYD__SERVICE__HTTP_PORT="7000",
        REKEYD__SERVICE__ENABLE_CORS="yes",
        REKEYD__SERVICE__TRUSTED_PROXIES='[10.0.0.0/8, "::1"]',
        REKEYD__ACCESS__PUBLIC="[/metrics]",
        REKEYD__TLS__CERT_TTL="null",
        REKEYD__TLS__MIN_VERSION="1.3",
        REKEYD__SERVICE__STALL_TIMEOUT="2.5",
    ).settings
    assert found.service.http_port == 7000
    assert found.service.enable_cors is True
    assert [str(network) for network in found.service.trusted_proxies] == ["10.0.0.0/8", "::1/128"]
    assert found.access.public == ("/metrics",)
    assert found.tls.cert_ttl is None
    assert found.tls.min_version == "1.3"
    assert found.service.stall_timeout == 2.5


def test_null_empties_what_may_be_empty_and_is_no_secret() -> None:
    assert parsed(REKEYD__ADMIN__SOCKET="null").settings.admin.socket is None
    assert secret(parsed(REKEYD__SERVICE__API_KEY="null")) == "null"


def test_a_relative_path_in_the_environment_is_relative_to_the_working_directory() -> None:
    found = parsed(QDRANT__TLS__CERT="tls/cert.pem", QDRANT__TLS__KEY="/keys/key.pem").settings
    assert found.tls.cert == Path("/here/tls/cert.pem")
    assert found.tls.key == Path("/keys/key.pem")


def test_the_case_of_a_variable_does_not_matter() -> None:
    assert parsed(QDRANT__service__http_port="7001").settings.service.http_port == 7001


def test_a_wrong_value_is_told_with_the_name_of_the_variable_and_without_the_value() -> None:
    told = problem(QDRANT__SERVICE__HTTP_PORT="sw0rdfish")
    assert (told.file, told.key) == ("QDRANT__SERVICE__HTTP_PORT", "service.http_port")
    assert told.message == "must be an integer from 0 to 65535, not a string"


@pytest.mark.parametrize("text", ["[1", "{", "a: b: c", "*sw0rdfish", "!sw0rdfish", "\x00", "[" * 5000])
def test_what_is_not_yaml_in_a_variable_is_a_problem(text: str) -> None:
    told = problem(REKEYD__SERVICE__ENABLE_TLS=text)
    assert told.message == "is not a YAML value; it must be `true` or `false`"


def test_an_unknown_variable_of_ours_is_a_problem_that_names_the_nearest() -> None:
    told = problem(REKEYD__SERVICE__READONLY_API_KEY="sw0rdfish")
    assert str(told) == (
        "REKEYD__SERVICE__READONLY_API_KEY: is not a setting. The nearest known one is "
        "`REKEYD__SERVICE__READ_ONLY_API_KEY`: correct it, or remove it."
    )


@pytest.mark.parametrize("name", ["REKEYD__", "REKEYD____", "REKEYD__SERVICE", "REKEYD__LOG_LEVEL"])
def test_odd_variables_of_ours_are_problems(name: str) -> None:
    assert problem(**{name: "x"}).file == name


def test_variables_that_qdrant_has_and_we_do_not_are_listed() -> None:
    found = parsed(QDRANT__LOG_LEVEL="INFO", QDRANT__STORAGE__WAL__CAPACITY="1", QDRANT__UPSTREAM__HTTP="x")
    assert found.ignored == ("QDRANT__LOG_LEVEL", "QDRANT__STORAGE__WAL__CAPACITY", "QDRANT__UPSTREAM__HTTP")


def test_other_variables_are_nobodys_business() -> None:
    found = parsed(PATH="/bin", REKEYD_SERVICE_HOST="10.0.0.1", QDRANT_HOST="x", REKEYD="1")
    assert found.ignored == ()
    assert found.settings.service.host == "127.0.0.1"


@pytest.mark.parametrize(
    ("key", "nearest"),
    [
        ("service.hots", "service.host"),
        ("service.crt", "tls.cert"),
        ("tls.ca_crt", "tls.ca_cert"),
        ("apikey", "service.api_key"),
        ("servce", "service"),
    ],
)
def test_the_nearest_key_is_looked_for_in_its_own_section_first(key: str, nearest: str) -> None:
    known = [
        "service",
        "service.host",
        "service.api_key",
        "tls",
        "tls.cert",
        "tls.ca_cert",
        "upstream.api_key",
    ]
    assert nearest_known(key, known) == nearest


def test_even_a_name_like_no_other_has_a_nearest() -> None:
    assert nearest_known("zzz", ["service", "tls"]) in {"service", "tls"}


def test_what_bears_on_settings_is_told_from_the_rest_of_the_environment() -> None:
    bearing = {"rekeyd__tls__watch": "no", "QDRANT__X": "1", "CREDENTIALS_DIRECTORY": "/c"}
    assert variables_read({**bearing, "HOME": "/", "REKEYD": "1", "CREDENTIALS": "x"}) == bearing
