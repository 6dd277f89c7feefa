"""The key file: which keys there are, what each may do, and the digests of their secrets.

    pepper: "1a2b3c4d"                  # only where digests are hmac-sha256: which pepper they are under
    revoked_tokens: [jti]               # ids of tokens that are not accepted any more
    keys:
      - id: ingest
        right: write                    # or instead: collections: {books: read, logs-*: points}
        paths: [/collections/books]
        networks: [10.0.0.0/8]
        rate: 50
        note: the nightly import
        secrets:
          - digest: sha256:…            # or hmac-sha256:…
            not_before: 2026-12-01
            expires: 2027-03-01T12:00:00Z
    ...

The rules: every problem is told at once, with its place and the fix. What the file says is never repeated,
for a secret may stand in any wrong place; only the id of a sound key and the known name that an unknown one
comes near are. Whatever is not understood refuses the whole file: half of its keys would be other keys.

A YAML file that was cut off at the end of a line is YAML still, with fewer keys. So its last line must be
`...`, YAML's own mark for the end of a document: without it the file is torn. JSON ends with its bracket.

Pure. Must not know: what else is configured, the pepper, or what time it is.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rekeyd.access.key_entries import Complaint, Entries
from rekeyd.access.keys import Credential
from rekeyd.errors import Problem, SettingsError
from rekeyd.formats.json_keys import TornJsonError, UnsoundJsonError, members_of
from rekeyd.settings.kinds import is_word
from rekeyd.settings.yaml_source import Document, read_yaml

END = b"..."
"""The last line of a key file in YAML."""
TOLD = 50
"""Problems that are told one by one."""
_MEMBERS = ("pepper", "revoked_tokens", "keys")
_EMPTY = "Write `keys:` with the keys, or remove `access.keys_file`"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """What the file says. A key's secrets follow one another, each a credential with the key's id.

    `notes` is by id; `pepper` is the id of that under which digests are, where there are such (`peppered`).
    """

    credentials: tuple[Credential, ...] = field(default=(), repr=False)
    notes: Mapping[str, str] = field(default_factory=dict)
    pepper: str | None = None
    peppered: bool = False
    revoked_tokens: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class KeyOrigin:
    """Whence keys came: the key file and that of the pepper, with the bits of their modes that say who may
    do what with them, and the id of the pepper that there is."""

    file: str = ""
    mode: int = 0o600
    pepper_file: str = ""
    pepper_mode: int = 0o600
    pepper: str | None = None


NO_KEY_FILE = KeyOrigin()


def is_json(file: str) -> bool:
    """Whether the name of a file says that it is JSON; else it is YAML."""
    return file.lower().endswith(".json")


def parse_key_file(source: bytes, *, file: str) -> KeyFile:
    """Read a whole key file. What is torn or no YAML or JSON breaks other rules than what makes no sense.

    Raises:
        SettingsError: with every problem found.
    """
    if not source.strip():
        raise SettingsError([Problem(file, "", "is empty", _EMPTY, "empty")])
    reading = _Reading(file)
    try:
        found = reading.key_file(reading.members(source))
    except TornJsonError:
        fix = "If it is not being written just now, write it anew"
        raise SettingsError([Problem(file, "", "breaks off", fix, "keys_torn")]) from None
    except UnsoundJsonError as error:
        fix = "Look at the commas, quotes and brackets there"
        message = f"is not valid JSON ({error})"
        raise SettingsError([Problem(file, "", message, fix, "unparsable")]) from None
    if reading.problems:
        raise SettingsError(reading.told())
    return found


@dataclass(slots=True)
class _Reading:
    """One file, the lines of what is in it where they are known, and what is wrong with it."""

    file: str
    lines: Mapping[str, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    untold: int = 0

    def complain(self, complaint: Complaint) -> None:
        if len(self.problems) >= TOLD:
            self.untold += 1
            return
        line = self._line_of(complaint.place)
        message = f"{complaint.message} (line {line})" if line else complaint.message
        self.problems.append(Problem(self.file, complaint.place, message, complaint.fix, "keys_invalid"))

    def _line_of(self, place: str) -> int | None:
        """Of what is missing, that of what it is missing from."""
        while place and place not in self.lines:
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        return self.lines.get(place)

    def told(self) -> list[Problem]:
        more = f"has {self.untold} more problems"
        rest = [Problem(self.file, "", more, "Mend these first", "keys_invalid")] if self.untold else []
        return [*self.problems, *rest]

    def members(self, source: bytes) -> Iterator[tuple[str, Any]]:
        """What stands at the top level. Of `keys` it may be an iterator that is to be used up at once."""
        if is_json(self.file):
            yield from members_of(source, streamed="keys")
            return
        if source.rstrip().rpartition(b"\n")[2] != END:
            message = "does not end with a line `...`, so it may have been cut off"
            fix = "Make that its last line, if it is whole"
            raise SettingsError([Problem(self.file, "", message, fix, "keys_torn")])
        document = _yaml(source, self.file)
        self.lines = document.lines
        for problem in document.problems:
            self.problems.append(replace(problem, rule="keys_invalid"))
        yield from document.tree.items()

    def key_file(self, members: Iterable[tuple[str, Any]]) -> KeyFile:
        entries = Entries(self.complain)
        pepper, revoked = None, frozenset[str]()
        for name, value in members:
            match name:
                case "pepper":
                    pepper = entries.pepper(value)
                case "revoked_tokens":
                    revoked = entries.revoked_tokens(value)
                case "keys":
                    entries.keys(value)
                case _:
                    entries.unknown("", name, _MEMBERS)
        if entries.peppered and pepper is None:
            fix = "Add it: `rekeyd keys new` writes it, or correct the digests"
            self.complain(Complaint("pepper", "must name the pepper of the hmac-sha256 digests", fix))
        credentials = tuple(entries.credentials)
        return KeyFile(credentials, entries.notes, pepper, entries.peppered, revoked)


def _yaml(source: bytes, file: str) -> Document:
    try:
        return read_yaml(source, file, is_name=_may_be_named)
    except SettingsError as error:
        raise SettingsError([replace(problem, rule="unparsable") for problem in error.problems]) from None


def _may_be_named(place: str, name: str) -> bool:
    """Collections are called what they are called."""
    return place.endswith(".collections") or is_word(name)
