"""The key file on the disk, as the commands see it: found through the settings, read, changed, put back.

The rules: a change is made while nobody else makes one, to what is there now; what is there must be sound,
and so must what is written, by the very parser that the daemon has. The file is replaced whole. Then a daemon
that runs is asked to reload, and what it says is told as it is.

Must not know: which change is made, or how anything is printed.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rekeyd.access.key_file import is_json
from rekeyd.commands.key_edits import NEW_JSON, NEW_YAML, Edit, edited
from rekeyd.errors import Problem, SettingsError
from rekeyd.reload.credentials import read_credentials, unreadable
from rekeyd.reload.files import LARGEST_KEY_FILE, File, UnreadableError, read_file
from rekeyd.reload.keyring import Keys, keys_of
from rekeyd.reload.named import KEY_FILE, PEPPER
from rekeyd.settings import Parsed, parse
from rekeyd.system.admin_client import NoDaemon, ask, socket_named_by
from rekeyd.system.replacing import locked, real, replace_file
from rekeyd.system.state import folder_named_by
from rekeyd.telemetry.evidence import LARGEST, NewerUsageError, NotUsageError, Usage, usage_in
from rekeyd.telemetry.keeping import FILE

_UNSET = "is not set, so there is no key file to work on"


@dataclass(frozen=True, slots=True)
class Store:
    """The key file at `path`. `socket` is where a daemon answers, if any."""

    parsed: Parsed = field(repr=False)
    path: Path
    socket: Path | None
    state: Path | None = None
    """Where a daemon keeps what outlives it."""
    left_out: tuple[Problem, ...] = ()
    """Why static keys are not among the keys: they are credentials of systemd's that can't be read here."""
    asked_with: Path | None = None
    """The settings file that the daemon is to run with; None: whichever."""

    @classmethod
    def named_in(
        cls,
        config: Path,
        environ: Mapping[str, str],
        socket: Path | None,
        asked_with: Path | None = None,
    ) -> "Store":
        """As the settings say; `socket` before theirs. Raises `SettingsError`."""
        try:
            source = read_file(config.absolute()).data
        except UnreadableError as error:
            raise SettingsError([Problem(str(config), "", error.message, error.fix)]) from None
        parsed, problems = read_credentials(parse(source, file=config.absolute(), environ=environ))
        path = parsed.settings.access.keys_file
        if path is None:
            fix = "Name a file, such as `keys.yaml`, in the section `access`; it is made where it is missing"
            raise SettingsError([parsed.problem(KEY_FILE, _UNSET, fix)])
        settings = parsed.settings
        asked = socket or socket_named_by(settings.admin, environ)
        state = folder_named_by(settings.state, environ)
        left_out = tuple(problem for problem in problems if problem.key.startswith("service."))
        return cls(parsed, path, asked, state, left_out, asked_with)

    def read(self) -> Keys:
        """All keys, the static ones among them. Raises `SettingsError`."""
        return self._keys(self._file(missing=None))

    def change(self, change: Callable[[Keys], Iterable[Edit]], *, create: bool = False) -> None:
        """Make the edits that `change` wants, once it has seen the keys; what it raises goes on.

        `create`: where there is no file, a new one is begun.

        Raises:
            SettingsError: what is there, or would be written, can't be used.
            EditError, ReplaceError: it could not be done.
        """
        with locked(self.path):
            file = self._file(missing=(NEW_JSON if is_json(str(self.path)) else NEW_YAML) if create else None)
            keys = self._keys(file)
            made = edited(file.data, str(self.path), change(keys))
            self._keys(File(made))
            replace_file(self.path, made)

    def _file(self, *, missing: bytes | None) -> File:
        try:
            if missing is not None and not real(self.path).exists():
                return File(missing)
            return read_file(self.path, LARGEST_KEY_FILE)
        except UnreadableError as error:
            raise SettingsError([self._unreadable(KEY_FILE, self.path, error)]) from None

    def _unreadable(self, key: str, path: Path, why: UnreadableError) -> Problem:
        return unreadable(self.parsed, key, path, why) or self.parsed.problem(key, why.message, why.fix)

    def _keys(self, file: File) -> Keys:
        keys = keys_of(self.parsed.settings, file, self._pepper())
        named = keys.key_file.pepper if keys.key_file else None
        if None not in (named, keys.pepper) and named != keys.ring.pepper_id:
            message = f"holds the pepper {keys.ring.pepper_id}, and {self.path} names the pepper {named}"
            fix = "Put the pepper back that the digests were made with"
            raise SettingsError([self.parsed.problem(PEPPER, message, fix)])
        if keys.key_file and keys.key_file.peppered and keys.pepper is None:
            message = f"is not set, and {self.path} has hmac-sha256 digests"
            raise SettingsError([self.parsed.problem(PEPPER, message, "Name the file of their pepper")])
        return keys

    def _pepper(self) -> File | None:
        path = self.parsed.settings.access.pepper_file
        if path is None:
            return None
        try:
            return read_file(path)
        except UnreadableError as error:
            raise SettingsError([self._unreadable(PEPPER, path, error)]) from None

    def reload(self) -> tuple[bool, list[str]]:
        """Ask a daemon that runs to take it up: whether nothing was refused, and what came of it."""
        later = "if a daemon runs it looks by itself, else it takes effect at its next start"
        if self.socket is None:
            return True, [f"admin.socket is null, so no daemon was asked: {later}"]
        try:
            _, answer = ask(self.socket, "POST", "/reload", settings=self.asked_with)
        except NoDaemon as error:
            return True, [f"{error}: {later}"]
        match answer.get("outcome"):
            case "applied" | "unchanged":
                return True, [f"generation {answer.get('generation')} is served"]
            case "refused":
                return False, [str(line) for line in answer.get("lines", ())]
        return False, [f"{self.socket}: the daemon's answer is not understood, see `rekeyd status`"]

    def usage(self) -> Usage | None:
        """What a daemon left behind of the use of keys; None where there is nothing to be read."""
        if self.state is None:
            return None
        try:
            return usage_in(read_file(self.state / FILE, LARGEST).data)
        except (UnreadableError, NotUsageError, NewerUsageError):
            return None

    def status(self) -> Mapping[str, object]:
        """What a daemon that runs says of itself; nothing where there is none."""
        if self.socket is None:
            return {}
        try:
            return ask(self.socket, "GET", "/status", settings=self.asked_with)[1]
        except NoDaemon:
            return {}
