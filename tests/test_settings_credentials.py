"""What `credential:NAME` means in the settings, before any file is read."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

from rekeyd.settings import NOWHERE, Parsed, credentials_of, parse, with_credentials
from rekeyd.settings.credentials import Credential, file_in, secret_in, secret_of
from rekeyd.settings.kinds import UnusableError

FOLDER = "/run/credentials/rekeyd.service"
ENVIRON = {"CREDENTIALS_DIRECTORY": FOLDER}
FILE = Path("/etc/rekeyd.yaml")
KEY = "4f1c0d9e8b7a69584736251403f2e1d0"


def parsed(text: str, environ: dict[str, str] = ENVIRON) -> Parsed:
    return parse(f"upstream: {{http: demo}}\n{text}".encode(), file=FILE, environ=environ)


def test_a_file_is_that_in_the_folder_of_credentials() -> None:
    tls = parsed(
        "service: {insecure: true}\n"
        "tls: {cert: credential:crt, key: tls.key, key_passphrase_file: credential:pw,"
        " certificates: [{cert: a.crt, key: a.key, key_passphrase_file: 'credential:pw 2'}]}"
    ).settings.tls

    assert (tls.cert, tls.key) == (Path(f"{FOLDER}/crt"), Path("/etc/tls.key"))
    assert tls.key_passphrase_file == Path(f"{FOLDER}/pw")
    assert tls.certificates[0].key_passphrase_file == Path(f"{FOLDER}/pw 2")


def test_a_secret_is_not_there_until_it_is_read() -> None:
    settings = parsed("service: {api_key: credential:k}").settings

    assert credentials_of(settings) == {"service.api_key": Path(f"{FOLDER}/k")}
    assert settings.service.api_key == Credential(Path(f"{FOLDER}/k"))
    assert settings.service.api_key != SecretStr("")
    assert "credential" not in repr(settings).replace("Credential(…)", "")
    for use in (lambda secret: secret.get_secret_value(), len):
        with pytest.raises(TypeError):
            use(settings.service.api_key)


def test_the_environment_may_name_one() -> None:
    settings = parsed("", {**ENVIRON, "REKEYD__SERVICE__API_KEY": "credential:k"}).settings
    assert credentials_of(settings) == {"service.api_key": Path(f"{FOLDER}/k")}


@pytest.mark.parametrize(
    "environ", [{}, {"CREDENTIALS_DIRECTORY": ""}, {"CREDENTIALS_DIRECTORY": "relative"}]
)
def test_without_a_folder_they_are_nowhere(environ: dict[str, str]) -> None:
    assert credentials_of(parsed("service: {api_key: credential:k}", environ).settings) == {
        "service.api_key": NOWHERE / "k"
    }


def test_what_was_read_takes_their_place_and_is_judged_then() -> None:
    before = parsed(
        "service: {host: '::1', jwt_rbac: true, api_key: credential:a, alt_api_key: credential:b}"
    )
    assert before.warnings == ()

    after, problems = with_credentials(
        before, {"service.api_key": b"short\n", "service.alt_api_key": b"short\r\n"}
    )

    assert problems == ()
    assert after.settings.service.api_key == after.settings.service.alt_api_key == SecretStr("short")
    assert [(warning.key, warning.message) for warning in after.warnings] == [
        ("service.api_key", "is shorter than 16 characters and may be guessed (line 2)"),
        ("service.alt_api_key", "is shorter than 16 characters and may be guessed (line 2)"),
        ("service.alt_api_key", "is the same secret as `service.api_key`, whose right it has (line 2)"),
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is a credential that is empty, so there would be no key"),
        (b"\n", "is a credential that is empty, so there would be no key"),
        (b"sw0rd\xff", "is a credential that is not UTF-8"),
        (b"sw0rd\n\n", "has a control character or one outside ASCII, so it can't be sent in a header"),
        (b" sw0rdfish", "begins or ends with a space, so it can't be sent in a header"),
        (b"sw0rd" * 1000, "is longer than 4096 characters, too long to be sent in a header"),
    ],
)
def test_what_is_no_key_is_left_out_and_told_but_not_repeated(data: bytes, message: str) -> None:
    before = parsed("service: {insecure: true, api_key: credential:k}")

    after, [problem] = with_credentials(before, {"service.api_key": data})

    assert after.settings.service.api_key is None
    assert (problem.file, problem.key, problem.rule) == (str(FILE), "service.api_key", "credential")
    assert problem.message == f"{message} (line 2)"
    assert "sw0rd" not in str(problem)


def test_settings_without_credentials_are_as_they_were() -> None:
    before = parsed(f"service: {{api_key: {KEY}}}")
    assert with_credentials(before, {}) == (before, ())


@given(st.text(string.printable + "é/:", max_size=300))
def test_a_reference_leads_to_a_file_right_in_the_folder_or_to_none(name: str) -> None:
    folder = Path(FOLDER)
    found = file_in(f"credential:{name}", folder)
    if found != f"credential:{name}":
        assert Path(found).parent == folder
        assert Path(found).name == name
        assert secret_in(f"credential:{name}", folder) == Credential(folder / name)
    else:
        assert secret_in(f"credential:{name}", folder) == f"credential:{name}"


@given(st.text(min_size=1))
def test_one_line_end_is_no_part_of_a_secret(text: str) -> None:
    whole = text.removesuffix("\n").removesuffix("\r")
    for end in ("", "\n", "\r\n"):
        if whole and not whole.endswith(("\r", "\n")):
            assert secret_of(f"{whole}{end}".encode()) == whole


def test_bytes_that_are_no_text_are_not_in_the_traceback() -> None:
    with pytest.raises(UnusableError) as caught:
        secret_of(b"sw0rd\xff")
    assert caught.value.__cause__ is None
    assert caught.value.__suppress_context__
