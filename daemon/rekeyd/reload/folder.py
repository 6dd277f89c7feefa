"""`tls.certificate_dir`: which certificates and keys are in a folder.

The rules. In the folder itself `NAME.crt` (or `.pem`, `.cert`) and `NAME.key` are a pair. In each folder
within it `tls.crt` and `tls.key` are one, and `fullchain.pem` and `privkey.pem`; other files there mean
nothing, nor does a folder without these. Half a pair is told, for it is the middle of a change or a mistake;
so are two certificates for one key. What begins with a dot is passed over, and so is `ca.crt` where it has no
key: it lies beside the pairs of many tools. Pairs come in the order of their names. Must not know: what is in
a file.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from rekeyd.reload.files import list_folder

_ENDINGS = (".crt", ".pem", ".cert")
_KEY = ".key"
_WITHIN = (("tls.crt", "tls.key"), ("fullchain.pem", "privkey.pem"))
_AUTHORITY = "ca"
_NO_FOLDERS_OF_OURS = frozenset({"lost+found"})


@dataclass(frozen=True, slots=True)
class Listing:
    """The names in a folder, sorted: files, and for each folder the files in it."""

    files: tuple[str, ...]
    folders: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Half:
    """A file without the one that belongs to it; names are relative to the folder."""

    name: str
    message: str
    fix: str


@dataclass(frozen=True, slots=True)
class Contents:
    """What is in the folder: pairs as (certificate, key), names relative to it, and what is no pair."""

    folder: Path
    listing: Listing
    pairs: tuple[tuple[str, str], ...]
    halves: tuple[Half, ...]

    @property
    def folders(self) -> tuple[Path, ...]:
        """The folder and those within it: where files may come and go."""
        return (self.folder, *(self.folder / name for name in self.listing.folders))


def contents_of(folder: Path) -> Contents:
    """Look into the folder now. Raises `UnreadableError`."""
    top = list_folder(folder)
    within = [name for name in top.folders if name not in _NO_FOLDERS_OF_OURS]
    listing = Listing(top.files, {name: list_folder(folder / name).files for name in within})
    return sorted_out(folder, listing)


def sorted_out(folder: Path, listing: Listing) -> Contents:
    """The pairs and halves in a listing. Looks at nothing."""
    found = [*_at_the_top(listing.files)]
    for name, files in listing.folders.items():
        found += _in_a_folder(name, files)
    pairs = sorted((each for each in found if isinstance(each, tuple)), key=_name)
    return Contents(folder, listing, tuple(pairs), tuple(each for each in found if isinstance(each, Half)))


def _name(pair: tuple[str, str]) -> str:
    """Of `a.crt` and of `a/tls.crt` it is `a`."""
    path = PurePath(pair[0])
    return str(path.parent) if path.parent.name else path.stem


def _at_the_top(files: tuple[str, ...]) -> Iterator[tuple[str, str] | Half]:
    there = set(files)
    certificates: dict[str, list[str]] = {}
    for ending in _ENDINGS:
        for name in files:
            if name.endswith(ending) and name != ending:
                certificates.setdefault(name.removesuffix(ending), []).append(name)
    for name, found in certificates.items():
        key = f"{name}{_KEY}"
        if key in there:
            yield found[0], key
            yield from (_one_too_many(other, found[0], key) for other in found[1:])
        elif name != _AUTHORITY:
            yield from (_without_key(each, key) for each in found)
    for key in files:
        if key.endswith(_KEY) and key.removesuffix(_KEY) not in certificates:
            yield _without_certificate(key, f"{key.removesuffix(_KEY)}{_ENDINGS[0]}")


def _in_a_folder(folder: str, files: tuple[str, ...]) -> Iterator[tuple[str, str] | Half]:
    there = set(files)
    for certificate, key in _WITHIN:
        if certificate in there and key in there:
            yield f"{folder}/{certificate}", f"{folder}/{key}"
        elif certificate in there:
            yield _without_key(f"{folder}/{certificate}", f"{folder}/{key}")
        elif key in there:
            yield _without_certificate(f"{folder}/{key}", f"{folder}/{certificate}")


def _without_key(certificate: str, key: str) -> Half:
    return Half(
        certificate, f"there is no key for it ({key})", "Put the key there, or remove the certificate"
    )


def _without_certificate(key: str, certificate: str) -> Half:
    return Half(
        key,
        f"there is no certificate for it ({certificate})",
        "Put the certificate there, or remove the key",
    )


def _one_too_many(certificate: str, taken: str, key: str) -> Half:
    return Half(
        certificate, f"{taken} is the certificate of {key} already", "Remove one of the two, or rename it"
    )
