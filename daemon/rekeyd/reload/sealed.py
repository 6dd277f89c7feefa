"""A snapshot in sealed memory, for another process: a worker, or ourselves after a restart.

The rules: it is handed over as bytes that were on disk, never as objects, and whoever gets it works the
meaning out anew with the code that reads the disk. The settings are parsed again with the part of the
environment that bears on them, and come to what they come to in the process that reads them (see
`settings.under`). Whatever is damaged, incomplete, too large or of another format is refused whole. It holds
private keys and never touches a disk.

The format: a line with its version; the SHA-256 of all that follows; the length of the header (8 bytes, most
significant first); the header, JSON in ASCII, in which names that are no UTF-8 survive as lone surrogates;
the contents one after the other. Must not know: who hands it over, or what is served.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rekeyd.errors import SettingsError
from rekeyd.reload.files import File
from rekeyd.reload.folder import Contents, Listing, sorted_out
from rekeyd.reload.named import pairs_named_by, paths_named_by
from rekeyd.reload.snapshot import Snapshot
from rekeyd.settings import Parsed, Settings, parse, under, variables_read, with_credentials
from rekeyd.system.sealed_memory import SealError, sealed, unsealed

LARGEST = 512 * 1024 * 1024
"""Bytes: the largest key file and a thousand pairs are a fifth of it."""

_TITLE = b"rekeyd generation "
_FORMAT = 1
_DIGEST, _LENGTH = hashlib.sha256().digest_size, 8

__all__ = ["SealError", "Sealed", "pack", "seal", "unpack", "unseal"]


@dataclass(frozen=True, slots=True)
class Sealed:
    """What was sealed: the snapshot of generation `number`.

    `at` says when, in seconds of the epoch.
    """

    number: int
    at: float
    snapshot: Snapshot


def seal(snapshot: Snapshot, environ: Mapping[str, str], *, number: int) -> int:
    """A descriptor of sealed memory with the snapshot; the caller closes it.

    `environ` is what its settings were parsed with. It blocks for some 50 ms with very many keys.

    Raises:
        OSError: there is no memory left.
        SealError: it is too large to be taken out again.
    """
    pieces = pack(Sealed(number, time.time(), snapshot), variables_read(environ), Path.cwd())
    if sum(map(len, pieces)) > LARGEST:
        raise SealError(f"it is larger than {LARGEST >> 20} MiB")
    return sealed(f"rekeyd-generation-{number}", pieces)


def unseal(descriptor: int, *, running: Settings | None) -> Sealed:
    """What `seal` put there, in a process that runs with these settings (None: as they were sealed).

    The descriptor stays open. Raises `SealError`.
    """
    return unpack(unsealed(descriptor, LARGEST), running=running)


# Values and bytes.


def pack(kept: Sealed, environ: Mapping[str, str], cwd: Path) -> list[bytes]:
    """As bytes, in pieces: those of the files are not copied."""
    snapshot = kept.snapshot
    header = {
        "number": kept.number,
        "at": kept.at,
        "file": snapshot.parsed.file,
        "environ": dict(environ),
        "cwd": os.fspath(cwd),
        "folder": _folder_fields(snapshot.folder),
        "contents": [[key, file.mode, len(file.data)] for key, file in snapshot.contents.items()],
    }
    text = json.dumps(header).encode("ascii")
    body = [len(text).to_bytes(_LENGTH), text, *(file.data for file in snapshot.contents.values())]
    digest = hashlib.sha256()
    for piece in body:
        digest.update(piece)
    return [b"%b%d\n" % (_TITLE, _FORMAT), digest.digest(), *body]


def unpack(data: bytes, *, running: Settings | None = None) -> Sealed:
    """The other way. Raises `SealError`."""
    body = memoryview(data)[len(_checked_title(data)) :]
    if hashlib.sha256(body[_DIGEST:]).digest() != body[:_DIGEST]:
        raise SealError("it is damaged")
    length = int.from_bytes(body[_DIGEST : _DIGEST + _LENGTH])
    begin = _DIGEST + _LENGTH
    try:
        header = json.loads(bytes(body[begin : begin + length]))
        contents = dict(_contents(header["contents"], body[begin + length :]))
        folder = _folder_of(header["folder"])
        source = contents.pop("")
        parsed = _parsed(header, source.data, running)
        snapshot = _snapshot(parsed, source, contents, folder)
        return Sealed(int(header["number"]), float(header["at"]), snapshot)
    except (KeyError, TypeError, ValueError, AttributeError):
        raise SealError("its header makes no sense") from None


def _checked_title(data: bytes) -> bytes:
    title, newline, _ = data[: len(_TITLE) + 20].partition(b"\n")
    if not (newline and title.startswith(_TITLE)):
        raise SealError("it is no generation of rekeyd's")
    if title != b"%b%d" % (_TITLE, _FORMAT):
        raise SealError("it was sealed by another version of rekeyd")
    return title + newline


def _contents(entries: list[tuple[str, int, int]], data: memoryview) -> Iterator[tuple[str, File]]:
    for key, mode, size in entries:
        yield key, File(bytes(data[:size]), mode)
        data = data[size:]


def _parsed(header: Mapping[str, Any], source: bytes, running: Settings | None) -> Parsed:
    try:
        parsed = parse(source, file=Path(header["file"]), environ=header["environ"], cwd=Path(header["cwd"]))
        return under(parsed, running) if running else parsed
    except SettingsError as error:
        told = " ".join(map(str, error.problems))
        raise SealError(f"its settings are of no use now: {told.removesuffix('.')}") from None


def _snapshot(
    parsed: Parsed, source: File, contents: Mapping[str, File], folder: Contents | None
) -> Snapshot:
    """Of what a setting that waits for a restart has switched off meanwhile nothing is left."""
    paths = paths_named_by(parsed.settings, folder)
    if absent := sorted(paths.keys() - contents.keys()):
        raise SealError(f"it does not hold what the settings name now ({', '.join(absent)})")
    named = {key: contents[key] for key in paths}
    parsed, unusable = with_credentials(parsed, {key: file.data for key, file in named.items()})
    if unusable:
        raise SealError("one of its credentials can't be used")
    return Snapshot(parsed, paths, {"": source, **named}, pairs_named_by(parsed.settings, folder), folder)


def _folder_fields(contents: Contents | None) -> dict[str, Any] | None:
    if contents is None:
        return None
    listing = contents.listing
    return {
        "path": os.fspath(contents.folder),
        "files": list(listing.files),
        "folders": {name: list(files) for name, files in listing.folders.items()},
    }


def _folder_of(fields: Mapping[str, Any] | None) -> Contents | None:
    if fields is None:
        return None
    folders = {name: tuple(files) for name, files in fields["folders"].items()}
    return sorted_out(Path(fields["path"]), Listing(tuple(fields["files"]), folders))
