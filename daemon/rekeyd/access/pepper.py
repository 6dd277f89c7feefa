"""The pepper: a secret beside the key file, without which its HMAC digests say nothing.

The rules: at least 32 bytes, or it could be tried out together with the keys; one line end after it is not
part of it. It has an id, which the key file names, so that another pepper is noticed: otherwise it would lock
everybody out without a word.

Must not know: where it is kept.
"""

import hmac

from rekeyd.errors import Problem, SettingsError

SHORTEST = 32
"""Bytes: as many as the digest has (RFC 2104, 3)."""
_ID_OF = b"rekeyd pepper id"
_ID_DIGITS = 8


def pepper_in(data: bytes, *, file: str) -> bytes:
    """The pepper that a file holds. Raises `SettingsError`."""
    pepper = data.removesuffix(b"\n").removesuffix(b"\r")
    fix = "Make one with `openssl rand -hex 32`"
    if not pepper:
        raise SettingsError([Problem(file, "", "is empty, and should hold a pepper", fix, "empty")])
    if len(pepper) < SHORTEST:
        message = f"is shorter than {SHORTEST} bytes, so that the pepper could be guessed"
        raise SettingsError([Problem(file, "", message, fix, "pepper_short")])
    return pepper


def id_of(pepper: bytes) -> str:
    """What the key file calls it; it says nothing about the pepper."""
    return hmac.digest(pepper, _ID_OF, "sha256").hex()[:_ID_DIGITS]
