"""Why a credential can't be read, and what to do: the words for `credential:NAME` in the settings.

The rules: what systemd hands over it hands over before the start, so that no moment mends a credential that
is missing: it is a mistake in the unit or the settings, told at once. The name of one that can't be read is
not repeated where it should have held a secret: it may be that secret, written in the wrong place. Must not
know: what a credential is for.
"""

import os
from pathlib import Path

from rekeyd.errors import Problem
from rekeyd.reload.files import LARGEST_CREDENTIAL, UnreadableError, read_file
from rekeyd.settings import CREDENTIALS_FOLDER, NOWHERE, PREFIX, Parsed, credentials_of, with_credentials

RULE = "credential"
"""The rule that a credential which can't be had breaks."""
ONE_OF_THE_UNIT = Path("/run/credentials/rekeyd.service")
"""Where those of a running `rekeyd.service` are; root may read them there."""

_LOAD = "Put `LoadCredential={name}:FILE` (or `LoadCredentialEncrypted=`) into the unit and restart it"
_BY_HAND = f"by hand, run it as root with {CREDENTIALS_FOLDER}={ONE_OF_THE_UNIT} while the service runs"


def unreadable(parsed: Parsed, key: str, path: Path, why: UnreadableError) -> Problem | None:
    """The problem with a credential; None where `path` is none."""
    secret = key in credentials_of(parsed.settings)
    name = "NAME" if secret else path.name
    called = f"`{PREFIX}…`" if secret else f"`{PREFIX}{name}`"
    if path.parent == NOWHERE:
        message = f"is {called}, and this process was given no credentials ({CREDENTIALS_FOLDER} is not set)"
        return _problem(parsed, key, message, f"{_LOAD.format(name=name)}; {_BY_HAND}")
    if path.parent != parsed.credentials:
        return None
    if not os.path.lexists(path.parent):
        message = f"is {called}, and {path.parent} does not exist"
        return _problem(parsed, key, message, f"Let {CREDENTIALS_FOLDER} be that of a service that runs")
    if os.access(path.parent, os.X_OK, effective_ids=True) and not os.path.lexists(path):
        message = f"is {called}, and there is no such credential in {path.parent}"
        return _problem(parsed, key, message, _LOAD.format(name=name))
    said = why.message.replace(str(path), called)
    return _problem(parsed, key, f"is a credential that can't be used: {said}", why.fix)


def read_credentials(parsed: Parsed) -> tuple[Parsed, tuple[Problem, ...]]:
    """`parsed` with the secrets that are credentials, for a command that looks once; without those that can't
    be used, and the problems with them."""
    contents: dict[str, bytes] = {}
    problems: list[Problem] = []
    for key, path in credentials_of(parsed.settings).items():
        try:
            contents[key] = read_file(path, LARGEST_CREDENTIAL).data
        except UnreadableError as why:
            problem = unreadable(parsed, key, path, why)
            problems += [problem] if problem else []
    read, unusable = with_credentials(parsed, contents)
    return read, (*problems, *unusable)


def _problem(parsed: Parsed, key: str, message: str, fix: str) -> Problem:
    told = parsed.problem(key, message, fix)
    return Problem(told.file, told.key, told.message, told.fix, RULE)
