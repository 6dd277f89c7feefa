"""Keys out of the bytes of a snapshot: the static ones of the settings, those of the key file, the pepper.

The rules: what is wrong with the key file or the pepper is a fault of the candidate, so that all of the
generation that is served goes on. A ring that was made of the very same bytes is the same ring. `rekeyd keys
verify` asks the ring that is made here.

Must not know: how files are read, or what is served.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from rekeyd.access.key_file import KeyFile, parse_key_file
from rekeyd.access.keys import Credential, KeyRing
from rekeyd.access.pepper import pepper_in
from rekeyd.access.rights import Right
from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.files import File
from rekeyd.settings import Settings


@dataclass(frozen=True, slots=True)
class Keys:
    """What there is of keys; `key_file` is None where there is none, or none that could be read."""

    ring: KeyRing
    key_file: KeyFile | None = None
    pepper: bytes | None = field(default=None, repr=False)


def keys_of(settings: Settings, file: File | None, pepper: File | None) -> Keys:
    """All keys. Raises `SettingsError` where the key file or the pepper can't be used."""
    access = settings.access
    problems: list[Problem] = []
    key_file, secret = None, None
    try:
        key_file = parse_key_file(file.data, file=str(access.keys_file)) if file else None
    except SettingsError as error:
        problems += error.problems
    try:
        secret = pepper_in(pepper.data, file=str(access.pepper_file)) if pepper else None
    except SettingsError as error:
        problems += error.problems
    if problems:
        raise SettingsError(problems)
    named = key_file.credentials if key_file else ()
    return Keys(KeyRing((*_static(settings), *named), pepper=secret), key_file, secret)


def static_keys_of(settings: Settings) -> Keys:
    return Keys(KeyRing(_static(settings)))


def identity_of(settings: Settings, file: File | None, pepper: File | None) -> tuple[object, ...]:
    """Alike where the same keys come of it. Holds digests, and no secret."""
    named = str(settings.access.keys_file)
    held = (each and hashlib.sha256(each.data).digest() for each in (file, pepper))
    return ("keys", named, *held, *((key.id, key.digest) for key in _static(settings)))


def _static(settings: Settings) -> Iterator[Credential]:
    service = settings.service
    for key_id, right, secret in (
        ("api_key", Right.MANAGE, service.api_key),
        ("alt_api_key", Right.MANAGE, service.alt_api_key),
        ("read_only_api_key", Right.READ, service.read_only_api_key),
    ):
        if secret:
            yield Credential.of_secret(key_id, right, secret.get_secret_value())
