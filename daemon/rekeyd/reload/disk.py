"""The disk to a candidate: the settings file and all that it names, as one consistent snapshot of bytes.

The rule: all files are read and all folders listed, then once more; only when nothing differs are the bytes
parsed (`interpretation.py`), and nothing is read a third time: what is judged is what is served. A change
that is seen half way through is waited out for a moment. Either there is a whole candidate or every problem
at once.

Files that can't be read and settings that make no sense raise `SettingsError`. `rekeyd check`, the start and
each reload run this very code. Must not know: what is served.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.files import File, UnreadableError, read_file
from rekeyd.reload.folder import Contents, contents_of
from rekeyd.reload.interpretation import Interpreter
from rekeyd.reload.named import folder_named_by, largest, pairs_named_by, paths_named_by
from rekeyd.reload.snapshot import Snapshot
from rekeyd.settings import Parsed, Settings, parse, under
from rekeyd.trust.generation import Candidate

ATTEMPTS = 10
PAUSE = 0.02  # seconds
UNREADABLE = "unreadable"
"""The rule that a file which can't be read breaks."""


@dataclass(frozen=True, slots=True)
class _Reading:
    """One pass over the files, whatever came of it. Two equal ones make a snapshot."""

    parsed: Parsed | None = field(compare=False)
    source: bytes = field(repr=False)
    paths: Mapping[str, Path] = field(default_factory=dict)
    contents: Mapping[str, File] = field(default_factory=dict, repr=False)
    folder: Contents | None = None
    problems: tuple[Problem, ...] = ()


class Disk:
    """Where candidates come from: a settings file, the environment, and the files that they name.

    One thread at a time may call `load` or `snapshot`. `paths` may be read at any time.
    """

    def __init__(self, file: Path, environ: Mapping[str, str]) -> None:
        self._file = file.absolute()
        self._environ = dict(environ)
        self._running: Settings | None = None
        self._last_parsed: tuple[bytes, Parsed] | None = None
        self._interpreter = Interpreter()
        self._loaded: Snapshot | None = None
        self.paths: tuple[Path, ...] = (self._file,)
        """What the last attempt looked at, even if it failed: the files and folders to watch."""

    @property
    def environ(self) -> Mapping[str, str]:
        """The environment that settings are read from as well."""
        return self._environ

    @property
    def parsed(self) -> Parsed | None:
        """The last settings that could be used, with what was said about them."""
        return self._last_parsed[1] if self._last_parsed else None

    def pin(self, running: Settings) -> None:
        """From now on what a reload can't change stays as it is in `running` (see `settings.under`)."""
        self._running = running
        self._last_parsed = None

    def load(self) -> Candidate:
        """What the files say now. Raises `SettingsError`. It blocks for milliseconds: call it in a thread."""
        self._loaded = None
        snapshot = self.snapshot()
        candidate = self._interpreter.candidate(snapshot)
        self._loaded = snapshot
        return candidate

    def take_snapshot(self) -> Snapshot | None:
        """What the last candidate was made of, once: it is not kept, for its files may be large.

        None where there was no candidate, or somebody has it already.
        """
        loaded, self._loaded = self._loaded, None
        return loaded

    def snapshot(self) -> Snapshot:
        """All bytes, seen the same twice in a row. Raises `SettingsError`."""
        before = self._read_all()
        for _ in range(ATTEMPTS):
            again = self._read_all()
            if again == before:
                return self._whole(again)
            before = again
            threading.Event().wait(PAUSE)
        raise SettingsError(
            [
                Problem(
                    str(self._file),
                    "",
                    "it or a file that it names keeps changing while it is read",
                    "Try again",
                    "unsteady",
                )
            ]
        )

    def _read_all(self) -> _Reading:
        try:
            source = read_file(self._file).data
        except UnreadableError as error:
            return _Reading(None, b"", problems=(_unreadable(str(self._file), "", error),))
        try:
            parsed = self._parsed(source)
        except SettingsError as error:
            return self._read_despite(error, source)
        folder, unlisted = _look_into(folder_named_by(parsed.settings))
        paths = paths_named_by(parsed.settings, folder)
        self.paths = (self._file, *paths.values(), *_folders(parsed.settings, folder))
        contents, unreadable = _read_named(paths)
        problems = (
            replace(parsed.problem(key, why.message, why.fix), rule=UNREADABLE)
            for key, why in (unreadable | unlisted).items()
        )
        return _Reading(parsed, source, paths, contents, folder, tuple(problems))

    def _read_despite(self, error: SettingsError, source: bytes) -> _Reading:
        """The settings are of no use; what is wrong with the files that they seem to name is told as well."""
        paths = self._files_named_in(source)
        self.paths = tuple(dict.fromkeys((self._file, *paths.values(), *self.paths)))
        contents, unreadable = _read_named(paths)
        problems = (_unreadable(str(self._file), key, why) for key, why in unreadable.items())
        return _Reading(None, source, paths, contents, problems=(*error.problems, *problems))

    def _parsed(self, source: bytes) -> Parsed:
        """The same bytes are parsed once: a certificate that rotates leaves the settings as they were."""
        if self._last_parsed is None or self._last_parsed[0] != source:
            parsed = parse(source, file=self._file, environ=self._environ)
            self._last_parsed = (source, under(parsed, self._running) if self._running else parsed)
        return self._last_parsed[1]

    def _files_named_in(self, source: bytes) -> dict[str, Path]:
        """A guess: certificate and key, if TLS is on and the environment does not say otherwise."""
        try:
            tree = yaml.safe_load(source)
        except (yaml.YAMLError, ValueError, RecursionError):
            return {}
        if not _at(tree, "service.enable_tls"):
            return {}
        wanted = ("tls.cert", "tls.key")
        overridden = {
            f"{prefix}__{key.replace('.', '__')}".upper() for key in wanted for prefix in ("rekeyd", "qdrant")
        }
        if overridden & self._environ.keys():
            return {}
        named = {key: _at(tree, key) for key in wanted}
        return {
            key: self._file.parent / path for key, path in named.items() if path and isinstance(path, str)
        }

    def _whole(self, reading: _Reading) -> Snapshot:
        if reading.parsed is None:
            raise SettingsError(reading.problems)
        snapshot = Snapshot(
            reading.parsed,
            reading.paths,
            {"": File(reading.source), **reading.contents},
            pairs_named_by(reading.parsed.settings, reading.folder),
            reading.folder,
        )
        if reading.problems:
            raise SettingsError([*reading.problems, *self._interpreter.problems(snapshot)])
        return snapshot


def _look_into(folder: Path | None) -> tuple[Contents | None, dict[str, UnreadableError]]:
    try:
        return contents_of(folder) if folder else None, {}
    except UnreadableError as error:
        return None, {"tls.certificate_dir": error}


def _folders(settings: Settings, contents: Contents | None) -> tuple[Path, ...]:
    """Also where it is gone: there it must come back."""
    named = folder_named_by(settings)
    return contents.folders if contents else (named,) if named else ()


def _read_named(paths: Mapping[str, Path]) -> tuple[dict[str, File], dict[str, UnreadableError]]:
    contents, unreadable = {}, {}
    for key, path in paths.items():
        try:
            contents[key] = read_file(path, largest(key))
        except UnreadableError as error:
            unreadable[key] = error
    return contents, unreadable


def _unreadable(file: str, key: str, why: UnreadableError) -> Problem:
    return Problem(file, key, why.message, why.fix, UNREADABLE)


def _at(tree: Any, key: str) -> Any:
    for name in key.split("."):
        tree = tree.get(name) if isinstance(tree, dict) else None
    return tree
