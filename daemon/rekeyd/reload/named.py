"""Which files the settings name, and which of them belong together.

The rules: every file has a dotted key, by which problems with it are told (`tls.cert`,
`tls.certificates[2].key`, `tls.certificate_dir[a.example.org/tls.crt]`). What is switched off isn't read:
Qdrant's own settings file names certificates that are not there. Must not know: what is in a file.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rekeyd.reload.files import LARGEST, LARGEST_KEY_FILE
from rekeyd.reload.folder import Contents
from rekeyd.settings import Settings, speaks_tls

PASSPHRASE = "tls.key_passphrase_file"  # noqa: S105 - the name of a setting

KEY_FILE, PEPPER = "access.keys_file", "access.pepper_file"


@dataclass(frozen=True, slots=True)
class Pair:
    """The dotted keys of a certificate, its private key, and the file with the passphrase of it (if any)."""

    certificate: str
    key: str
    passphrase: str | None


def files_named_by(settings: Settings) -> dict[str, Path]:
    """The input files by dotted key, without those in `tls.certificate_dir`."""
    tls, service, secure = settings.tls, settings.service, speaks_tls(settings)
    of_others = settings.cluster.p2p.enable_tls or (
        service.enable_tls and service.verify_https_client_certificate
    )
    named = {
        "tls.cert": tls.cert if secure else None,
        "tls.key": tls.key if secure else None,
        PASSPHRASE: tls.key_passphrase_file if secure else None,
        **(dict(_files_listed(settings)) if secure else {}),
        "tls.ca_cert": tls.ca_cert if of_others else None,
        "tls.crl": tls.crl if of_others else None,
        "upstream.ca_cert": settings.upstream.ca_cert,
        "access.jwks_file": settings.access.jwks_file,
        "access.policy": settings.access.policy if isinstance(settings.access.policy, Path) else None,
        KEY_FILE: settings.access.keys_file,
        PEPPER: settings.access.pepper_file if settings.access.keys_file else None,
    }
    return {key: path for key, path in named.items() if path is not None}


def largest(key: str) -> int:
    """How many bytes the file of a dotted key may have."""
    return LARGEST_KEY_FILE if key == KEY_FILE else LARGEST


def folder_named_by(settings: Settings) -> Path | None:
    """`tls.certificate_dir`, where TLS is on."""
    return settings.tls.certificate_dir if speaks_tls(settings) else None


def files_in(contents: Contents) -> dict[str, Path]:
    """The files of the pairs in `tls.certificate_dir`, by dotted key."""
    return {_key_in_folder(name): contents.folder / name for pair in contents.pairs for name in pair}


def paths_named_by(settings: Settings, contents: Contents | None) -> dict[str, Path]:
    """All input files by dotted key, once it is known what is in `tls.certificate_dir`."""
    return {**files_named_by(settings), **(files_in(contents) if contents else {})}


def pairs_named_by(settings: Settings, contents: Contents | None) -> tuple[Pair, ...]:
    """Certificates with their keys: the default, those of the list, those of the folder, in this order."""
    return tuple(_pairs(settings, contents)) if speaks_tls(settings) else ()


def _pairs(settings: Settings, contents: Contents | None) -> Iterator[Pair]:
    tls = settings.tls
    passphrase = PASSPHRASE if tls.key_passphrase_file else None
    if tls.cert and tls.key:
        yield Pair("tls.cert", "tls.key", passphrase)
    for number, files in enumerate(tls.certificates, start=1):
        entry = _entry(number)
        own = f"{entry}.key_passphrase_file" if files.key_passphrase_file else passphrase
        yield Pair(f"{entry}.cert", f"{entry}.key", own)
    for certificate, key in contents.pairs if contents else ():
        yield Pair(_key_in_folder(certificate), _key_in_folder(key), passphrase)


def _files_listed(settings: Settings) -> Iterator[tuple[str, Path | None]]:
    for number, files in enumerate(settings.tls.certificates, start=1):
        entry = _entry(number)
        yield f"{entry}.cert", files.cert
        yield f"{entry}.key", files.key
        yield f"{entry}.key_passphrase_file", files.key_passphrase_file


def _entry(number: int) -> str:
    return f"tls.certificates[{number}]"


def _key_in_folder(name: str) -> str:
    return f"tls.certificate_dir[{name}]"
