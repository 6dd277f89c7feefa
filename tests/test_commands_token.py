"""`rekeyd token`: a token that works, or the reason why there is none."""

import datetime as dt
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jwt
import pytest

from rekeyd.access.keys import Credential
from rekeyd.access.rights import Reach, Right
from rekeyd.access.token_keys import signer_of_secret
from rekeyd.access.tokens import TokenRules
from rekeyd.cli import main
from rekeyd.commands.token import (
    LONGEST,
    UnfitTokenError,
    Wish,
    collection_in,
    make_token,
    settings_in,
)
from rekeyd.errors import SettingsError
from rekeyd.settings import Settings
from support.generations import document, settings_of

FIRST, SECOND = "4f1c0d9e8b7a69584736251403f2e1d0", "e1d04f1c0d9e8b7a69584736251403f2"
RULES = TokenRules((signer_of_secret("api_key", FIRST), signer_of_secret("alt_api_key", SECOND)))
SETTINGS = settings_of(service={"api_key": FIRST, "alt_api_key": SECOND, "jwt_rbac": True})


def made(wish: Wish, settings: Settings = SETTINGS) -> Credential:
    found = RULES.read(make_token(settings, wish, now=1000.9, token_id="id").encode())
    assert isinstance(found, Credential)
    return found


def refusal(wish: Wish, settings: Settings = SETTINGS) -> str:
    with pytest.raises(UnfitTokenError) as caught:
        make_token(settings, wish, now=1000, token_id="id")
    return str(caught.value)


@pytest.mark.parametrize(("access", "right"), [("r", Right.READ), ("m", Right.MANAGE)])
def test_a_token_for_everything(access: str, right: Right) -> None:
    found = made(Wish(access, subject="Jürgen", lifetime=dt.timedelta(minutes=1)))
    assert (found.id, found.right, found.limits.collections) == ("api_key", right, None)
    assert (found.subject, found.token_id, found.expires) == ("Jürgen", "id", 1060 + 30)


def test_a_token_for_collections() -> None:
    found = made(Wish(collections=(("a", "r"), ("b=c", "prw"), ("d", "rw"))))
    assert found.limits.collections == (("a", Reach.READ), ("b=c", Reach.POINTS), ("d", Reach.WRITE))


def test_others_can_read_it_as_well() -> None:
    token = make_token(SETTINGS, Wish("r"), now=1000, token_id="id")
    claims = jwt.decode(token, FIRST, algorithms=["HS256"], options={"verify_exp": False})
    assert claims == {"jti": "id", "iat": 1000, "exp": 4600, "access": "r"}


def test_the_key_is_the_one_that_is_asked_for_or_the_first_that_is_set() -> None:
    assert made(Wish("r", key="alt_api_key")).id == "alt_api_key"
    assert made(Wish("r", key="api_key")).id == "api_key"
    without = settings_of(service={"api_key": None, "alt_api_key": SECOND})
    assert made(Wish("r"), without).id == "alt_api_key"


@pytest.mark.parametrize(
    ("wish", "why"),
    [
        (Wish(), "a token is for everything or for collections"),
        (Wish("r", (("a", "r"),)), "a token is for everything or for collections"),
        (Wish("r", lifetime=dt.timedelta()), "a token lives for at most ten years"),
        (Wish("r", lifetime=LONGEST + dt.timedelta(seconds=1)), "a token lives for at most ten years"),
        (Wish("w"), "it would be refused: the token's claim access is not one that is known"),
        (Wish(collections=(("a", "m"),)), "it would be refused: the token's claim access has a word"),
        (
            Wish(collections=(("a", "r"), ("a", "rw"))),
            "it would be refused: the token's claim access names a",
        ),
        (Wish(collections=(("a*", "r"),)), "it would be refused: the token's claim access has a collection"),
        (Wish("r", subject="a\nb"), "it would be refused: the token's claim subject is not a short text"),
        (Wish("r", subject="\udcff"), "it would be refused: the token's claim subject is not a short text"),
        (
            Wish(collections=tuple((f"c{n}", "r") for n in range(500))),
            "it would be too long for a header field",
        ),
    ],
)
def test_what_makes_no_sense_is_refused(wish: Wish, why: str) -> None:
    assert refusal(wish).startswith(why)


@pytest.mark.parametrize("key", ["api_key", "alt_api_key"])
def test_a_key_that_is_not_set_signs_nothing(key: Any) -> None:
    settings = settings_of(service={"api_key": None, "read_only_api_key": FIRST})
    assert refusal(Wish("r", key=key), settings).startswith(f"service.{key} is not set")
    assert "service.api_key or service.alt_api_key is not set" in refusal(Wish("r"), settings)


@pytest.mark.parametrize("text", ["", "a", "=r", "a=", "a=m", "a=R", "a=r "])
def test_what_is_no_collection_with_a_word(text: str) -> None:
    with pytest.raises(ValueError, match="write NAME=r, NAME=rw or NAME=prw"):
        collection_in(text)


def test_settings_that_can_t_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        settings_in(tmp_path / "none.yaml", {})
    (tmp_path / "bad.yaml").write_text("service: {api_key: 7}")
    with pytest.raises(SettingsError):
        settings_in(tmp_path / "bad.yaml", {})


# as it is run


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Settings whose certificate isn't there: that is nothing to a token."""
    path = tmp_path / "rekeyd.yaml"
    path.write_text(json.dumps(document(service={"api_key": FIRST, "jwt_rbac": True})))
    return path


def test_the_token_is_all_that_is_printed(file: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "rekeyd",
        "token",
        "-c",
        str(file),
        "--collection",
        "a=r",
        "--expires",
        "1h",
    ]
    done = subprocess.run(command, capture_output=True, check=True, timeout=30)
    assert done.stderr == b""
    assert done.stdout.count(b"\n") == 1
    found = RULES.read(done.stdout.strip())
    assert isinstance(found, Credential)
    assert found.token_id is not None
    assert len(found.token_id) == 32


def test_each_token_has_an_id_of_its_own(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        assert main(["token", "-c", str(file), "--access", "r"]) == 0
    first, second = capsys.readouterr().out.split()
    assert (
        jwt.decode(first, FIRST, algorithms=["HS256"])["jti"]
        != jwt.decode(second, FIRST, algorithms=["HS256"])["jti"]
    )


def test_where_tokens_are_not_accepted_it_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rekeyd.yaml"
    path.write_text(json.dumps(document(service={"api_key": FIRST})))
    assert main(["token", "-c", str(path), "--access", "r"]) == 0
    told = capsys.readouterr()
    assert "service.jwt_rbac is off" in told.err
    assert RULES.read(told.out.strip().encode())


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "Give --access or --collection."),
        (["--access", "r", "--key", "alt_api_key"], "service.alt_api_key is not set"),
        (["--access", "r", "--expires", "99999d"], "at most ten years"),
    ],
)
def test_a_refusal_is_told_with_the_reason_and_prints_nothing(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], why: str
) -> None:
    assert main(["token", "-c", str(file), *arguments]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert why in told.err
    assert FIRST not in told.err


@pytest.mark.parametrize(
    "arguments",
    [["--access", "rw"], ["--collection", "a=x"], ["--expires", "soon"], ["--key", "read_only_api_key"]],
)
def test_a_slip_of_the_pen_is_told_by_the_parser(
    file: Path, capsys: pytest.CaptureFixture[str], arguments: list[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["token", "-c", str(file), *arguments])
    assert caught.value.code == 2
    assert capsys.readouterr().out == ""
