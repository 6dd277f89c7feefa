"""PEM armour: bytes to labelled blocks, and back.

The rule: text around the blocks (`Bag Attributes`, comments) is allowed, as RFC 7468, section 5.2, describes.
Inside a block only base64 is, and what begins must end: a file that was cut off is told from a whole one.

Owns `MaterialError`, the one way in which certificate and key bytes are found at fault. Must not know: what
is inside a block.
"""

import binascii
import re
from collections.abc import Iterable, Iterator
from typing import Literal

from rekeyd.errors import RekeydError

_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----(.*?)-----(BEGIN|END) ([A-Z0-9 ]+)-----", re.DOTALL)
_DER_SEQUENCE = b"\x30"

Source = Literal["certificate", "key", "crl", "key set"]

_WANTED: dict[Source, tuple[str, str, str]] = {
    "certificate": ("certificate", "CERTIFICATE", "x509"),
    "key": ("private key", "PRIVATE KEY", "pkey"),
    "crl": ("certificate revocation list", "X509 CRL", "crl"),
}
"""What people call it, its PEM label, and the command of openssl(1) for it."""


class MaterialError(RekeydError):
    """Bytes that can't be used as a certificate, chain, key, list of revoked certificates or set of keys.

    `source` says which of the inputs is at fault, `reason` is a short code that stays the same
    (`empty`, `no_pem_block`, `truncated_pem`, `garbage`, `unparsable`, `key_encrypted`, `key_unsupported`,
    `key_mismatch`, `leaf_not_first`, `passphrase_wrong`), `message` what is wrong, `fix` what to do.
    """

    def __init__(self, source: Source, reason: str, message: str, fix: str) -> None:
        self.source = source
        self.reason = reason
        self.message = message
        self.fix = fix
        super().__init__(f"{message}. {fix}.")


def blocks(pem: bytes, source: Source) -> Iterator[tuple[bytes, bytes]]:
    """Label and body of each PEM block. What looks like the rest of one is an error, other text is not."""
    end = 0
    for match in _BLOCK.finditer(pem):
        label, body, closing, closing_label = match.groups()
        if closing == b"BEGIN" or label != closing_label:
            raise _truncated(source)
        _refuse_torn_text(pem[end : match.start()], source)
        end = match.end()
        yield label, body
    _refuse_torn_text(pem[end:], source)


def _refuse_torn_text(text: bytes, source: Source) -> None:
    if any(line.startswith(b"-----") for line in text.splitlines()):
        raise _truncated(source)


def _truncated(source: Source) -> MaterialError:
    return MaterialError(
        source,
        "truncated_pem",
        "a PEM block begins and does not end",
        "The file was cut off or is still being written; write it to a temporary file and rename that",
    )


def nothing_found(pem: bytes, source: Source) -> MaterialError:
    """Why there is nothing to use in a file that holds no block of the kind that is wanted."""
    wanted, label, command = _WANTED[source]
    if not pem.strip():
        return MaterialError(source, "empty", "the file is empty", f"Put the {wanted} there, as PEM")
    if pem.startswith(_DER_SEQUENCE):
        return MaterialError(
            source,
            "no_pem_block",
            "the file looks like DER, not PEM",
            f"Convert it with `openssl {command} -inform DER`",
        )
    return MaterialError(
        source,
        "no_pem_block",
        f"there is no {wanted} in the file",
        f"It must hold a `-----BEGIN {label}-----` block",
    )


def unarmoured(body: bytes, source: Source = "certificate") -> bytes:
    """The DER in the body of a block. Raises `MaterialError` (`garbage`)."""
    try:
        return binascii.a2b_base64(b"".join(body.split()), strict_mode=True)
    except binascii.Error as error:
        raise MaterialError(
            source,
            "garbage",
            "a PEM block holds bytes that are not base64",
            "The file is damaged; get it anew from its issuer",
        ) from error


def armoured(ders: Iterable[bytes], label: bytes = b"CERTIFICATE") -> bytes:
    """Certificates as PEM (or what `label` says), in the strict form of RFC 7468: lines of 64."""
    lines = []
    for der in ders:
        text = binascii.b2a_base64(der, newline=False)
        lines.append(b"-----BEGIN %b-----" % label)
        lines.extend(text[at : at + 64] for at in range(0, len(text), 64))
        lines.append(b"-----END %b-----" % label)
    return b"\n".join([*lines, b""])
