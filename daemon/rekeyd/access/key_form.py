"""The form of the keys that rekeyd makes, and which secrets of other making are strong enough.

    rk_ID_SECRET

ID is the key's id; SECRET is 256 random bits as 43 characters of base 62, and 6 more with the CRC-32 of all
before them. So scanners know a leaked key by its look (`PATTERN`), a slip of the pen is no guess, and whoever
finds one knows whose it is.

The rule: a digest protects a secret only as far as nobody can guess it. So a secret whose digest is in a key
file must be of this form, or long and without a pattern; a phrase that a person chose is refused.

Pure: random bytes are passed in. Must not know: digests, files.
"""

import re
import zlib

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,63}", re.ASCII)
"""What a key may be called. No underscore: `api_key` and its like are the static keys'."""
PATTERN = r"rk_[A-Za-z0-9][A-Za-z0-9.-]{0,63}_[0-9A-Za-z]{49}"
"""A regular expression for secret scanners."""
SECRET_BYTES = 32
SHORTEST = 32
"""Characters of a secret of other making."""

_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM, _CHECK = 43, 6
_KEY = re.compile(PATTERN.encode())
_FEWEST_DIFFERENT = 10
_WORDS = re.compile(r"[A-Za-z]+(?:[ _.,'!?-]+[A-Za-z]+)*[ _.,'!?-]*[0-9]{0,4}[!?.]*", re.ASCII)


def make_key(key_id: str, random: bytes) -> str:
    """The secret of key `key_id` out of 32 random bytes."""
    if ID.fullmatch(key_id) is None or len(random) != SECRET_BYTES:
        raise ValueError("a key is made of an id and 32 bytes")
    body = f"rk_{key_id}_{_base62(int.from_bytes(random), _RANDOM)}"
    return body + _checksum(body.encode())


def is_made_here(secret: bytes) -> bool:
    """Whether it has the form, checksum included."""
    return _KEY.fullmatch(secret) is not None and secret[-_CHECK:] == _checksum(secret[:-_CHECK]).encode()


def weakness_of(secret: bytes) -> str | None:
    """Why a secret may be guessed, to complete "the secret …"; None where it is strong enough."""
    if is_made_here(secret):
        return None
    text = secret.decode("utf-8", "replace")
    if len(text) < SHORTEST:
        return f"is shorter than {SHORTEST} characters"
    if len(set(text)) < _FEWEST_DIFFERENT or _repeats(text):
        return "repeats itself"
    if _WORDS.fullmatch(text):
        return "looks like words that a person chose"
    return None


def _repeats(text: str) -> bool:
    """Whether it is one piece over and over."""
    return text in (text + text)[1:-1]


def _checksum(body: bytes) -> str:
    return _base62(zlib.crc32(body), _CHECK)


def _base62(number: int, width: int) -> str:
    digits = []
    for _ in range(width):
        number, digit = divmod(number, len(_DIGITS))
        digits.append(_DIGITS[digit])
    return "".join(reversed(digits))
