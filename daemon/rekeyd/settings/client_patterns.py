"""Which client certificates are let in: the text of one entry of `tls.allowed_clients` as a value.

Owns: the forms that an entry may take. Must not know: how a certificate is looked at (`trust/clients.py`).

    cn:NAME    dns:NAME or dns:*.NAME    uri:URI or uri:PREFIX/*    email:ADDRESS    spki:sha256/BASE64
"""

import base64
import binascii
import re
from dataclasses import dataclass
from typing import Literal

from rekeyd.settings.kinds import UnusableError

PatternKind = Literal["cn", "dns", "uri", "email", "spki"]

_FORMS = "Write `dns:*.example.org`, `cn:NAME`, `uri:spiffe://…`, `email:ADDRESS` or `spki:sha256/BASE64`"
_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_DNS_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*\.?", re.ASCII)
_URI = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:[!-)+-~]+\*?", re.ASCII)
_EMAIL = re.compile(r"[!-?A-~]+@[A-Za-z0-9.-]+", re.ASCII)
_PIN = "sha256/"
_DIGEST_SIZE = 32


@dataclass(frozen=True, slots=True)
class ClientPattern:
    """One way in which a client may be known.

    `value` is what is compared: a DNS name and the domain of an e-mail address in lower case, a pin as the
    32 bytes of the digest in lower-case hex, the others as they were written.
    """

    kind: PatternKind
    value: str

    def __str__(self) -> str:
        if self.kind == "spki":
            return f"spki:{_PIN}{base64.b64encode(bytes.fromhex(self.value)).decode()}"
        return f"{self.kind}:{self.value}"


def parse_client_pattern(text: str) -> ClientPattern:
    """Read one entry. Raises `UnusableError`."""
    kind, _, value = text.partition(":")
    match kind.lower():
        case "cn" if value.isprintable() and value == value.strip() and value:
            return ClientPattern("cn", value)
        case "dns" if _DNS_NAME.fullmatch(value):
            return ClientPattern("dns", value.lower().removesuffix("."))
        case "uri" if _is_uri_pattern(value):
            return ClientPattern("uri", value)
        case "email" if _EMAIL.fullmatch(value):
            local, _, domain = value.rpartition("@")
            return ClientPattern("email", f"{local}@{domain.lower()}")
        case "spki":
            return ClientPattern("spki", _pin(value))
        case _:
            raise UnusableError("is not a way to know a client", _FORMS)


def _is_uri_pattern(value: str) -> bool:
    """A URI, or all those below one: `*` stands only for what follows the last slash of `/*`."""
    if "*" in value and not value.endswith("/*"):
        return False
    return _URI.fullmatch(value) is not None and not value.endswith("//*")


def _pin(value: str) -> str:
    fix = "Write `spki:sha256/` and the digest in base64, as `openssl dgst -sha256 -binary | base64` gives it"
    if not value.startswith(_PIN):
        raise UnusableError("is not a pin of a public key", fix)
    try:
        digest = base64.b64decode(value.removeprefix(_PIN), validate=True)
    except (binascii.Error, ValueError):
        raise UnusableError("has a pin that is not base64", fix) from None
    if len(digest) != _DIGEST_SIZE:
        raise UnusableError("has a pin that is not a SHA-256 digest", fix)
    return digest.hex()
