"""`rekeyd token`: a token of Qdrant's form, signed with one of the static keys.

The rule: what is made is read back by the very rules that serve, so that no token is handed out that wouldn't
get in. It always ends (`exp`) and has an id (`jti`), by which it can be revoked.

Must not know: how a token is printed.
"""

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rekeyd.access.keys import Credential
from rekeyd.access.token_keys import Signer, sign, signer_of_secret
from rekeyd.access.tokens import TokenRules
from rekeyd.access.verdict import Denied
from rekeyd.errors import Problem, RekeydError, SettingsError
from rekeyd.reload.credentials import read_credentials
from rekeyd.settings import Settings, parse

SigningKey = Literal["api_key", "alt_api_key"]
SIGNING_KEYS: tuple[SigningKey, ...] = ("api_key", "alt_api_key")
LONGEST = dt.timedelta(days=10 * 366)
"""A token that lives longer is a key."""


class UnfitTokenError(RekeydError):
    """A token that makes no sense; the words say why and what to do."""


@dataclass(frozen=True, slots=True)
class Wish:
    """What a token is to be. `access` is `r` or `m` for everything, else `collections` has names and words;
    `lifetime` is how long it lives; `key` None: the first that is set."""

    access: str | None = None
    collections: tuple[tuple[str, str], ...] = ()
    lifetime: dt.timedelta = dt.timedelta(hours=1)
    subject: str | None = None
    key: SigningKey | None = None


def settings_in(file: Path, environ: Mapping[str, str]) -> Settings:
    """The settings, whatever becomes of the files that they name, save those of the keys that sign.

    Raises `SettingsError`.
    """
    try:
        source = file.read_bytes()
    except OSError as error:
        raise SettingsError(
            [Problem(str(file), "", f"can't be read ({error.strerror})", "Give -c")]
        ) from None
    parsed, problems = read_credentials(parse(source, file=file.absolute(), environ=environ))
    if unknown := [problem for problem in problems if problem.key.removeprefix("service.") in SIGNING_KEYS]:
        raise SettingsError(unknown)
    return parsed.settings


def make_token(settings: Settings, wish: Wish, *, now: float, token_id: str) -> str:
    """A token that is accepted while `service.jwt_rbac` is on. `now` is in seconds of the epoch.

    Raises:
        UnfitTokenError: it would not get in, or it asks for what nobody can want.
    """
    if not dt.timedelta() < wish.lifetime <= LONGEST:
        raise UnfitTokenError("a token lives for at most ten years. Give a shorter --expires")
    signer = _signer(settings, wish.key)
    claims = {
        "jti": token_id,
        "iat": int(now),
        "exp": int(now + wish.lifetime.total_seconds()),
        "access": _access(wish),
        **({} if wish.subject is None else {"subject": wish.subject}),
    }
    token = sign(signer, claims)
    _read_back(token, signer)
    return token


def collection_in(text: str) -> tuple[str, str]:
    """Name and word of `NAME=r`, `NAME=rw` or `NAME=prw`. Raises ValueError."""
    name, _, word = text.rpartition("=")
    if not name or word not in {"r", "rw", "prw"}:
        raise ValueError("write NAME=r, NAME=rw or NAME=prw")
    return name, word


def _signer(settings: Settings, key: SigningKey | None) -> Signer:
    for key_id in (key,) if key is not None else SIGNING_KEYS:
        secret = settings.value(f"service.{key_id}")
        if secret is not None:
            return signer_of_secret(key_id, secret.get_secret_value())
    named = " or ".join(f"service.{key_id}" for key_id in ((key,) if key is not None else SIGNING_KEYS))
    raise UnfitTokenError(f"{named} is not set, so there is nothing to sign with. Set it")


def _access(wish: Wish) -> object:
    if (wish.access is None) == (not wish.collections):
        raise UnfitTokenError("a token is for everything or for collections. Give --access or --collection")
    if wish.access is not None:
        return wish.access
    return [{"collection": name, "access": word} for name, word in wish.collections]


def _read_back(token: str, signer: Signer) -> None:
    match TokenRules((signer,)).read(token.encode()):
        case Credential():
            return
        case Denied(message=message):
            raise UnfitTokenError(f"it would be refused: {message.removeprefix('Forbidden: ')}. Ask for less")
        case _:
            raise UnfitTokenError("it would be too long for a header field. Name fewer collections")
